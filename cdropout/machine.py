"""Facts about the machine from the operating system: sizes of caches, and the CPU quota of the process."""

import io
import os
import sys
from collections.abc import Mapping
from typing import TypeAlias

# os.path instead of pathlib: importing pathlib takes half as long as importing all of this library.
Folder: TypeAlias = str | os.PathLike[str]

_CPU0_CACHES = "/sys/devices/system/cpu/cpu0/cache"
_C_SPACE = " \t\n\v\f\r"  # isspace in C
_MAX_DIGITS = 20  # of a number below 2^64
_MAX_THREADS = 1 << 16
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def cache_bytes(folder: Folder = _CPU0_CACHES) -> dict[int, int]:
    """Return the size in bytes of each data cache that a core can use, by level; empty if Linux does not report it.

    A shared cache counts once, as one core and its neighbours see it. On some processors
    `getconf LEVEL3_CACHE_SIZE` gives the sum over the chips of a socket instead.
    """
    found: dict[int, int] = {}
    try:
        names = [name for name in os.listdir(folder) if name.startswith("index")]
    except OSError:
        return {}
    for name in names:
        size, level, kind = (_read(os.path.join(folder, name), field).strip() for field in ("size", "level", "type"))
        try:
            n_bytes = int(size[:-1]) * _UNITS[size[-1]] if size[-1:] in _UNITS else int(size)
            if kind not in ("", "Instruction") and n_bytes > 0:
                found[int(level)] = max(n_bytes, found.get(int(level), 0))
        except ValueError:
            continue
    return dict(sorted(found.items()))


def last_level_cache_bytes(folder: Folder = _CPU0_CACHES) -> int | None:
    """Return the size in bytes of the last-level cache that a core can use; None if Linux does not report it."""
    caches = cache_bytes(folder)
    return caches[max(caches)] if caches else None


def threads_of_environment(environ: Mapping[str, str]) -> int | None:
    """Return the number of threads that OMP_NUM_THREADS sets, for builds without OpenMP; None if it sets none."""
    first = environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # more numbers are for nested loops
    return int(first) if first.isascii() and first.isdigit() and 0 < int(first) <= _MAX_THREADS else None


def openmp_stack_bytes(environ: Mapping[str, str]) -> int:
    """Return the stack size of OpenMP's threads in bytes, as the environment sets it; 0 for the system's default.

    GNU's OpenMP uses the first of OMP_STACKSIZE and GOMP_STACKSIZE that it can parse. LLVM's and Intel's also know
    KMP_STACKSIZE. Which of them runs is not known here, so the larger size is returned.
    """
    gnu = (_stack_bytes(environ.get(name, "x"), "k") for name in ("OMP_STACKSIZE", "GOMP_STACKSIZE"))
    return max(next((n for n in gnu if n is not None), 0), _stack_bytes(environ.get("KMP_STACKSIZE", "x"), "b") or 0)


def _stack_bytes(text: str, default_unit: str) -> int | None:
    """Return a size such as "16 M" in bytes; None if OpenMP refuses the text and looks for another variable."""
    bits_of_unit = {"b": 0, "k": 10, "m": 20, "g": 30}
    number, unit = text.strip(_C_SPACE), default_unit
    if number[-1:].lower() in bits_of_unit and number:
        number, unit = number[:-1].rstrip(_C_SPACE) or "0", number[-1].lower()
    digits = number[1:] if number[:1] in ("+", "-") else number
    if not (digits.isascii() and digits.isdigit()) or len(digits.lstrip("0")) > _MAX_DIGITS:
        return None
    limit = 2 * sys.maxsize + 2  # of C's unsigned long, in which OpenMP counts
    n = int(digits)
    n_bytes = (-n % limit if number[0] == "-" else n) << bits_of_unit[unit]  # C reads -1 as limit - 1
    return n_bytes if n < limit and n_bytes < limit else None


class CpuQuota:
    """The CPU quota of this process's control group, for cgroups of versions 1 and 2.

    Parameters
    ----------
    proc : str or PathLike
        Folder with the files `mountinfo`, read by the constructor, and `cgroup`, read at each call.

    """

    def __init__(self, proc: Folder = "/proc/self") -> None:
        self._proc = proc
        self._mounts = _cpu_mounts(proc)

    def n_cpus(self) -> float | None:
        """Return the quota that applies now, as a number of CPUs; None without a limit.

        A group may use no more than any group that contains it: the smallest quota up to the mount point applies.
        """
        if not self._mounts:
            return None
        memberships = [line.split(":", 2) for line in _read(self._proc, "cgroup").splitlines()]
        quotas = []
        for version, root, mount_point in self._mounts:
            for _, controllers, group in memberships:
                if ("cpu" in controllers.split(",")) if version == 1 else not controllers:
                    for folder in _groups_upwards(group, root, mount_point):
                        quotas.append(_quota_v1(folder) if version == 1 else _quota_v2(folder))
        return min((quota for quota in quotas if quota is not None), default=None)


def _cpu_mounts(proc: Folder) -> list[tuple[int, str, str]]:
    """Return (version, root, mount point) of each mounted hierarchy that may hold CPU quotas; see proc(5)."""
    mounts = []
    for line in _read(proc, "mountinfo").splitlines():
        before, separator, after = line.partition(" - ")
        fields, kinds = before.split(), after.split()
        if not separator or len(fields) < 5 or len(kinds) < 3:
            continue
        if kinds[0] == "cgroup2":
            mounts.append((2, fields[3], fields[4]))
        elif kinds[0] == "cgroup" and "cpu" in kinds[2].split(","):
            mounts.append((1, fields[3], fields[4]))
    return mounts


def _groups_upwards(group: str, root: str, mount_point: str) -> list[str]:
    """Return the folders of a group and of the groups that contain it, up to the mount point.

    In a container the group's path may be the host's, or lead out of the mount. Only the mount point, which is the
    container's group, is returned then.
    """
    names, root_names = ([name for name in path.split("/") if name] for path in (group, root))
    inside = names[len(root_names) :]
    if names[: len(root_names)] != root_names or ".." in inside:
        return [mount_point]
    return [os.path.join(mount_point, *inside[:depth]) for depth in range(len(inside), -1, -1)]


def _read(folder: Folder, name: str) -> str:
    """Return a file's text; an empty string if it cannot be read."""
    try:
        # io.open, because the built-in of this name is removed before the last __del__ methods of a program run.
        with io.open(os.path.join(folder, name), encoding="utf-8", errors="surrogateescape") as file:  # noqa: UP020
            return file.read()
    except OSError:
        return ""


def _quota_v2(folder: str) -> float | None:
    return _ratio(*_read(folder, "cpu.max").split()[:2])


def _quota_v1(folder: str) -> float | None:
    quota, period = (_read(folder, name) for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us"))
    return None if quota.startswith("-") else _ratio(quota, period)


def _ratio(quota: str = "", period: str = "") -> float | None:
    """Return quota / period; None if they are not two numbers, because a missing file and "max" mean no limit."""
    try:
        return int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return None
