"""Load labelled images: a folder of idx files, a sample in an npz file, or digits that are drawn without any file.

The idx format (Yann LeCun, "The MNIST database of handwritten digits") is a big-endian magic number, whose third byte
gives the element type and fourth the number of dimensions, one uint32 for each dimension, and the elements in C order.
"""

import gzip
import math
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from .drawing import N_TEST, N_TRAIN, SEED, draw_digits

N_CLASSES = 10  # of MNIST, Fashion-MNIST, KMNIST and QMNIST, whose files have the same names

_UINT8 = 0x08  # the idx format's code for the element type
_CHUNK_BYTES = 1 << 20


class DataError(ValueError):
    """Report a data file that is missing or damaged; the message names the file, the rule and the value."""


@dataclass(frozen=True)
class LabelledImages:
    """Images with one class each.

    Attributes
    ----------
    images : ndarray of uint8, shape (n_images, n_rows, n_cols)
    labels : ndarray of uint8, shape (n_images,)

    Raises
    ------
    DataError
        For an array of another dtype or number of dimensions, without elements, or of another length than the other.

    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]

    def __post_init__(self) -> None:
        for name, array, n_dims in (("images", self.images, 3), ("labels", self.labels, 1)):
            if array.dtype != np.uint8 or array.ndim != n_dims or not array.size:
                raise DataError(
                    f"{name} must be a uint8 array of {n_dims} dimensions with at least 1 element, "
                    f"got {array.dtype} of shape {array.shape}"
                )
        if len(self.images) != len(self.labels):
            raise DataError(f"labels must be one for each of the {len(self.images)} images, got {len(self.labels)}")

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """A training set and a test set of images of one size.

    Attributes
    ----------
    train, test : LabelledImages
    n_classes : int
        The number of classes, in [1, 256]. The classes are the integers in [0, n_classes).

    Raises
    ------
    DataError
        For images of different sizes, or a label that is not a class.
    ValueError
        For another number of classes.

    """

    train: LabelledImages
    test: LabelledImages
    n_classes: int = N_CLASSES

    def __post_init__(self) -> None:
        check_n_classes(self.n_classes)
        if self.train.images.shape[1:] != self.test.images.shape[1:]:
            raise DataError(
                f"test images must have the size of the training images, {_size(self.train.images)} pixels, "
                f"got {_size(self.test.images)}"
            )
        for name, part in (("training set", self.train), ("test set", self.test)):
            _check_labels(name, part.labels, self.n_classes)

    @property
    def n_pixels(self) -> int:
        """The number of pixels of an image."""
        return math.prod(self.train.images.shape[1:])


def pixels(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Turn uint8 images (n_images, n_rows, n_cols) into float32 rows (n_images, n_rows * n_cols) in [0, 1]."""
    return images.reshape(len(images), -1) * np.float32(1 / 255)


def check_n_classes(n_classes: int) -> None:
    """Raise ValueError unless a number of classes is in [1, 256], as many as labels of uint8 can name."""
    if not 1 <= n_classes <= 256:
        raise ValueError(f"classes must be in [1, 256], got {n_classes}")


def load_dataset(source: str | Path | None = None, n_classes: int = N_CLASSES) -> Dataset:
    """Load images from files, or draw them.

    Parameters
    ----------
    source : str, Path or None
        None: the 10,000 training and 2,000 test digits that `draw_digits` draws.
        A file with the suffix `.npz`: read by `load_sample`.
        A folder with the four files `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-images-idx3-ubyte` and
        `t10k-labels-idx1-ubyte`, each also as `train-images.idx3-ubyte` and so on, and each also gzipped with `.gz`
        after its name; where a file is there more than once, the first of these spellings counts.
    n_classes : int
        The number of classes, in [1, 256]. The files do not give it, and the largest label is no substitute: one
        damaged label would add classes.

    Raises
    ------
    DataError
        For a file that is missing, unreadable, too short, too long, not of uint8 elements in the number of dimensions
        its name gives, or at odds with another of the files; and for a label outside [0, n_classes).
    ValueError
        For another number of classes.

    """
    check_n_classes(n_classes)
    if source is None:
        train_seed, test_seed = np.random.SeedSequence(SEED).spawn(2)
        train, test = (LabelledImages(*draw_digits(n, s)) for n, s in ((N_TRAIN, train_seed), (N_TEST, test_seed)))
        return Dataset(train, test, n_classes)
    folder = Path(source)
    if folder.suffix == ".npz" and not folder.is_dir():
        return load_sample(folder, n_classes)
    if not folder.is_dir():
        raise DataError(f"{folder}: must be a folder of idx files, got {'a file' if folder.exists() else 'nothing'}")
    train, train_path = _load_pair(folder, "train", n_classes)
    test, test_path = _load_pair(folder, "t10k", n_classes)
    if train.images.shape[1:] != test.images.shape[1:]:
        raise DataError(
            f"{test_path}: images must have the size of those of {train_path.name}, "
            f"{_size(train.images)} pixels, got {_size(test.images)}"
        )
    return Dataset(train, test, n_classes)


