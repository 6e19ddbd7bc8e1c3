"""Time calls in turns, and describe the machine; `python -m cdropout bench` uses the same timing."""

from cdropout import environment
from cdropout.bench.timing import interleaved_medians, interleaved_times

__all__ = ["interleaved_medians", "interleaved_times", "introduce", "machine_facts"]


def machine_facts() -> dict[str, str | int]:
    """Return the processor, the instruction set, the threads and the versions that figures depend on."""
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


def introduce(setting: str, rounds: int, figures: str = "") -> None:
    """Print the machine and the setting, above a table of medians over so many rounds."""
    machine = (
        "{cpu}, {n_cpus} CPUs; cdropout {cdropout}, {instruction_set}, {n_threads} threads ({openmp}); "
        "NumPy {numpy}; Python {python}"
    ).format_map(machine_facts())
    print(f"{machine}\n{setting}, medians of {rounds} interleaved rounds{figures}\n", flush=True)
