"""Save and restore a training run. A kill at any moment leaves a whole file; a file is checked in full when it is read.

One run at a time uses a checkpoint; a second is refused (`files.py` says where there are no locks).

The file is an npz archive: the arrays by their names, and under `run` a JSON string with everything else.
"""

import hashlib
import json
import math
import textwrap
import zipfile
from collections.abc import Iterator, Mapping, Set
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import cdropout as cd

from .data import Dataset
from .files import LockedError, check_writable, lock_for_run, open_replacement
from .scores import Evaluation, as_saved, from_saved

Array = npt.NDArray[Any]
Rng = cd.Stream | np.random.Generator

FORMAT = "cdropout training checkpoint 1"
RUN_FIELDS = {"format", "config", "data", "rng", "n_steps", "evaluations"}


class CheckpointError(ValueError):
    """Report a checkpoint that cannot be written or read, or is of another run; names the file, the rule, the value."""


@dataclass(frozen=True)
class Checkpoints:
    """Tell a run where to save its state, and how often.

    Attributes
    ----------
    path : Path
        The file; it is replaced as a whole each time.
    every : int
        The number of steps between two checkpoints, at least 1; the last step is always followed by one.
    resume : bool
        Whether to continue from the file if it exists.

    Raises
    ------
    ValueError
        For an `every` below 1.

    """

    path: Path
    # With 784-512-512-10, writing takes about 20 ms on a disk, and fifty steps 230 ms.
    every: int = 50
    resume: bool = False

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"checkpoint-every must be at least 1, got {self.every}")


@dataclass
class RunState:
    """Hold what identifies a run, and everything that changes during it.

    Attributes
    ----------
    config : dict
        The run's options by the names of their arguments; JSON can hold each value.
    data : str
        The digest of the data, from `digest_dataset`.
    n_steps_in_all : int
        The number of steps of the whole run.
    arrays : dict of ndarray
        The run's own arrays, not copies: `save` reads them and `restore` writes into them.
    rng : Stream or Generator
        The source of the masks; likewise the run's own object.
    n_steps : int
        The number of steps made. With `config`, it gives the position in the order of the batches.
    evaluations : list of Evaluation
        The evaluations so far.

    """

    config: dict[str, Any]
    data: str
    n_steps_in_all: int
    arrays: dict[str, Array]
    rng: Rng
    n_steps: int = 0
    evaluations: list[Evaluation] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write the state to a file.

        Raises
        ------
        CheckpointError
            Where the file cannot be written; its former content is then unchanged.

        """
        run = {
            "format": FORMAT,
            "config": self.config,
            "data": self.data,
            "rng": _state_of(self.rng),
            "n_steps": self.n_steps,
            "evaluations": as_saved(self.evaluations),
        }
        write_checkpoint(path, run, self.arrays)

    def restore(self, path: Path) -> None:
        """Restore the state in a file; without a file, nothing changes.

        Raises
        ------
        CheckpointError
            Where the file cannot be read, is not a whole checkpoint, or is of a run with another configuration or other
            data. The state is then undefined.

        """
        checkpoint = read_checkpoint(path)
        if checkpoint is None:
            return
        run, arrays = checkpoint
        # As in read_checkpoint, any exception means a damaged file: the setters of generators raise several types.
        try:
            self._check_same_run(path, run)
            self._take_arrays(arrays)
            self._take_rng(run["rng"])
            if type(run["n_steps"]) is not int or not 0 <= run["n_steps"] <= self.n_steps_in_all:
                raise ValueError(f"n_steps {run['n_steps']!r}")
            self.n_steps, self.evaluations = run["n_steps"], from_saved(run["evaluations"], run["n_steps"])
        except CheckpointError:
            raise
        except Exception as error:
            raise _not_whole(path, error) from error

    def _take_arrays(self, saved_arrays: Mapping[str, Array]) -> None:
        if set(saved_arrays) != set(self.arrays):
            raise ValueError(f"other arrays: {', '.join(sorted(saved_arrays))}")
        for name, array in self.arrays.items():
            saved = saved_arrays[name]
            if (saved.shape, saved.dtype) != (array.shape, array.dtype):
                raise ValueError(
                    f"{name} of shape {saved.shape} and dtype {saved.dtype} for {array.shape} and {array.dtype}"
                )
            array[...] = saved

    def _take_rng(self, saved: Any) -> None:
        own = _state_of(self.rng)
        if isinstance(self.rng, cd.Stream):
            self.rng.state = saved
            own["position"] = saved["position"]  # the rest of its state follows from the seed in `config`
        else:
            self.rng.bit_generator.state = saved
            own = _state_of(self.rng)
        # NumPy's generators ignore fields of a state that they do not use.
        if json.dumps(saved, sort_keys=True) != json.dumps(own, sort_keys=True):
            raise ValueError(f"rng {saved}")

    def _check_same_run(self, path: Path, run: dict[str, Any]) -> None:
        """Raise CheckpointError if a file's configuration or data differ from those of this run."""
        config = run["config"]
        if not isinstance(config, dict):
            raise ValueError(f"config {config!r}")
        if set(config) != set(self.config):
            raise ValueError(f"other arguments: {', '.join(config) or 'none'}")
        for name, value in self.config.items():
            is_finite = not isinstance(config[name], float) or math.isfinite(config[name])
            if type(config[name]) is not type(json.loads(json.dumps(value))) or not is_finite:
                raise ValueError(f"{name} {config[name]!r}")
            if config[name] != value:
                raise CheckpointError(f"argument --{name} must be {config[name]} as in {path}, got {value}")
        if not isinstance(run["data"], str):
            raise ValueError(f"data {run['data']!r}")
        if run["data"] != self.data:
            raise CheckpointError(
                f"argument --data must be the data of {path}, of SHA-256 {run['data'][:16]}, got {self.data[:16]}"
            )


