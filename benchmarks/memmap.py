"""Dropout in place on a file that does not fit into memory, beside a pass that reads the file and writes it back.

    python benchmarks/memmap.py [--mib N] [--limit-mib N] [--folder FOLDER] [--rounds N]

The file is mapped by np.memmap, in a process whose memory a control group limits (Linux, as root); where none can be
made, --mib must be larger than the machine's memory for the figures to be the disk's. The folder must not be in memory
itself, as a tmpfs is. Every pass begins with none of the file in memory, and ends when the disk has what was written.
"""

import argparse
import mmap
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from command_line import parse_positive
from control_group import ControlGroup, NoControlGroupError, control_group
from result_check import WrongResultError
from threadpoolctl import threadpool_limits
from timing import interleaved_times, machine

import cdropout as cd

P = 0.1
MIB = 1 << 20
ELEMS_PER_CHUNK = 2 * MIB
FLOOR = "read and write"

_IN_MEMORY = ("tmpfs", "ramfs", "devtmpfs", "hugetlbfs")


def file_system_of(folder: Path) -> str:
    """Return the type of the file system that a folder is on, as Linux names it; "unknown" elsewhere."""
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return "unknown"
    mounts = [(Path(line.split()[4]), line.partition(" - ")[2].split()[0]) for line in lines]
    here = folder.resolve()
    # The longest mount point that the folder is under; of several mounts there, the last one covers the others.
    fitting = [(len(point.parts), i, kind) for i, (point, kind) in enumerate(mounts) if here.is_relative_to(point)]
    return max(fitting)[2] if fitting else "unknown"


def is_in_memory(folder: Path) -> bool:
    """Whether what is written to a folder stays in memory."""
    return file_system_of(folder) in _IN_MEMORY


# ---- passes over the file -------------------------------------------------------------------------------------------


def values_at(first: int, n_elems: int) -> npt.NDArray[np.float32]:
    """Return what the file holds at first from an element on: small numbers above 0."""
    return (np.arange(first, first + n_elems) % 1000 + 1).astype(np.float32)


def write_file(path: Path, n_elems: int) -> None:
    """Fill the file."""
    with path.open("wb") as file:
        for first in range(0, n_elems, ELEMS_PER_CHUNK):
            file.write(values_at(first, min(ELEMS_PER_CHUNK, n_elems - first)))


def forget(path: Path) -> None:
    """Have the disk hold all of the file and the page cache nothing."""
    with path.open("r+b") as file:
        os.fsync(file)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_and_write(path: Path) -> None:
    """Read the file piece by piece and write each piece back: what no pass in place can do without."""
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


def apply_mask(path: Path, mask: cd.Mask, scale: float) -> None:
    """Apply a mask to the mapped file, with no further care."""
    mapped = np.memmap(path, np.float32, "r+")
    mask.apply(mapped, out=mapped, scale=scale)
    mapped.flush()


def apply_mask_in_sequence(path: Path, mask: cd.Mask, scale: float) -> None:
    """Apply a mask to the mapped file in one thread, and tell the system that it goes from front to back."""
    mapped = np.memmap(path, np.float32, "r+")
    mapped.base.madvise(mmap.MADV_SEQUENTIAL)
    with threadpool_limits(1):
        mask.apply(mapped, out=mapped, scale=scale)
    mapped.flush()


def check_file(path: Path, mask: cd.Mask) -> None:
    """Raise WrongResultError unless the file holds what its slices hold, masked on their own."""
    for low in range(0, len(mask), ELEMS_PER_CHUNK):
        part = mask[low : low + ELEMS_PER_CHUNK]
        expected = part.apply(values_at(low, len(part)))
        result = np.fromfile(path, np.float32, len(part), offset=4 * low)
        if result.tobytes() != expected.tobytes():
            raise WrongResultError(f"elements {low} to {low + len(part)} must be those of a slice, and are not")


# ---- figures --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A pass: its median time in seconds, and the median of its ratio to reading and writing in the same round."""

    name: str
    seconds: float
    ratio: float


