"""Count the instructions that the kernels take for 64 elements, in the compiler's output.

Without files, the last build in place is read. The shortest innermost loop that stores 64 elements is counted. Needs
objdump, of binutils, for the processor of the object files (--objdump names another).
"""

import argparse
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.options import UsageError
from benchmarks.processes import ROOT
from benchmarks.table import Table

ELEMS_PER_GROUP = 64
ELEM_BYTES = {"f16": 2, "bf16": 2, "f32": 4, "f64": 8}

_INSTRUCTION = re.compile(r"^\s+([0-9a-f]+):\t([a-z]\S*)\s*(.*)$")
_JUMP = re.compile(r"^(j|b\.|b$|cbn?z|tbn?z)")
_VECTOR_BYTES = (("%zmm", 64), ("%ymm", 32), ("%xmm", 16), ("q", 16), ("d", 8))


@dataclass(frozen=True)
class Instruction:
    """Hold a line of a disassembly.

    Attributes
    ----------
    address : int
    name, operands : str
        As objdump prints them: on x86, the destination last.

    """

    address: int
    name: str
    operands: str

    @property
    def stored_bytes(self) -> int:
        """The number of bytes of a vector register that it stores to an array; 0 for a store to the stack."""
        source, _, target = self.operands.partition(",")
        if "%" in self.operands:
            is_store = "mov" in self.name and target.endswith(")") and not re.search(r"\(%r[sb]p", target)
        else:
            is_store = self.name.startswith("st") and "[sp" not in target
            if self.name == "stp":
                return 2 * _bytes_of(source) if is_store else 0
        return _bytes_of(source) if is_store else 0


def _bytes_of(register: str) -> int:
    return next((n_bytes for prefix, n_bytes in _VECTOR_BYTES if register.startswith(prefix)), 0)


def disassemble(objdump: str, path: Path, kernel: str) -> list[Instruction]:
    """Return the instructions of a function in an object file."""
    command = [objdump, "--disassemble=" + kernel, "--no-show-raw-insn", str(path)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = (_INSTRUCTION.match(line) for line in text.splitlines())
    return [Instruction(int(m[1], 16), m[2], m[3]) for m in found if m]


def find_loop(instructions: list[Instruction], n_bytes: int) -> list[Instruction] | None:
    """Return the shortest innermost loop that stores n_bytes or more; None if there is none."""
    index = {instruction.address: i for i, instruction in enumerate(instructions)}
    loops = []
    for end, instruction in enumerate(instructions):
        target = re.search(r"([0-9a-f]+) <", instruction.operands)
        if _JUMP.match(instruction.name) and target and index.get(int(target[1], 16), len(index)) <= end:
            loops.append((index[int(target[1], 16)], end))
    inner = [
        (start, end)
        for start, end in loops
        if not any((start, end) != other and start <= other[0] and other[1] <= end for other in loops)
    ]
    bodies = [instructions[start : end + 1] for start, end in inner]
    whole = [body for body in bodies if sum(one.stored_bytes for one in body) >= n_bytes]
    return min(whole, key=len, default=None)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the object files, --kernel and --objdump."""
    parser.add_argument("objects", type=Path, nargs="*", metavar="FILE", help="object files of src/core/isa/*.c")
    parser.add_argument("--kernel", default="apply_mask_f32", help="(default: %(default)s)")
    parser.add_argument("--objdump", default="objdump", help="(default: %(default)s)")


def run(arguments: argparse.Namespace) -> None:
    """Count, and print a table."""
    kernel = arguments.kernel
    dtype = kernel.rsplit("_", 1)[-1]
    if dtype not in ELEM_BYTES:
        raise UsageError(f"argument --kernel: must end in a dtype ({', '.join(ELEM_BYTES)}), got {kernel!r}")
    objects = arguments.objects or sorted((ROOT / "build").glob("temp*/src/core/isa/*.o"))
    if not objects:
        raise UsageError("no object files: build in place first (CONTRIBUTING.md)")

    def rows() -> Iterator[tuple[str, int | None, int | None, int | str]]:
        for path in objects:
            loop = find_loop(disassemble(arguments.objdump, path, kernel), ELEMS_PER_GROUP * ELEM_BYTES[dtype])
            if loop is None:
                yield path.stem, None, None, "no such loop"
                continue
            n_stores = sum(one.stored_bytes > 0 for one in loop)
            n_stack = sum(bool(re.search(r"\(%r[sb]p\)|\[sp", one.operands)) for one in loop)
            yield path.stem, len(loop), n_stores, n_stack

    print(f"{kernel}, instructions for {ELEMS_PER_GROUP} elements\n")
    Table(("", "<10"), ("all", "5"), ("stores", "7"), ("to or from the stack", "21")).show(rows())