def load_sample(path: str | Path, n_classes: int = N_CLASSES) -> Dataset:
    """Load a file written by `examples/mnist/make_sample.py`.

    Raises
    ------
    DataError
        For a file that is missing or not such a sample, or has a label outside [0, n_classes).

    """
    path = Path(path)
    try:
        # np.load does not close a damaged file that it has opened itself.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            train, test = (
                LabelledImages(arrays[f"{name}_images"], arrays[f"{name}_labels"]) for name in ("train", "test")
            )
    except FileNotFoundError:
        raise DataError(f"{path}: file must exist, got none (examples/mnist/make_sample.py makes it)") from None
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except (OSError, EOFError, ValueError, KeyError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: must be a sample written by make_sample.py, got {error}") from error
    try:
        return Dataset(train, test, n_classes)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def load_idx(path: str | Path, n_dims: int) -> npt.NDArray[np.uint8]:
    """Read one idx file of uint8 elements.

    Parameters
    ----------
    path : str or Path
        Decompressed where its name ends in `.gz`.
    n_dims : int
        The number of dimensions the file must have: 3 for images, 1 for labels.

    Returns
    -------
    ndarray of uint8
        Of the shape the file's header gives; read-only.

    Raises
    ------
    DataError
        For a file that cannot be read, has another element type or number of dimensions, or is shorter or longer than
        its header says.

    """
    path = Path(path)
    opener: Callable[..., IO[bytes]] = gzip.open if path.suffix == ".gz" else open  # type: ignore[assignment]
    try:
        with opener(path, "rb") as file:
            header = file.read(4 + 4 * n_dims)
            shape = _parse_header(path, header, n_dims)
            n_bytes = math.prod(shape)
            # Reading one byte more than promised detects a file that is too long, and makes gzip check its trailer.
            elements = _read_at_most(file, n_bytes + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: must be a whole gzip file, got {error}") from error
    except OSError as error:
        raise DataError(f"{path}: must be readable, got {error.strerror or error}") from error
    if len(elements) != n_bytes:
        found = f"only {len(elements)}" if len(elements) < n_bytes else "more"
        raise DataError(f"{path}: header promises {_times(shape)} = {n_bytes} bytes of elements, got {found}")
    return np.frombuffer(elements, np.uint8).reshape(shape)


def _parse_header(path: Path, header: bytes, n_dims: int) -> tuple[int, ...]:
    """Check an idx header, and return the shape it gives."""
    magic = bytes((0, 0, _UINT8, n_dims))
    if header[:4] != magic:
        found = f"0x{header[:4].hex()}" if header else "an empty file"
        raise DataError(f"{path}: magic number must be 0x{magic.hex()} (idx{n_dims} of uint8), got {found}")
    if len(header) < 4 + 4 * n_dims:
        raise DataError(f"{path}: header must have {4 + 4 * n_dims} bytes, got {len(header)}")
    shape = tuple(int(n) for n in np.frombuffer(header, ">u4", offset=4))
    if 0 in shape:
        raise DataError(f"{path}: every dimension must be at least 1, got {_times(shape)}")
    return shape


def _read_at_most(file: IO[bytes], n_bytes: int) -> bytes:
    """Read n_bytes, or up to the end, in chunks, so that a corrupt header cannot make read() allocate terabytes."""
    chunks = []
    while n_bytes and (chunk := file.read(min(n_bytes, _CHUNK_BYTES))):
        chunks.append(chunk)
        n_bytes -= len(chunk)
    return b"".join(chunks)


def _check_labels(name: object, labels: npt.NDArray[np.uint8], n_classes: int) -> None:
    """Raise DataError if a label is not a class."""
    wrong = np.flatnonzero(labels >= n_classes)
    if wrong.size:
        raise DataError(
            f"{name}: labels must be in [0, {n_classes}), the classes of the data (option --classes), "
            f"got {labels[wrong[0]]} for image {wrong[0]}; {wrong.size} of {labels.size} labels are outside"
        )


def _load_pair(folder: Path, prefix: str, n_classes: int) -> tuple[LabelledImages, Path]:
    """Load the images and labels of one prefix; return them and the path of the images."""
    images_path = _find(folder, f"{prefix}-images", "idx3-ubyte")
    labels_path = _find(folder, f"{prefix}-labels", "idx1-ubyte")
    images, labels = load_idx(images_path, 3), load_idx(labels_path, 1)
    if len(images) != len(labels):
        raise DataError(
            f"{labels_path}: must hold one label for each of the {len(images)} images of {images_path.name}, "
            f"got {len(labels)}"
        )
    _check_labels(labels_path, labels, n_classes)
    return LabelledImages(images, labels), images_path


def _find(folder: Path, stem: str, kind: str) -> Path:
    """Return the first spelling of a file's name that exists."""
    for name in (f"{stem}-{kind}", f"{stem}-{kind}.gz", f"{stem}.{kind}", f"{stem}.{kind}.gz"):
        if (folder / name).exists():
            return folder / name
    raise DataError(f"{folder / f'{stem}-{kind}'}: file must exist, there or as {stem}.{kind}, plain or .gz, got none")


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _size(images: npt.NDArray[np.uint8]) -> str:
    return _times(images.shape[1:])
