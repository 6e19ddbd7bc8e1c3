"""Compilers that are found on PATH: one that cannot compile and link an empty program counts as not installed."""

import functools
import shutil
import subprocess
import tempfile
from pathlib import Path


@functools.cache
def reason_to_skip(*command: str, suffix: str = ".c") -> str | None:
    """Return why a compiler cannot be used, or None where it can.

    Parameters
    ----------
    *command : str
        The compiler and its options.
    suffix : str
        The suffix of a source, which tells the compiler its language.

    """
    if shutil.which(command[0]) is None:
        return f"{command[0]} is not installed"
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, f"empty{suffix}")
        source.write_text("int main(void) { return 0; }\n")
        try:
            compiled = subprocess.run(
                [*command, "-o", Path(folder, "empty"), source],
                capture_output=True,
                check=False,
                text=True,
                errors="replace",
                timeout=300,  # zig first compiles its C library: 16 s of CPU
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"{command[0]} cannot compile an empty program: {error}"
    if compiled.returncode != 0:
        (*_, last) = compiled.stderr.strip().splitlines() or [f"exit code {compiled.returncode}"]
        return f"{command[0]} cannot compile an empty program: {last}"
    return None
