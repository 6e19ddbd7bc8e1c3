"""Code blocks, commands and links of the project's pages. As a program, it runs a page's Python blocks.

    python tests/pages.py PAGE SKIPPED

runs the Python blocks of PAGE in order, in one namespace, and writes to SKIPPED, as JSON, the blocks that it skipped
because an optional package is missing.
"""

import ast
import doctest
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[1]
# Packages that a page may need and that may be missing. A block fails if it needs any other missing package.
OPTIONAL_PACKAGES = {
    *("torch", "thinc", "spacy", "keras", "jax", "flax", "equinox", "dask", "distributed", "mpi4py", "ray", "joblib"),
    *("albumentations", "torchvision", "transformers"),
    *("matplotlib", "sklearn", "ml_dtypes", "rich", "threadpoolctl", "tqdm"),
}


@dataclass(frozen=True)
class Block:
    """A fenced or indented code block.

    Attributes
    ----------
    page : Path
        The block's page.
    line : int
        Number of the first line of code, from 1.
    language : str
        Language of the fence; "" for a fence without one and for indented blocks.
    code : str
        Text of the block.

    """

    page: Path
    line: int
    language: str
    code: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT).as_posix()}:{self.line}"


def all_pages() -> list[Path]:
    """Return every page of the project."""
    found = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")]
    return sorted(page for page in found if "_build" not in page.parts)


def blocks_of(page: Path) -> list[Block]:
    """Return a page's code blocks, in order."""
    tokens = MarkdownIt("commonmark").enable("table").parse(page.read_text())
    return [
        Block(page, token.map[0] + (2 if token.type == "fence" else 1), (token.info.split() or [""])[0], token.content)
        for token in tokens
        if token.type in ("fence", "code_block") and token.map is not None
    ]


def inline_tokens(page: Path, kind: str) -> Iterator[Any]:
    """Yield a page's tokens of an inline kind: code_inline, link_open or image."""
    for token in MarkdownIt("commonmark").enable("table").parse(page.read_text()):
        yield from (child for child in token.children or () if child.type == kind)


def run(command: list[str], folder: Path, seconds: float, **env: str) -> "subprocess.CompletedProcess[str]":
    """Run a command in a folder, for so many seconds at most, with what is added to the environment."""
    options = {"capture_output": True, "text": True, "check": False}
    return subprocess.run(command, cwd=folder, env={**os.environ, **env}, timeout=seconds, **options)


# ---- commands -------------------------------------------------------------------------------------------------------


def command_lines(block: Block) -> list[tuple[str, str]]:
    """Return a shell block's command lines, each with the output below it ("" in blocks without prompts)."""
    code = block.code.replace("\\\n", " ")
    if block.language != "console":
        lines = (line.strip() for line in code.splitlines())
        return [(line, "") for line in lines if line and not line.startswith("#")]
    parts = re.split(r"^\$ (.*)\n", code, flags=re.MULTILINE)
    assert parts[0] == "", f"{block} must begin with a prompt"
    return list(zip(parts[1::2], parts[2::2], strict=True))


def simple_commands(line: str) -> list[list[str]]:
    """Split a command line at pipes, && and the like, and remove assignments in front and redirections."""
    words = list(shlex.shlex(line, posix=True, punctuation_chars="&|;<>"))
    commands: list[list[str]] = [[]]
    skip_next = False
    for word in words:
        if skip_next:
            skip_next = False
        elif word in ("<", ">", ">>"):
            skip_next = True
        elif set(word) <= set("&|;"):
            commands.append([])
        elif commands[-1] or not re.fullmatch(r"[A-Z_]+=.*", word):
            commands[-1].append(word)
    return [command for command in commands if command]


# ---- running a page's Python ----------------------------------------------------------------------------------------


def missing_package(error: BaseException) -> str | None:
    """Return the optional package that an import error names, if it is not installed; otherwise None."""
    for cause in (error, error.__cause__):
        name = (getattr(cause, "name", None) or "").partition(".")[0]
        if name in OPTIONAL_PACKAGES and importlib.util.find_spec(name) is None:
            return name
    return None


def names_in(code: str) -> tuple[set[str], set[str]]:
    """Return the names that code binds, and those that it loads without importing them."""
    if code.lstrip().startswith(">>>"):
        code = "".join(example.source for example in doctest.DocTestParser().get_examples(code))
    bound, imported, loaded = set(), set(), set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Name):
            (loaded if isinstance(node.ctx, ast.Load) else bound).add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, ast.alias):
            imported.add((node.asname or node.name).partition(".")[0])
    return bound | imported, loaded - imported


def run_block(block: Block, namespace: dict[str, Any]) -> None:
    """Run a Python block; a block with prompts must print the output that it shows."""
    if not block.code.lstrip().startswith(">>>"):
        # With empty lines in front, a traceback has the page's line numbers.
        exec(compile("\n" * (block.line - 1) + block.code, str(block.page), "exec"), namespace)
        return
    examples = doctest.DocTestParser().get_examples(block.code)
    test = doctest.DocTest(examples, namespace, block.page.name, str(block.page), block.line - 1, block.code)
    try:
        doctest.DebugRunner(optionflags=doctest.ELLIPSIS).run(test, clear_globs=False)
    except doctest.UnexpectedException as unexpected:
        raise unexpected.exc_info[1] from None
    except doctest.DocTestFailure as failure:
        at = f"{block.page}:{block.line + failure.example.lineno}"
        raise AssertionError(
            f"{at}: {failure.example.source}must print\n{failure.example.want}and printed\n{failure.got}"
        ) from None
    namespace.update(test.globs)


def run_page(page: Path) -> list[str]:
    """Run a page's Python blocks in order, in one namespace; return the skipped blocks with the reasons.

    A block is skipped if it needs an optional package that is missing, or a name from a skipped block.
    """
    namespace: dict[str, Any] = {"__name__": "__page__"}
    skipped: list[str] = []
    lost: dict[str, str] = {}  # name -> the package that it needs
    for block in blocks_of(page):
        if block.language != "python":
            continue
        bound, loaded = names_in(block.code)
        package = next((lost[name] for name in sorted(loaded & lost.keys())), None)
        if package is None:
            try:
                run_block(block, namespace)
            except ImportError as error:
                package = missing_package(error)
                if package is None:
                    raise
        if package is not None:
            skipped.append(f"{block} needs {package}")
            lost |= dict.fromkeys(bound - namespace.keys(), package)
        else:
            lost = {name: needed for name, needed in lost.items() if name not in bound}
    return skipped


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(run_page(Path(sys.argv[1]))))