def measure(path: Path, n_elems: int, rounds: int, *, progress: bool = False) -> list[Row]:
    """Write, check and time the file; it is left behind.

    Raises
    ------
    WrongResultError
        Where a pass over the mapped file does not give what its slices give.

    """
    mask = cd.draw_mask(n_elems, P, rng=1)
    for apply in (apply_mask, apply_mask_in_sequence):
        write_file(path, n_elems)
        apply(path, mask, 1 / (1 - P))
        check_file(path, mask)
    passes: dict[str, Callable[[], object]] = {
        FLOOR: lambda: read_and_write(path),
        "np.multiply(m, 1, out=m)": lambda: multiply(path),
        # The same mask with scale 1 leaves the file as it is.
        "mask.apply(m, out=m)": lambda: apply_mask(path, mask, 1.0),
        "the same, one thread, MADV_SEQUENTIAL": lambda: apply_mask_in_sequence(path, mask, 1.0),
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
    """Return rows as a table; GB/s counts what is read and what is written."""
    lines = [f"{'':<38} {'seconds':>8} {'GB/s':>6} {'ratio':>6}"]
    lines += [
        f"{row.name:<38} {row.seconds:>8.2f} {8e-9 * n_elems / row.seconds:>6.2f} {row.ratio:>6.2f}" for row in rows
    ]
    return "\n".join(lines)


def memory_report(group: ControlGroup | None) -> str:
    """Return what memory the passes took, of this process and of its control group."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    own = [f"{int(line.split()[1]) >> 10} MiB of its own" for line in lines if line.startswith("RssAnon:")]
    peak = None if group is None else group.peak_memory()
    of_group = [] if peak is None else [f"at most {peak // MIB} MiB with the pages of files"]
    return "memory of the process: " + (", ".join(own + of_group) or "unknown")


def run_inside(limit_mib: int, argv: Sequence[str]) -> int:
    """Run this program in a control group with so much memory; return its status."""
    with control_group("memory") as group:
        group.limit_memory(limit_mib * MIB)
        command = [sys.executable, __file__, *argv, "--inside", str(group.folder)]
        return subprocess.run(group.inside(command), check=False).returncode


def parse_folder(text: str) -> Path:
    """Parse the path of a folder on a disk."""
    folder = Path(text)
    if not folder.is_dir():
        raise argparse.ArgumentTypeError(f"must be a folder, got {text}")
    if is_in_memory(folder):
        raise argparse.ArgumentTypeError(f"must be on a disk, got {text} on a {file_system_of(folder)}")
    return folder


def main(argv: Sequence[str] | None = None) -> int:
    """Make the file, check, measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mib", type=parse_positive, default=1024, metavar="N", help="the file's size (%(default)s)")
    parser.add_argument(
        "--limit-mib", type=parse_positive, default=256, metavar="N", help="of the process's memory (%(default)s)"
    )
    parser.add_argument("--folder", type=parse_folder, default=tempfile.gettempdir(), help="default: %(default)s")
    parser.add_argument("--rounds", type=parse_positive, default=7, metavar="N", help="default: %(default)s")
    parser.add_argument("--inside", type=Path, metavar="GROUP", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.inside is None:
        try:
            return run_inside(args.limit_mib, sys.argv[1:] if argv is None else argv)
        except NoControlGroupError as error:
            print(f"memory is not limited: {error}")
    n_elems = args.mib * MIB // 4
    limit = f" in {args.limit_mib} MiB of memory" if args.inside else ""
    print(machine())
    print(f"a file of {args.mib} MiB{limit}, on {file_system_of(args.folder)}; float32, p = {P}")
    print(f"medians of {args.rounds} interleaved rounds\n", flush=True)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        rows = measure(Path(folder, "array.bin"), n_elems, args.rounds, progress=True)
    print(table(rows, n_elems))
    print(f"\n{memory_report(ControlGroup(args.inside) if args.inside else None)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
