"""`python -m benchmarks`: dropout's speed, from 128 to 64 M elements, beside every alternative that is installed."""

import sys
from pathlib import Path

# `python -m` puts the current directory first on sys.path. In a checkout that directory holds the source folder
# `cdropout/`, which has no compiled core unless it was built in place, and it would hide the installed package. The
# folder of the benchmarks takes its place: programs run as `python benchmarks/floor.py` have the same one there, so
# that both import their siblings plainly.
HERE = Path(__file__).resolve().parent
if Path(sys.path[0]).resolve() == HERE.parent:
    del sys.path[0]
sys.path.insert(0, str(HERE))

from command_line import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
