"""Format the results of a sweep as text."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from benchmarks.sweep import Plan, Results, Row

_MACHINE_KEYS = ("cpu", "n_cpus", "instruction_set", "n_threads", "openmp", "load")


def header(machine: dict[str, Any], plan: Plan) -> str:
    """Return the machine, the versions, and the meaning of the columns."""
    versions = ", ".join(f"{name} {value}" for name, value in machine.items() if name not in _MACHINE_KEYS)
    counts = " and ".join(map(str, plan.thread_counts))
    load = "" if machine["load"] is None else f"; other programs keep {machine['load']:.1f} of them busy"
    return (
        f"CPU              {machine['cpu']}, {machine['n_cpus']} CPUs{load}\n"
        f"instruction set  {machine['instruction_set']}\n"
        f"threads          {counts} (up to {machine['n_threads']}; {machine['openmp']})\n"
        f"versions         {versions}\n"
        f"figures          medians of up to {plan.rounds} rounds, in each of which every contender has a turn;\n"
        "                 ratio: to the floor, which is timed in the same rounds;\n"
        "                 GB/s: the bytes that the operation has to read and write, by the time"
    )


def setting_of(row: Row) -> tuple[str, str, float, int]:
    """Return the fields that the rows of one table share."""
    return row.operation, row.dtype, row.p, row.n_threads


def title(row: Row) -> str:
    """Return the title of the table that the row is in."""
    threads = "1 thread" if row.n_threads == 1 else f"{row.n_threads} threads"
    return f"{row.operation}, {row.dtype}, p = {row.p:g}, {threads}"


def tables(rows: Iterable[Row]) -> str:
    """Return one table for each operation and setting, in the order of the rows."""
    blocks = []
    for _, group in groupby(rows, setting_of):
        block = list(group)
        names = max(max(len(row.contender) for row in block), len("contender"))
        codes = max(len(row.code) for row in block)
        lines = [
            f"== {title(block[0])}",
            f"{'elements':>10}  {'contender':<{names}}  {'':<{codes}} {'ns/element':>11} {'ratio':>8} {'GB/s':>8}",
        ]
        previous = None
        for row in block:
            elements = "" if row.n_elems == previous else f"{row.n_elems:,}"
            previous = row.n_elems
            lines.append(
                f"{elements:>10}  {row.contender:<{names}}  {row.code:<{codes}} "
                f"{row.ns_per_elem:>11.4f} {row.ratio:>8.2f} {row.gb_per_s:>8.2f}"
            )
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def summary(rows: Sequence[Row]) -> str:
    """Return the ratios to the floor of all rows, a column for each size."""
    sizes = sorted({row.n_elems for row in rows})
    width = max(len(f"{size:,}") for size in sizes) + 2
    lines = [f"== ratios to the floor\n{'elements':<32}" + "".join(f"{size:>{width},}" for size in sizes)]
    for _, group in groupby(rows, setting_of):
        block = list(group)
        lines.append(f"{title(block[0])}")
        for name in dict.fromkeys(row.contender for row in block):
            ratios = {row.n_elems: row.ratio for row in block if row.contender == name}
            cells = (f"{ratios[size]:>{width}.2f}" if size in ratios else " " * width for size in sizes)
            if name != "floor":
                lines.append(f"    {name:<28}{''.join(cells)}".rstrip())
    return "\n".join(lines)


def remarks(results: Results) -> str:
    """Return the contenders that are missing from the tables, with reasons; empty if there are none."""
    lines = [f"refused: {line}" for line in results.refused] + [f"skipped: {line}" for line in results.skipped]
    return "\n".join(lines)
