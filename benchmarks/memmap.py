"""Time dropout in place on a file larger than memory, over reading the file and writing it back.

The file is mapped by np.memmap, in a process whose memory a control group limits (Linux, as root). If none can be made,
--mib must be larger than the machine's memory, or the figures are not those of the disk. The folder must not itself be
in memory, as a tmpfs is. Every pass begins with none of the file in memory, and ends when the disk has all of it.
"""

import argparse
import mmap
import os
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

import cdropout as cd
from benchmarks.control_group import ControlGroup, NoControlGroupError, control_group
from benchmarks.options import parse_positive
from benchmarks.processes import ROOT, command_of
from benchmarks.result_check import WrongResultError
from benchmarks.table import Table
from benchmarks.timing import interleaved_times, introduce

P = 0.1
MIB = 1 << 20
ELEMS_PER_CHUNK = 2 * MIB
FLOOR = "read and write"
HAS_ADVICE = hasattr(mmap, "MADV_SEQUENTIAL")
IN_SEQUENCE = "the same, one thread" + (", MADV_SEQUENTIAL" if HAS_ADVICE else "")

_IN_MEMORY = ("tmpfs", "ramfs", "devtmpfs", "hugetlbfs")
SHARED_OPTIONS = {"rounds": 7}


def file_system_of(folder: Path) -> str:
    """Return the type of the file system that a folder is on, as Linux names it; "unknown" elsewhere."""
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return "unknown"
    mounts = [(Path(line.split()[4]), line.partition(" - ")[2].split()[0]) for line in lines]
    here = folder.resolve()
    # The longest mount point above the folder; of several mounts on it, the last one hides the others.
    fitting = [(len(point.parts), i, kind) for i, (point, kind) in enumerate(mounts) if here.is_relative_to(point)]
    return max(fitting)[2] if fitting else "unknown"


def is_in_memory(folder: Path) -> bool:
    """Tell whether the files of a folder are in memory."""
    return file_system_of(folder) in _IN_MEMORY


# ---- passes over the file -------------------------------------------------------------------------------------------


def values_at(first: int, n_elems: int) -> npt.NDArray[np.float32]:
    """Return the initial values of the file's elements, small numbers above 0, from the element `first` on."""
    return (np.arange(first, first + n_elems) % 1000 + 1).astype(np.float32)


def write_file(path: Path, n_elems: int) -> None:
    """Fill the file."""
    with path.open("wb") as file:
        for first in range(0, n_elems, ELEMS_PER_CHUNK):
            file.write(values_at(first, min(ELEMS_PER_CHUNK, n_elems - first)))


def forget(path: Path) -> None:
    """Write the file to the disk, and remove it from the page cache."""
    with path.open("r+b") as file:
        os.fsync(file)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_and_write(path: Path) -> None:
    """Read the file piece by piece and write each piece back: the least that a pass in place must do."""
    piece = bytearray(8 * MIB)
    with path.open("r+b", buffering=0) as file:
        while n_bytes := file.readinto(piece):
            file.seek(-n_bytes, os.SEEK_CUR)
            file.write(memoryview(piece)[:n_bytes])
        os.fsync(file)


def multiply(path: Path) -> None:
    """Multiply the mapped file by 1."""
    mapped = np.memmap(path, np.float32, "r+")
    np.multiply(mapped, np.float32(1), out=mapped)
    mapped.flush()


def apply_mask(path: Path, mask: cd.Mask, scale: float, *, in_sequence: bool = False) -> None:
    """Apply a mask to the mapped file; in sequence: with one thread, and the advice that it goes from front to back.

    Windows takes no such advice.
    """
    mapped = np.memmap(path, np.float32, "r+")
    if in_sequence and HAS_ADVICE:
        mapped.base.madvise(mmap.MADV_SEQUENTIAL)
    with threadpool_limits(1 if in_sequence else None):
        mask.apply(mapped, out=mapped, scale=scale)
    mapped.flush()


def check_file(path: Path, mask: cd.Mask) -> None:
    """Raise WrongResultError unless the file equals its slices, each masked on its own."""
    for low in range(0, len(mask), ELEMS_PER_CHUNK):
        part = mask[low : low + ELEMS_PER_CHUNK]
        expected = part.apply(values_at(low, len(part)))
        result = np.fromfile(path, np.float32, len(part), offset=4 * low)
        if result.tobytes() != expected.tobytes():
            raise WrongResultError(f"elements {low} to {low + len(part)} must be those of a slice, and are not")


