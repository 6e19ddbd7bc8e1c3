"""The loader of labelled images: the files it reads, and its message for every kind of bad file."""

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest

import make_sample
from cdropout.digits.data import DataError, Dataset, LabelledImages, load_dataset, load_idx, load_sample, pixels
from sample import SAMPLE

N_TRAIN, N_TEST, N_ROWS, N_COLS = 7, 5, 4, 3
IMAGES_MAGIC, LABELS_MAGIC = 0x0803, 0x0801

pytestmark = pytest.mark.thread_unsafe(reason="writes files that a fixture gives to every thread")


def encode_idx(elements: np.ndarray, magic: int) -> bytes:
    return struct.pack(f">{1 + elements.ndim}I", magic, *elements.shape) + elements.tobytes()


def make_files() -> dict[str, bytes]:
    """The four files of a small data set: 4 x 3 pixels, classes 0 to 2."""
    rng = np.random.default_rng(1)
    files = {}
    for prefix, n in (("train", N_TRAIN), ("t10k", N_TEST)):
        images = rng.integers(0, 256, (n, N_ROWS, N_COLS), dtype=np.uint8)
        labels = np.arange(n, dtype=np.uint8) % 3
        files[f"{prefix}-images-idx3-ubyte"] = encode_idx(images, IMAGES_MAGIC)
        files[f"{prefix}-labels-idx1-ubyte"] = encode_idx(labels, LABELS_MAGIC)
    return files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in make_files().items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def assert_same(one: Dataset, other: Dataset) -> None:
    for name in ("train", "test"):
        np.testing.assert_array_equal(getattr(one, name).images, getattr(other, name).images)
        np.testing.assert_array_equal(getattr(one, name).labels, getattr(other, name).labels)


def error_of(folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        load_dataset(folder)
    return str(caught.value)


def test_sample_is_ten_thousand_and_two_thousand_balanced_digits():
    data = load_dataset(SAMPLE)
    assert data.train.images.shape == (10_000, 28, 28)
    assert data.test.images.shape == (2_000, 28, 28)
    assert data.train.images.dtype == data.train.labels.dtype == np.uint8
    assert np.bincount(data.train.labels).tolist() == [1000] * 10
    assert np.bincount(data.test.labels).tolist() == [200] * 10
    assert (data.n_pixels, data.n_classes) == (784, 10)
    assert SAMPLE.stat().st_size < 3_000_000


def test_sample_training_and_test_digits_are_distinct():
    data = load_dataset(SAMPLE)
    digests = {image.tobytes() for images in (data.train.images, data.test.images) for image in images}
    assert len(digests) == 12_000


def test_idx_folder_gives_the_elements_that_were_written(folder):
    data = load_dataset(folder, n_classes=3)
    rng = np.random.default_rng(1)
    train_images = rng.integers(0, 256, (N_TRAIN, N_ROWS, N_COLS), dtype=np.uint8)
    test_images = rng.integers(0, 256, (N_TEST, N_ROWS, N_COLS), dtype=np.uint8)
    np.testing.assert_array_equal(data.train.images, train_images)
    np.testing.assert_array_equal(data.test.images, test_images)
    np.testing.assert_array_equal(data.test.labels, [0, 1, 2, 0, 1])
    assert (data.n_pixels, data.n_classes) == (12, 3)


@pytest.mark.parametrize(("before_idx", "suffix"), [("-", ".gz"), (".", ""), (".", ".gz")])
def test_gzipped_files_and_dotted_names_equal_plain_files_and_hyphenated_names(folder, before_idx, suffix):
    plain = load_dataset(folder)
    for path in list(folder.iterdir()):
        content = path.read_bytes()
        renamed = path.with_name(path.name.replace("-idx", f"{before_idx}idx") + suffix)
        renamed.write_bytes(gzip.compress(content) if suffix else content)
        path.unlink()
    assert_same(load_dataset(str(folder)), plain)


def test_pixels_are_float32_rows_from_0_to_1():
    images = np.array([[[0, 51], [102, 255]]], np.uint8)
    x = pixels(images)
    assert x.dtype == np.float32
    np.testing.assert_allclose(x, [[0, 0.2, 0.4, 1]], rtol=1e-6)


@pytest.mark.parametrize(("name", "found"), [("absent", "nothing"), ("t10k-labels-idx1-ubyte", "a file")])
def test_folder_that_is_none_is_named(folder, name, found):
    assert error_of(folder / name) == f"{folder / name}: must be a folder of idx files, got {found}"


@pytest.mark.parametrize("name", sorted(make_files()))
def test_missing_file_is_named_with_its_spellings(folder, name):
    (folder / name).unlink()
    dotted = name.replace("-idx", ".idx")
    assert error_of(folder) == f"{folder / name}: file must exist, there or as {dotted}, plain or .gz, got none"


@pytest.mark.parametrize(
    ("name", "change", "promised", "found"),
    [
        ("t10k-images-idx3-ubyte", -1, "5 x 4 x 3 = 60", "only 59"),
        ("t10k-images-idx3-ubyte", -N_COLS, "5 x 4 x 3 = 60", "only 57"),
        ("t10k-images-idx3-ubyte", -N_TEST * N_ROWS * N_COLS, "5 x 4 x 3 = 60", "only 0"),
        ("train-labels-idx1-ubyte", -2, "7 = 7", "only 5"),
        ("train-images-idx3-ubyte", 1, "7 x 4 x 3 = 84", "more"),
        ("train-images-idx3-ubyte", 100, "7 x 4 x 3 = 84", "more"),
    ],
)
def test_file_of_another_length_tells_the_bytes_promised_and_found(folder, name, change, promised, found):
    path = folder / name
    content = path.read_bytes()
    path.write_bytes(content[:change] if change < 0 else content + bytes(change))
    assert error_of(folder) == f"{path}: header promises {promised} bytes of elements, got {found}"


def test_over_long_gzipped_file_is_refused(folder):
    plain = folder / "train-images-idx3-ubyte"
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(plain.read_bytes() + b"\0"))
    plain.unlink()
    assert error_of(folder) == f"{path}: header promises 7 x 4 x 3 = 84 bytes of elements, got more"


