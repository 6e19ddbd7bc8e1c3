"""The state of a training run in a file: written so that a kill at any moment leaves a whole one, read without trust.

The file is an npz archive: the arrays under their own names, and under `run` a JSON string with all that is no array.
"""

import hashlib
import json
import math
import os
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from mnist_data import Dataset
from scores import Evaluation, as_saved, from_saved

import cdropout as cd

Array = npt.NDArray[Any]
Rng = cd.Stream | np.random.Generator

FORMAT = "cdropout training checkpoint 1"
RUN_FIELDS = {"format", "config", "data", "rng", "n_steps", "evaluations"}


class CheckpointError(ValueError):
    """A checkpoint cannot be written or read, or is of another run; the message names the file, the rule, the value."""


@dataclass(frozen=True)
class Checkpoints:
    """Where a run keeps its state.

    Attributes
    ----------
    path : Path
        The file; each writing replaces it as a whole.
    every : int
        The steps from one writing to the next, at least 1; the last step is followed by one in any case.
    resume : bool
        Whether to go on from the file where there is one.

    Raises
    ------
    ValueError
        For an `every` below 1.

    """

    path: Path
    # With 784-512-512-10, a writing takes about 20 ms on a disk, and fifty steps 230 ms.
    every: int = 50
    resume: bool = False

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"checkpoint-every must be at least 1, got {self.every}")


@dataclass
class RunState:
    """What tells one run from another, and all that changes in its course.

    Attributes
    ----------
    config : dict
        The run's options by the names of their arguments, each a value that JSON can hold.
    data : str
        The digest of the data, from `digest_dataset`.
    n_steps_in_all : int
        The steps that the run makes from its beginning to its end.
    arrays : dict of ndarray
        The run's own arrays, not copies: `save` reads them and `restore` writes into them.
    rng : Stream or Generator
        What masks are drawn from; likewise the run's own.
    n_steps : int
        The steps made. With `config`, it tells the place in the order of the batches.
    evaluations : list of Evaluation
        The evaluations made.

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
            Where the file cannot be written; what was there before is then still there.

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
        """Take over the state in a file; without a file, nothing changes.

        Raises
        ------
        CheckpointError
            Where the file cannot be read, is no whole checkpoint, or is of a run with another configuration or other
            data. The state is then good for nothing any more.

        """
        checkpoint = read_checkpoint(path)
        if checkpoint is None:
            return
        run, arrays = checkpoint
        # As in read_checkpoint: the setters of generators have exceptions of their own.
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
            own["position"] = saved["position"]  # all else of a stream is its seed's, which the configuration gives
        else:
            self.rng.bit_generator.state = saved
            own = _state_of(self.rng)
        # NumPy's generators take what they can use, and leave the rest.
        if json.dumps(saved, sort_keys=True) != json.dumps(own, sort_keys=True):
            raise ValueError(f"rng {saved}")

    def _check_same_run(self, path: Path, run: dict[str, Any]) -> None:
        """Raise CheckpointError where a file's configuration or data are not those of this run."""
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
    """Return the SHA-256 of the images and labels of a dataset, and of their shapes, in hexadecimal."""
    sha256 = hashlib.sha256()
    for part in (data.train, data.test):
        for array in (part.images, part.labels):
            sha256.update(repr((array.shape, array.dtype.str)).encode())
            sha256.update(np.ascontiguousarray(array).data)
    return sha256.hexdigest()


def write_checkpoint(path: Path, run: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
    """Replace a checkpoint by a new one.

    Whoever opens the file at any moment, or finds it after a kill or a loss of power, has the old or the new one, each
    whole.

    Parameters
    ----------
    path : Path
        Of the file; where it is a symbolic link, what that points to is replaced.
    run : mapping
        What JSON can hold.
    arrays : mapping of ndarray
        By their names in the file; none is called `run`.

    Raises
    ------
    CheckpointError
        Where the file cannot be written; what was there before is then still there.

    """
    path = Path(os.path.realpath(path))
    temporary = _temporary_of(path)
    try:
        try:
            with temporary.open("wb") as file:
                np.savez(file, run=np.array(json.dumps(run)), **arrays)
                file.flush()
                # The contents must be on the disk before the name is: file systems may put them there in any order.
                os.fsync(file.fileno())
            os.replace(temporary, path)
            _sync_folder(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise CheckpointError(f"{path}: must be writable, got {error.strerror or error}") from error


def read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Array]] | None:
    """Read a checkpoint.

    Parameters
    ----------
    path : Path
        Of the file.

    Returns
    -------
    run : dict
        As it was written; it has the keys that `RunState.save` gives it, and but for `format` they may hold anything.
    arrays : dict of ndarray
        By their names.

    None in the place of both where there is no file.

    Raises
    ------
    CheckpointError
        Where the file cannot be read or is no whole checkpoint.

    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CheckpointError(f"{path}: must be readable, got {error.strerror or error}") from error
    with file:
        # The archive, its compression, the arrays' headers and JSON: each has exceptions of its own for bytes that were
        # never meant for it, so every exception is taken for what it says about the file.
        try:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("a single array")
            run = json.loads(str(archive["run"]))
            if run["format"] != FORMAT:
                raise ValueError(f"format {run['format']!r}")
            if set(run) != RUN_FIELDS:
                raise ValueError(f"the fields {', '.join(run)}")
            return run, {name: archive[name] for name in archive.files if name != "run"}
        except Exception as error:
            raise _not_whole(path, error) from error


def check_checkpoint_path(path: Path) -> None:
    """Find out before a long run whether a checkpoint can be written, and clean up what a killed run left behind.

    Raises
    ------
    CheckpointError
        Naming path, rule and value.

    """
    path = Path(os.path.realpath(path))
    try:
        if path.exists() and not path.is_file():
            found = "a folder" if path.is_dir() else "something else"
            raise CheckpointError(f"{path}: must be a regular file, got {found}")
        temporary = _temporary_of(path)
        temporary.open("wb").close()
        temporary.unlink()
    except OSError as error:
        raise CheckpointError(f"{path}: must be writable, got {error.strerror or error}") from None


def _temporary_of(path: Path) -> Path:
    """Return where a checkpoint is written before it takes its name: in the same folder, so that renaming is atomic.

    The same for every run, so that what a killed one left behind is overwritten by the next.
    """
    return path.with_name(f".{path.name}.partial")


def _sync_folder(folder: Path) -> None:
    """Wait until a renaming in a folder is on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _state_of(rng: Rng) -> dict[str, Any]:
    return rng.state if isinstance(rng, cd.Stream) else dict(rng.bit_generator.state)


def _not_whole(path: Path, error: Exception) -> CheckpointError:
    # One line of some length, whatever the library that found the fault wrote, and whatever the file holds.
    found = textwrap.shorten(str(error), 300, placeholder=" ...") or type(error).__name__
    return CheckpointError(f"{path}: must be a whole checkpoint of train_mnist.py, got {found}")
