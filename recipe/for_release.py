"""Print the recipe for conda-forge with the version and the checksum of an sdist, and the names of its maintainers.

    python recipe/for_release.py dist/cdropout-VERSION.tar.gz MAINTAINER [MAINTAINER ...] > recipe.yaml

The maintainers are GitHub accounts: conda-forge gives them the right to merge into the package's repository. The sdist
must be that at the package index, because the recipe has its address there and the SHA-256 of its bytes.
"""

import argparse
import hashlib
import re
import sys
from pathlib import Path

RECIPE = Path(__file__).with_name("recipe.yaml")


def recipe_for(sdist: Path, maintainers: list[str]) -> str:
    """Return the text of the recipe, with every placeholder replaced.

    Parameters
    ----------
    sdist : Path
        The file of the sdist, named `cdropout-VERSION.tar.gz`.
    maintainers : list of str
        GitHub accounts.

    Raises
    ------
    ValueError
        Where the file has another name, or the recipe does not have a placeholder exactly once.

    """
    named = re.fullmatch(r"cdropout-([0-9][0-9a-z.]*)\.tar\.gz", sdist.name)
    if named is None:
        raise ValueError(f"sdist must be named cdropout-VERSION.tar.gz, got {sdist.name}")
    text = RECIPE.read_text(encoding="utf-8")
    names = "".join(f"\n    - {name}" for name in maintainers)
    for placeholder, value in (
        (r'(?<=\n  version: )"[^"\n]*"', f'"{named[1]}"'),
        (r'(?<=\n  sha256: )"0{64}"', f'"{hashlib.sha256(sdist.read_bytes()).hexdigest()}"'),
        (r"(?<=\n  recipe-maintainers:)\n    - cdropout-developers(?=\n)", names),
        (r"\A(?:#[^\n]*\n)+", ""),  # the comment is about the file in this repository
    ):
        text, n_replaced = re.subn(placeholder, value, text)
        if n_replaced != 1:
            raise ValueError(f"recipe.yaml must match {placeholder} once, got {n_replaced} matches")
    return text


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sdist", type=Path, help="dist/cdropout-VERSION.tar.gz")
    parser.add_argument("maintainers", nargs="+", metavar="MAINTAINER", help="a GitHub account")
    arguments = parser.parse_args()
    try:
        sys.stdout.write(recipe_for(arguments.sdist, arguments.maintainers))
    except (OSError, ValueError) as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
