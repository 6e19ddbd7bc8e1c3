"""`python -m benchmarks QUESTION [options]`; `--help` lists the questions."""

import sys
from pathlib import Path

# `python -m` puts the current folder first on sys.path: the checkout, whose folder `cdropout/` has no compiled core
# unless it was built in place, and would hide the installed package. At the end of the path it hides nothing, and
# `benchmarks` and `examples` can still be imported. cdropout is imported in between, because Python looks for an
# editable install after all folders of the path.
if Path(sys.path[0]).resolve() == Path(__file__).resolve().parents[1]:
    checkout = sys.path.pop(0)
    import cdropout  # noqa: F401

    sys.path.append(checkout)

from benchmarks.command_line import PROG, main
from cdropout.command import run_command

if __name__ == "__main__":
    sys.exit(run_command(main, PROG))
