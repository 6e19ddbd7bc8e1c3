"""`python -m benchmarks QUESTION [options]`; `--help` lists the questions."""

import sys
from pathlib import Path

# `python -m` puts the current folder first on sys.path: the checkout, whose folder `cdropout/` has no compiled core
# unless it was built in place, and would hide the installed package. At the end of the path it hides no other folder,
# and `benchmarks` and `examples` can still be imported. The import comes in between because an editable install is found
# after all of the path.
if Path(sys.path[0]).resolve() == Path(__file__).resolve().parents[1]:
    checkout = sys.path.pop(0)
    import cdropout  # noqa: F401

    sys.path.append(checkout)

from benchmarks.command_line import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