def test_header_promising_terabytes_is_refused_without_allocating_them(folder):
    path = folder / "train-images-idx3-ubyte"
    path.write_bytes(struct.pack(">4I", IMAGES_MAGIC, 2**32 - 1, 2**32 - 1, 2**32 - 1) + bytes(10))
    n_bytes = (2**32 - 1) ** 3
    side = 2**32 - 1
    assert error_of(folder) == (
        f"{path}: header promises {side} x {side} x {side} = {n_bytes} bytes of elements, got only 10"
    )


@pytest.mark.parametrize(
    ("name", "start", "expected", "found"),
    [
        ("train-images-idx3-ubyte", b"\0\0\x08\x01", "0x00000803 (idx3 of uint8)", "0x00000801"),
        ("train-images-idx3-ubyte", b"\0\0\x0d\x03", "0x00000803 (idx3 of uint8)", "0x00000d03"),
        ("t10k-labels-idx1-ubyte", b"\0\0\x08\x03", "0x00000801 (idx1 of uint8)", "0x00000803"),
        ("t10k-labels-idx1-ubyte", b"\x1f\x8b\x08\0", "0x00000801 (idx1 of uint8)", "0x1f8b0800"),
    ],
    ids=["labels-as-images", "float32-images", "images-as-labels", "gzip-without-its-suffix"],
)
def test_wrong_magic_number_is_told(folder, name, start, expected, found):
    path = folder / name
    path.write_bytes(start + path.read_bytes()[4:])
    assert error_of(folder) == f"{path}: magic number must be {expected}, got {found}"


EMPTY = "magic number must be 0x00000803 (idx3 of uint8), got an empty file"


@pytest.mark.parametrize("n_bytes", [0, 4, 15])
def test_truncated_header_is_told(folder, n_bytes):
    path = folder / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:n_bytes])
    assert error_of(folder) == f"{path}: " + (f"header must have 16 bytes, got {n_bytes}" if n_bytes else EMPTY)


@pytest.mark.parametrize("shape", [(0, 4, 3), (7, 0, 3), (7, 4, 0)])
def test_empty_dimension_is_refused(folder, shape):
    path = folder / "train-images-idx3-ubyte"
    path.write_bytes(encode_idx(np.zeros(shape, np.uint8), IMAGES_MAGIC))
    times = " x ".join(map(str, shape))
    assert error_of(folder) == f"{path}: every dimension must be at least 1, got {times}"