# ---- figures --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """Hold the median time of a pass in seconds, and the median of its ratio to `FLOOR` in the same round."""

    name: str
    seconds: float
    ratio: float


def measure(path: Path, n_elems: int, rounds: int, *, progress: bool = False) -> list[Row]:
    """Write the file, and check and time the passes over it; the file is not removed.

    Raises
    ------
    WrongResultError
        Where a pass over the mapped file gives another result than its slices.

    """
    mask = cd.draw_mask(n_elems, P, rng=1)
    for in_sequence in (False, True):
        write_file(path, n_elems)
        apply_mask(path, mask, 1 / (1 - P), in_sequence=in_sequence)
        check_file(path, mask)
    passes: dict[str, Callable[[], object]] = {
        FLOOR: lambda: read_and_write(path),
        "np.multiply(m, 1, out=m)": lambda: multiply(path),
        # The same mask with scale 1 leaves the file as it is.
        "mask.apply(m, out=m)": lambda: apply_mask(path, mask, 1.0),
        IN_SEQUENCE: lambda: apply_mask(path, mask, 1.0, in_sequence=True),
    }
    times = interleaved_times(passes, rounds=rounds, refresh=lambda: forget(path), progress=progress)
    return [
        Row(
            name,
            statistics.median(seconds),
            statistics.median(a / b for a, b in zip(seconds, times[FLOOR], strict=True)),
        )
        for name, seconds in times.items()
    ]


def table(rows: Sequence[Row], n_elems: int) -> str:
    """Return rows as a table; GB/s counts the bytes read and the bytes written."""
    columns = Table(("", "<38"), ("seconds", "8.2f"), ("GB/s", "6.2f"), ("ratio", "6.2f"))
    return columns.text((row.name, row.seconds, 8e-9 * n_elems / row.seconds, row.ratio) for row in rows)


def memory_report(group: ControlGroup | None) -> str:
    """Describe the memory that the passes took, in this process and in its control group."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    own = [f"{int(line.split()[1]) >> 10} MiB" for line in lines if line.startswith("RssAnon:")]
    peak = None if group is None else group.peak_memory()
    of_group = [] if peak is None else [f"at most {peak // MIB} MiB with the pages of files"]
    return "memory of the process: " + (", ".join(own + of_group) or "unknown")


def run_inside(arguments: argparse.Namespace) -> int:
    """Ask this question in a control group with limited memory; return the exit status."""
    options = [f"--{name}={getattr(arguments, name)}" for name in ("mib", "rounds")]
    options += [f"--limit-mib={arguments.limit_mib}", f"--folder={Path(arguments.folder).resolve()}"]
    with control_group("memory") as group:
        group.limit_memory(arguments.limit_mib * MIB)
        command = group.inside(command_of("memmap", *options, f"--inside={group.folder}"))
        return subprocess.run(command, cwd=ROOT, check=False).returncode


def parse_folder(text: str) -> Path:
    """Parse the path of a folder on a disk."""
    folder = Path(text)
    if not folder.is_dir():
        raise argparse.ArgumentTypeError(f"must be a folder, got {text}")
    if is_in_memory(folder):
        raise argparse.ArgumentTypeError(f"must be on a disk, got {text} on a {file_system_of(folder)}")
    return folder


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add --mib, --limit-mib and --folder."""
    add = parser.add_argument
    add("--mib", type=parse_positive, default=1024, metavar="N", help="size of the file (default: %(default)s)")
    add("--limit-mib", type=parse_positive, default=256, metavar="N", help="of memory (default: %(default)s)")
    add("--folder", type=parse_folder, default=tempfile.gettempdir(), help="(default: %(default)s)")
    add("--inside", type=Path, metavar="GROUP", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Make the file, check, measure, and print a table."""
    if args.inside is None:
        try:
            return run_inside(args)
        except NoControlGroupError as error:
            print(f"memory is not limited: {error}")
    n_elems = args.mib * MIB // 4
    limit = f" in {args.limit_mib} MiB of memory" if args.inside else ""
    system = file_system_of(args.folder)
    introduce(f"a file of {args.mib} MiB{limit}, on {system}; float32, p = {P}", args.rounds)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        rows = measure(Path(folder, "array.bin"), n_elems, args.rounds, progress=True)
    print(table(rows, n_elems))
    print(f"\n{memory_report(ControlGroup(args.inside) if args.inside else None)}")
    return 0
