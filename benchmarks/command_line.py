"""Parse the command line of all questions, and run the chosen one.

A question is a module of this package. The first line of its docstring is its help text. `SHARED_OPTIONS` holds the
defaults of the options that other questions have too; `add_options(parser)`, if there is one, adds all others; and
`run(arguments)` measures, prints, and returns the exit status (None means 0). Only the module of the chosen question is
imported: others may need packages that are not installed.
"""

import argparse
import ast
import functools
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.options import UsageError, add_shared

PROG = "python -m benchmarks"
QUESTIONS = (
    *("compare", "floor", "family", "threads", "training-share", "frameworks", "jax", "keras", "attention", "serving"),
    *("feature-linear", "parts", "memmap", "dask", "interrupts", "stores", "import-time", "c-api", "instructions"),
    *("busy-machine", "torch-calls", "torch-models", "monte-carlo", "compact", "tables", "masks", "optimizers"),
    "instruction-sets",
)


def module_name(question: str) -> str:
    """Return the name of a question's module within the package."""
    return question.replace("-", "_")


def docstring_of(question: str) -> str:
    """Read the docstring of a question's module without importing it."""
    source = Path(__file__).with_name(f"{module_name(question)}.py").read_text(encoding="utf-8")
    return ast.get_docstring(ast.parse(source)) or ""


def build_parser(chosen: str | None = None) -> argparse.ArgumentParser:
    """Build the parser of the command line, with all options of the chosen question."""
    parser = argparse.ArgumentParser(
        prog=PROG,
        description=f"Measure the speed of dropout. `{PROG} QUESTION --help` lists the options of a question.",
        formatter_class=functools.partial(argparse.HelpFormatter, width=120, max_help_position=28),
    )
    questions = parser.add_subparsers(metavar="QUESTION [options]", title="questions", required=True)
    for question in QUESTIONS:
        text = docstring_of(question)
        subparser = questions.add_parser(
            question,
            help=text.partition("\n")[0].replace("%", "%%"),
            description=text.replace("%", "%%"),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if question == chosen:
            try:
                module = importlib.import_module(f"benchmarks.{module_name(question)}")
            except ModuleNotFoundError as error:
                if error.name is None or error.name.startswith(("benchmarks", "examples", "cdropout")):
                    raise
                subparser.error(f"a package is not installed: {error}")
            add_shared(subparser, **getattr(module, "SHARED_OPTIONS", {}))
            getattr(module, "add_options", lambda parser: None)(subparser)
            subparser.set_defaults(run=module.run, error=subparser.error)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Ask the question that the command line names; return the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    arguments = build_parser(next(iter(argv), None)).parse_args(argv)
    try:
        return arguments.run(arguments) or 0
    except UsageError as error:
        return arguments.error(str(error))