@pytest.mark.parametrize(("name", "n"), [("train-labels-idx1-ubyte", N_TRAIN), ("t10k-labels-idx1-ubyte", N_TEST)])
@pytest.mark.parametrize(("label", "n_classes"), [(255, 10), (10, 10), (3, 3), (255, 255)])
def test_label_that_is_no_class_is_told_with_its_file(folder, name, n, label, n_classes):
    labels = np.arange(n, dtype=np.uint8) % 3
    labels[4] = label
    (folder / name).write_bytes(encode_idx(labels, LABELS_MAGIC))
    with pytest.raises(DataError) as caught:
        load_dataset(folder, n_classes)
    assert str(caught.value) == (
        f"{folder / name}: labels must be in [0, {n_classes}), the classes of the data (option --classes), "
        f"got {label} for image 4; 1 of {n} labels are outside"
    )
    assert load_dataset(folder, label + 1).n_classes == label + 1


@pytest.mark.parametrize("n_classes", [0, -1, 257])
def test_number_of_classes_that_labels_cannot_name_is_refused(folder, n_classes):
    with pytest.raises(ValueError, match=rf"classes must be in \[1, 256\], got {n_classes}"):
        load_dataset(folder, n_classes)


LABELS = np.zeros(3, np.uint8)
IMAGES = np.zeros((3, 4, 2), np.uint8)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES / np.nan, LABELS, r"images must be a uint8 array of 3 dimensions .*, got float64 of shape \(3, 4, 2\)"),
        (IMAGES[:, 0], LABELS, r"images must be a uint8 array of 3 dimensions .*, got uint8 of shape \(3, 2\)"),
        (IMAGES[:0], LABELS[:0], r"images must be .* with at least 1 element, got uint8 of shape \(0, 4, 2\)"),
        (IMAGES, LABELS - 1.0, r"labels must be a uint8 array of 1 dimensions .*, got float64 of shape \(3,\)"),
        (IMAGES, LABELS[:2], "labels must be one for each of the 3 images, got 2"),
    ],
    ids=["not-finite", "no-image", "empty", "float-labels", "missing-label"],
)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_images_of_another_kind_are_refused(images, labels, message, tmp_path):
    with pytest.raises(DataError, match=f"^{message}"):
        LabelledImages(images, labels)
    path = tmp_path / "sample.npz"
    arrays = {"images": IMAGES, "labels": LABELS}
    np.savez(path, train_images=images, train_labels=labels, **{f"test_{name}": a for name, a in arrays.items()})
    with pytest.raises(DataError, match=rf"sample\.npz: {message}"):
        load_sample(path)


def test_data_set_refuses_another_size_and_a_label_that_is_no_class():
    good = LabelledImages(IMAGES, LABELS)
    with pytest.raises(DataError, match="must have the size of the training images, 4 x 2 pixels, got 2 x 4"):
        Dataset(good, LabelledImages(IMAGES.reshape(3, 2, 4), LABELS))
    with pytest.raises(DataError, match=r"training set: labels must be in \[0, 10\), .*, got 11 for image 0; 3 of 3"):
        Dataset(LabelledImages(IMAGES, LABELS + np.uint8(11)), good)


def test_different_numbers_of_images_and_labels_are_told(folder):
    path = folder / "t10k-labels-idx1-ubyte"
    path.write_bytes(encode_idx(np.zeros(4, np.uint8), LABELS_MAGIC))
    assert error_of(folder) == (
        f"{path}: must hold one label for each of the 5 images of t10k-images-idx3-ubyte, got 4"
    )


def test_test_images_of_another_size_are_told(folder):
    path = folder / "t10k-images-idx3-ubyte"
    path.write_bytes(encode_idx(np.zeros((N_TEST, 3, 4), np.uint8), IMAGES_MAGIC))
    assert error_of(folder) == (
        f"{path}: images must have the size of those of train-images-idx3-ubyte, 4 x 3 pixels, got 3 x 4"
    )


