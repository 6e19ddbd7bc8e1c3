"""What figures are measured with; the timing itself is the package's, which `python -m cdropout bench` uses too."""

from cdropout import environment
from cdropout.bench.timing import interleaved_medians, interleaved_times

__all__ = ["interleaved_medians", "interleaved_times", "machine", "machine_facts"]


def machine_facts() -> dict[str, str | int]:
    """Return what figures measured now were measured with: processor, instruction set, threads, versions."""
    facts = environment.facts()
    openmp = facts["threads"]["openmp"]
    return {
        "cpu": facts["processor"],
        "n_cpus": facts["threads"]["cpus"],
        "instruction_set": facts["instruction_set"]["active"],
        "n_threads": facts["threads"]["limit"],
        "openmp": openmp["library"] or "OpenMP" if openmp else "no OpenMP",
        "cdropout": facts["cdropout"],
        "numpy": facts["numpy"],
        "python": facts["python"],
    }


def machine() -> str:
    """Return what the figures were measured with, on one line."""
    facts = machine_facts()
    return (
        "{cpu}, {n_cpus} CPUs; cdropout {cdropout}, {instruction_set}, {n_threads} threads ({openmp}); "
        "NumPy {numpy}; Python {python}"
    ).format_map(facts)
