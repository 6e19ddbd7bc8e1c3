"""The output of `python -m cdropout bench`: a progress bar during the measurement, a table, and a conclusion."""

import dataclasses
import json
import os
import sys

from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from cdropout import environment
from cdropout.bench.comparison import BEST, FLOORS, IN_PLACE, OURS, OUT_OF_PLACE, Figure, measure

# Width of the table in columns if standard output is not a terminal; most terminals have at least as many.
USUAL_WIDTH = 80
# A load average above this, before the measurement, is reported.
IDLE_LOAD = 0.5


def run(p: float, seconds: float, *, as_json: bool) -> None:
    """Measure, and print a table or, if as_json is true, the environment and the figures as JSON.

    Raises
    ------
    WrongResultError
        If dropout's result differs from its mask's decisions.

    """
    facts = environment.facts()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    figures = _measure_with_progress(p, seconds)
    if as_json:
        rows = [dataclasses.asdict(figure) for figure in figures]
        print(json.dumps({"environment": facts, "load": load, "p": p, "dtype": "float32", "figures": rows}, indent=1))
        return
    print(
        f"cdropout {facts['cdropout']}, {facts['instruction_set']['active']}; NumPy {facts['numpy']}; "
        f"{facts['processor']}\nfloat32, p = {p:g}; ns an element and, in brackets, the ratio to np.multiply\n"
    )
    console = Console()
    console.print(table(figures), width=None if console.is_terminal else USUAL_WIDTH)
    print(conclusion(figures))
    if load is not None and load > IDLE_LOAD:
        n_cpus = facts["threads"]["cpus"]
        print(f"Other work kept {load:.1f} of {n_cpus} CPUs busy before: threads then wait for each other.")


def _measure_with_progress(p: float, seconds: float) -> list[Figure]:
    console = Console(file=sys.stderr)
    figures: list[Figure] = []
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("checking and timing", total=seconds)
        for turn in measure(p, seconds, lambda seconds_done: bar.update(task, completed=seconds_done)):
            figures += turn
    return figures


def table(figures: list[Figure]) -> Table:
    """Return figures as a table: a column for each size, a section for each kind of output."""
    places = {figure.place: figure.n_elems for figure in figures}
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    drawn.add_column("elements", no_wrap=True)
    for place, n_elems in places.items():
        drawn.add_column(f"{n_elems:,}\n({place})", justify="right", no_wrap=True)
    for kind in (OUT_OF_PLACE, IN_PLACE):
        of_kind = [figure for figure in figures if figure.kind == kind]
        most_threads = max(figure.n_threads for figure in of_kind)
        for contender in dict.fromkeys(figure.contender for figure in of_kind):
            for n_threads in sorted({1, most_threads}):
                cells = {
                    figure.place: _cell(figure)
                    for figure in of_kind
                    if (figure.contender, figure.n_threads) == (contender, n_threads)
                }
                if cells and (n_threads == 1 or contender != FLOORS[kind]):
                    label = contender if n_threads == 1 else f"  with {n_threads} threads"
                    drawn.add_row(label, *(cells.get(place, "") for place in places))
        drawn.add_section()
    return drawn


def _cell(figure: Figure) -> str:
    """Return time and ratio with three digits each, and no more decimals than fit into a usual terminal."""
    time, ratio = figure.ns_per_elem, figure.ratio
    return f"{f'{time:.3f}' if time < 1 else f'{time:.3g}'} ({f'{ratio:.2f}' if ratio < 10 else f'{ratio:.0f}'})"


def conclusion(figures: list[Figure]) -> str:
    """Return a sentence on how many times as fast as NumPy's best code dropout is on one thread, at each size."""
    alone = {(figure.place, figure.contender): figure for figure in figures if figure.n_threads == 1}
    times = [
        f"{alone[place, BEST].ns_per_elem / ours.ns_per_elem:.0f} times ({place})"
        for (place, contender), ours in alone.items()
        if contender == OURS[OUT_OF_PLACE]
    ]
    return f"On one thread, cdropout is {', '.join(times)} as fast as NumPy's best code."
