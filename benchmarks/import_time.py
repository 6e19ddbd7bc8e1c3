"""Time `import cdropout` beyond `import numpy`.

Fresh processes of both kinds take turns; the time is that of a whole process. Both import compiled bytecode, as
installed packages have it, from a temporary folder.
"""

import argparse
import os
import subprocess
import sys
import tempfile

from benchmarks.table import Table
from benchmarks.timing import interleaved_medians, introduce

SHARED_OPTIONS = {"rounds": 21}
PROGRAMS = {"import numpy": "import numpy", "import numpy, cdropout": "import numpy, cdropout"}


def measure(rounds: int) -> dict[str, float]:
    """Return the median time of a process with each of `PROGRAMS`, in seconds."""
    with tempfile.TemporaryDirectory() as bytecode:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPYCACHEPREFIX"] = bytecode

        def run(program: str) -> None:
            # -P: the current folder may hold the sources without their compiled part.
            subprocess.run([sys.executable, "-P", "-c", program], env=environment, check=True)

        for program in PROGRAMS.values():  # the first run compiles
            run(program)
        calls = {name: lambda program=program: run(program) for name, program in PROGRAMS.items()}
        return interleaved_medians(calls, rounds=rounds)


def run(arguments: argparse.Namespace) -> None:
    """Measure, and print the medians and their difference."""
    introduce("processes", arguments.rounds)
    medians = measure(arguments.rounds)
    numpy_alone, both = medians.values()
    medians["cdropout"] = both - numpy_alone
    Table(("", "<24"), ("ms", "7.1f")).show((name, 1e3 * seconds) for name, seconds in medians.items())
