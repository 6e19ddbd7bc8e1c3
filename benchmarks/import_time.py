"""What `import cdropout` takes beyond `import numpy`.

    python benchmarks/import_time.py

Fresh processes of both kinds take turns; what is timed is a process's whole life. Both import compiled bytecode, as
installed packages have it, from a folder of their own.
"""

import argparse
import os
import subprocess
import sys
import tempfile

from command_line import parse_positive
from timing import interleaved_medians, machine

PROGRAMS = {"import numpy": "import numpy", "import numpy, cdropout": "import numpy, cdropout"}


def measure(rounds: int) -> dict[str, float]:
    """Return the median time of a process with each of `PROGRAMS`, in seconds."""
    with tempfile.TemporaryDirectory() as bytecode:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPYCACHEPREFIX"] = bytecode

        def run(program: str) -> None:
            # -P: not what happens to lie in the current folder, such as the sources without their compiled part.
            subprocess.run([sys.executable, "-P", "-c", program], env=environment, check=True)

        for program in PROGRAMS.values():  # these compile
            run(program)
        calls = {name: lambda program=program: run(program) for name, program in PROGRAMS.items()}
        return interleaved_medians(calls, rounds=rounds)


def main(argv: list[str] | None = None) -> int:
    """Measure and print the medians and their difference."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=parse_positive, default=21, help="(default: %(default)s)")
    arguments = parser.parse_args(argv)
    print(machine())
    print(f"medians of {arguments.rounds} processes each\n")
    medians = measure(arguments.rounds)
    for name, seconds in medians.items():
        print(f"{name:<24} {1e3 * seconds:7.1f} ms")
    numpy_alone, both = medians.values()
    print(f"{'cdropout':<24} {1e3 * (both - numpy_alone):7.1f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