def flip_middle_byte(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-9],
        lambda content: content[: len(content) // 2],
        flip_middle_byte,
        lambda content: content[:-8] + bytes(4) + content[-4:],
        lambda content: content + b"trailing",
        lambda content: gzip.decompress(content),
        lambda content: b"",
    ],
    ids=["no-trailer", "half", "flipped-byte", "wrong-checksum", "trailing-bytes", "not-gzip", "empty"],
)
def test_corrupt_gzip_is_told(folder, damage):
    plain = folder / "train-images-idx3-ubyte"
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(gzip.compress(plain.read_bytes())))
    plain.unlink()
    message = error_of(folder)
    # An empty gzip file is an empty stream to Python's gzip, and so an empty idx file.
    rule = "must be a whole gzip file" if path.stat().st_size else "magic number must be 0x00000803"
    assert message.startswith(f"{path}: {rule}")
    assert ", got " in message


def test_folder_in_place_of_a_file_is_told(folder):
    path = folder / "train-images-idx3-ubyte"
    path.unlink()
    path.mkdir()
    reason = "Permission denied" if os.name == "nt" else "Is a directory"
    assert error_of(folder) == f"{path}: must be readable, got {reason}"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root reads every file")
def test_unreadable_file_is_told(folder):
    path = folder / "train-images-idx3-ubyte"
    path.chmod(0)
    assert error_of(folder) == f"{path}: must be readable, got Permission denied"


def test_load_idx_of_an_absent_path_is_told(tmp_path):
    with pytest.raises(DataError, match=r"absent: must be readable, got No such file or directory$"):
        load_idx(tmp_path / "absent", 1)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        flip_middle_byte,
        lambda content: b"no archive",
        lambda content: b"",
    ],
    ids=["half", "flipped-byte", "no-archive", "empty"],
)
def test_damaged_sample_is_told(tmp_path, damage):
    path = tmp_path / "sample.npz"
    path.write_bytes(damage(SAMPLE.read_bytes()))
    with pytest.raises(DataError, match=r"sample\.npz: must be a sample written by make_sample\.py, got "):
        load_sample(path)


def test_sample_without_labels_is_told(tmp_path):
    path = tmp_path / "sample.npz"
    np.savez(path, train_images=np.zeros((1, 2, 2), np.uint8))
    with pytest.raises(
        DataError, match=r"sample\.npz: must be a sample written by make_sample\.py, got .*train_labels"
    ):
        load_sample(path)


def test_missing_sample_is_told(tmp_path):
    with pytest.raises(DataError, match=r"sample\.npz: file must exist, got none"):
        load_sample(tmp_path / "sample.npz")


def test_data_error_is_a_value_error():
    assert issubclass(DataError, ValueError)


def test_sample_is_what_make_sample_makes_of_mnist(mnist_folder, tmp_path):
    out = tmp_path / "sample.npz"
    assert make_sample.main([mnist_folder, "--out", str(out)]) == 0
    assert_same(load_sample(out), load_sample(SAMPLE))


def test_label_of_the_sample_that_is_no_class_is_told_with_its_file():
    with pytest.raises(DataError, match=r"mnist_sample\.npz: training set: labels must be in \[0, 9\), .*, got 9 for"):
        load_dataset(SAMPLE, 9)


def test_make_sample_refuses_too_few_images(folder, tmp_path, capsys):
    out = tmp_path / "sample.npz"
    assert make_sample.main([str(folder), "--out", str(out)]) == 2
    assert "error: class 0 must have at least 1000 images, got 3" in capsys.readouterr().err
    assert not out.exists()


def test_make_sample_writes_the_name_it_is_given_and_tells_a_path_that_cannot_be_written(
    sample, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(make_sample, "load_dataset", lambda folder: sample)
    assert make_sample.main(["folder", "--out", str(tmp_path / "sample")]) == 0
    assert_same(load_sample(tmp_path / "sample"), load_sample(SAMPLE))
    assert [path.name for path in tmp_path.iterdir()] == ["sample"]
    with pytest.raises(SystemExit):
        make_sample.main(["folder", "--out", str(tmp_path / "no" / "sample")])
    path = tmp_path / "no" / "sample"
    reason = "" if os.name == "nt" else "No such file or directory"  # Windows has other words
    assert f"{path}: must be writable, got {reason}" in capsys.readouterr().err
