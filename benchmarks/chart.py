"""Draw the results of a sweep: ns an element over size, a line for each contender and for the floor."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import title
from benchmarks.sweep import Row
from cdropout.digits.files import write_figure

# cdropout and the floor stand out; other contenders have a colour for each family and a dash for each member.
_STYLES: dict[str, tuple[str, str]] = {
    "cdropout": ("#c8102e", "-"),
    "floor": ("#222222", "--"),
    "numpy-best": ("#1f77b4", "-"),
    "numpy-8-bit": ("#1f77b4", "--"),
    "mkl-random": ("#1f77b4", ":"),
    "write-up-1": ("#8c8c8c", "-"),
    "write-up-2": ("#8c8c8c", "--"),
    "write-up-3": ("#8c8c8c", ":"),
    "pytorch": ("#e07b00", "-"),
    "torch-compile": ("#e07b00", "--"),
    "jax-threefry": ("#2a9d5c", "-"),
    "jax-rbg": ("#2a9d5c", "--"),
    "numba": ("#7b52ab", "-"),
    "onnxruntime": ("#a0522d", "-"),
    "mlx": ("#d1679b", "-"),
}
_OTHER_STYLE = ("#555555", "-.")
_PROMINENT = ("cdropout", "floor")
# The room of a label on the axis of times, as a factor.
_LABEL_ROOM = 1.24


def spread(values: Sequence[float], room: float) -> list[float]:
    """Move positive numbers apart until each two differ by at least a factor, keeping their order.

    Neighbours that are too close form a cluster around their geometric centre, which is merged with the one below it if
    they are too close.
    """
    order = sorted(range(len(values)), key=lambda i: values[i])
    step = math.log(room)
    clusters: list[tuple[list[int], float]] = []  # members and centre
    for i in order:
        members, centre = [i], math.log(values[i])
        while clusters:
            below, below_centre = clusters[-1]
            gap = (centre - (len(members) - 1) * step / 2) - (below_centre + (len(below) - 1) * step / 2)
            if gap >= step:
                break
            clusters.pop()
            centre = (centre * len(members) + below_centre * len(below)) / (len(members) + len(below))
            members = below + members
        clusters.append((members, centre))
    placed = [0.0] * len(values)
    for members, centre in clusters:
        for k, i in enumerate(members):
            placed[i] = math.exp(centre + (k - (len(members) - 1) / 2) * step)
    return placed


def draw_chart(rows: Sequence[Row], machine: Mapping[str, Any], path: Path) -> None:
    """Draw the rows of the first operation and setting into an image file, of the format its suffix names.

    Parameters
    ----------
    rows : sequence of Row
        At least one.
    machine : mapping
        For the title: its cpu and instruction_set.
    path : Path
        Its folder is made if it does not exist.

    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    first = rows[0]
    shown = [
        row
        for row in rows
        if (row.operation, row.dtype, row.p, row.n_threads) == (first.operation, first.dtype, first.p, first.n_threads)
    ]
    names = list(dict.fromkeys(row.contender for row in shown))
    lines = {name: sorted((row.n_elems, row.ns_per_elem) for row in shown if row.contender == name) for name in names}
    labels = {row.contender: row.label or row.contender for row in shown}
    labels["floor"] = f"floor: {next(row.code for row in shown if row.contender == 'floor')}"

    figure = Figure(figsize=(10.5, 6.4), layout="constrained")
    axes = figure.subplots()
    for name in sorted(names, key=lambda name: name in _PROMINENT):
        colour, dashes = _STYLES.get(name, _OTHER_STYLE)
        prominent = name in _PROMINENT
        axes.plot(
            *zip(*lines[name], strict=True),
            color=colour,
            linestyle=dashes,
            linewidth=2.6 if prominent else 1.3,
            marker="o" if name == "cdropout" else None,
            markersize=5,
            zorder=3 if prominent else 2,
        )
    sizes = sorted({row.n_elems for row in shown})
    axes.set(xscale="log", yscale="log", xlabel="elements", ylabel="ns per element")
    axes.set_title(f"Dropout, {title(first)}\n{machine['cpu']}, {machine['instruction_set']}", loc="left", fontsize=11)
    axes.set_xticks(sizes, [abbreviate(size) for size in sizes])
    # The lines to the labels are not data, and must not change the limits of the axes.
    axes.set_xlim(sizes[0] / 1.15, max(sizes[-1], sizes[0] * 2) * 1.15)
    axes.set_ylim(axes.get_ylim())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(which="major", color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)

    ends = [lines[name][-1] for name in names]
    heights = spread([ns for _, ns in ends], _LABEL_ROOM)
    right = max(n for n, _ in ends)
    for name, (n_elems, ns), height in zip(names, ends, heights, strict=True):
        colour = _STYLES.get(name, _OTHER_STYLE)[0]
        prominent = name in _PROMINENT
        axes.plot([n_elems, right * 1.5], [ns, height], color="#c4c4c4", linewidth=0.7, clip_on=False, zorder=1)
        axes.plot([n_elems], [ns], color=colour, marker="o", markersize=4, clip_on=False, zorder=4)
        axes.text(
            right * 1.6,
            height,
            labels[name],
            color=colour,
            fontsize=10 if prominent else 9,
            fontweight="bold" if prominent else "normal",
            verticalalignment="center",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_figure(figure, path, dpi=130)


def abbreviate(n_elems: int) -> str:
    """Return a number of elements as text, with K or M for 1024 and 1024 x 1024 if that is exact."""
    for unit, letter in ((1 << 20, "M"), (1 << 10, "K")):
        if n_elems >= unit and n_elems % unit == 0:
            return f"{n_elems // unit} {letter}"
    return str(n_elems)
