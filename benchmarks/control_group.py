"""Make control groups of Linux, which limit memory or CPU time, for a test or a benchmark."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
_PERIOD_MICROSECONDS = 100_000


class NoControlGroupError(Exception):
    """Report that no control group can be made here; the message gives the reasons."""


class ControlGroup:
    """Handle a control group of version 1 or 2.

    Attributes
    ----------
    folder : Path
        Its folder in the kernel's file system.

    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def limit_memory(self, n_bytes: int) -> None:
        """Limit the memory of all its processes, in bytes, with the pages of files that they use.

        Swapping is off: a process that needs more is killed.
        """
        self._write({"memory.max": n_bytes, "memory.limit_in_bytes": n_bytes})
        for name in ("memory.swap.max", "memory.swappiness"):
            if (self.folder / name).exists():
                (self.folder / name).write_text("0")

    def limit_cpus(self, n_cpus: float) -> None:
        """Limit all its processes together to the time of n_cpus CPUs."""
        quota = int(n_cpus * _PERIOD_MICROSECONDS)
        self._write({"cpu.max": f"{quota} {_PERIOD_MICROSECONDS}", "cpu.cfs_quota_us": quota})

    def peak_memory(self) -> int | None:
        """Return its peak memory in bytes; None if the kernel does not count it."""
        for name in ("memory.peak", "memory.max_usage_in_bytes"):
            if (self.folder / name).exists():
                return int((self.folder / name).read_text())
        return None

    def inside(self, command: Sequence[str]) -> list[str]:
        """Return a command that runs the given one in the group."""
        return ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(self.folder), *command]

    def _write(self, settings: dict[str, object]) -> None:
        """Write the first setting that the version of the group knows."""
        for name, value in settings.items():
            if (self.folder / name).exists():
                (self.folder / name).write_text(str(value))
                return
        raise NoControlGroupError(f"{self.folder} must have one of {', '.join(settings)}, got none")


@contextmanager
def control_group(controller: str) -> Iterator[ControlGroup]:
    """Make a control group at the top of its hierarchy, and remove it at the end of the `with` block.

    Parameters
    ----------
    controller : {"memory", "cpu"}
        The resource to be limited.

    Raises
    ------
    NoControlGroupError
        Where the system has no such controller, or this user may not make a group.

    """
    reasons = []
    for hierarchy, sign in ((ROOT / controller, "cgroup.procs"), (ROOT, "cgroup.controllers")):
        if not (hierarchy / sign).exists():
            continue
        folder = hierarchy / f"cdropout-{os.getpid()}"
        try:
            folder.mkdir()
        except OSError as error:
            reasons.append(str(error))
            continue
        try:
            yield ControlGroup(folder)
        finally:
            folder.rmdir()
        return
    raise NoControlGroupError(f"no control group for {controller}: {'; '.join(reasons) or f'none in {ROOT}'}")
