"""The command that asks a question in another process, and the folder in which it starts."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def command_of(question: str, *options: str) -> list[str]:
    """Return the command that asks a question in another process; it must be started in the folder `ROOT`."""
    return [sys.executable, "-m", "benchmarks", question, *options]
