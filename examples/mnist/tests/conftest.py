"""Fixtures of several files: the data, and the number of BLAS threads."""

import gzip
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from cdropout.digits.data import Dataset, LabelledImages, load_dataset
from sample import SAMPLE

# As in tests/conftest.py: a program that a test interrupts must not inherit that SIGINT is ignored.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def one_blas_thread():
    """Limit BLAS to one thread: sums depend on the number of threads, and so does the time on a busy machine."""
    with threadpool_limits(1, user_api="blas"):
        yield


@pytest.fixture(scope="session")
def sample() -> Dataset:
    """The sample of MNIST in the repository."""
    return load_dataset(SAMPLE)


@pytest.fixture(scope="session")
def few(sample: Dataset) -> Dataset:
    """A part of the sample that trains in a fraction of a second."""
    parts = ((sample.train, 300), (sample.test, 100))
    return Dataset(*(LabelledImages(part.images[:n], part.labels[:n]) for part, n in parts))


@pytest.fixture
def few_folder(few: Dataset, tmp_path: Path) -> Path:
    """The small part of the sample as gzipped idx files."""
    folder = tmp_path / "idx"
    folder.mkdir()
    for prefix, images in (("train", few.train), ("t10k", few.test)):
        for kind, magic, array in (("images-idx3", 0x0803, images.images), ("labels-idx1", 0x0801, images.labels)):
            header = np.array([magic, *array.shape], ">u4").tobytes()
            (folder / f"{prefix}-{kind}-ubyte.gz").write_bytes(gzip.compress(header + array.tobytes()))
    return folder


@pytest.fixture(scope="session")
def mnist_folder() -> str:
    """The folder of all of MNIST, where the environment names one."""
    folder = os.environ.get("CDROPOUT_MNIST")
    if not folder:
        pytest.skip("CDROPOUT_MNIST names no folder of MNIST's idx files")
    return folder