def digest_dataset(data: Dataset) -> str:
    """Return the SHA-256 of the images, labels and classes of a dataset, and of the shapes, in hexadecimal."""
    sha256 = hashlib.sha256()
    # Checkpoints from before the number of classes was given have digests without it; it was the number of labels then.
    if data.n_classes != 1 + max(int(part.labels.max()) for part in (data.train, data.test)):
        sha256.update(repr(data.n_classes).encode())
    for part in (data.train, data.test):
        for array in (part.images, part.labels):
            sha256.update(repr((array.shape, array.dtype.str)).encode())
            sha256.update(np.ascontiguousarray(array).data)
    return sha256.hexdigest()


def write_checkpoint(path: Path, run: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
    """Replace a checkpoint by a new one.

    At every moment, and after a kill or a loss of power, the path holds either the whole old file or the whole new one,
    for any number of processes that write and read it.

    Parameters
    ----------
    path : Path
        The file; where it is a symbolic link, its target is replaced.
    run : mapping
        Values that JSON can hold.
    arrays : mapping of ndarray
        The arrays by their names in the file; none is called `run`.

    Raises
    ------
    CheckpointError
        Where the file cannot be written; its former content is then unchanged.

    """
    try:
        with open_replacement(path) as file:
            np.savez(file, run=np.array(json.dumps(run)), **arrays)  # type: ignore[arg-type] # no array is allow_pickle
    except OSError as error:
        raise CheckpointError(f"{path}: must be writable, got {error.strerror or error}") from error


def read_checkpoint(
    path: Path, form: str = FORMAT, run_fields: Set[str] = RUN_FIELDS
) -> tuple[dict[str, Any], dict[str, Array]] | None:
    """Read a checkpoint.

    Parameters
    ----------
    path : Path
        The file.
    form : str
        What `run` must have as its `format`.
    run_fields : set of str
        The keys that `run` must have.

    Returns
    -------
    run : dict
        As written; it has the keys of `run_fields`, and except for `format` their values may be anything.
    arrays : dict of ndarray
        The arrays by their names.

    None instead of both if the file does not exist.

    Raises
    ------
    CheckpointError
        Where the file cannot be read or is not a whole checkpoint.

    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CheckpointError(f"{path}: must be readable, got {error.strerror or error}") from error
    with file:
        # For damaged bytes the readers of the archive, its compression, the arrays and JSON raise exceptions of many
        # types, so any exception means a damaged file.
        try:
            if not zipfile.is_zipfile(file):  # NumPy takes any other file for a pickle, and advises to load it
                raise ValueError("no archive of arrays")
            file.seek(0)
            archive = np.load(file, allow_pickle=False)
            run = json.loads(str(archive["run"]))
            if run["format"] != form:
                raise ValueError(f"format {run['format']!r}")
            if set(run) != run_fields:
                raise ValueError(f"the fields {', '.join(run)}")
            return run, {name: archive[name] for name in archive.files if name != "run"}
        except Exception as error:
            raise _not_whole(path, error) from error


def check_checkpoint_path(path: Path) -> None:
    """Check before a long run that a checkpoint can be written, and remove the temporary files of killed runs.

    Raises
    ------
    CheckpointError
        Naming path, rule and value.

    """
    try:
        if path.exists() and not path.is_file():
            found = "a folder" if path.is_dir() else "something else"
            raise CheckpointError(f"{path}: must be a regular file, got {found}")
        check_writable(path)
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"{path}: must be writable, got {error.strerror or error}") from None
    except ValueError as error:
        raise CheckpointError(str(error)) from None


@contextmanager
def lock_checkpoint(path: Path) -> Iterator[None]:
    """Keep other runs from a checkpoint during the block; see `lock_for_run`.

    Raises
    ------
    CheckpointError
        Where another run uses the checkpoint, or the file of the lock cannot be written.

    """
    with ExitStack() as stack:
        try:
            stack.enter_context(lock_for_run(path))
        except LockedError as error:
            message = f"{path}: must be used by one run at a time, got a second while {error} uses it"
            raise CheckpointError(message) from None
        except OSError as error:
            raise CheckpointError(f"{path}: must be writable, got {error.strerror or error}") from error
        yield


def _state_of(rng: Rng) -> dict[str, Any]:
    return rng.state if isinstance(rng, cd.Stream) else dict(rng.bit_generator.state)


def _not_whole(path: Path, error: Exception) -> CheckpointError:
    # The text comes from other libraries or from the file: make it one line of limited length.
    found = textwrap.shorten(str(error), 300, placeholder=" ...") or type(error).__name__
    return CheckpointError(f"{path}: must be a whole training checkpoint, got {found}")
