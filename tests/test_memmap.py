"""Files mapped by np.memmap: dropped in place, in bounded memory, with the bits of an array in memory."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from conftest import writes_what_is_shared

import cdropout as cd

pytestmark = writes_what_is_shared

MIB = 1 << 20
VALUES = np.random.default_rng(0).standard_normal((300, 1000)).astype(np.float32)
EXPECTED = cd.dropout(VALUES, 0.3, rng=1)

memmap = pytest.importorskip("benchmarks.memmap", reason="the tests were taken out of the checkout")
groups = pytest.importorskip("benchmarks.control_group", reason="the tests were taken out of the checkout")


@pytest.fixture
def path(tmp_path):
    """A file with VALUES after a header of 6 bytes, so that they are not aligned."""
    path = tmp_path / "values.bin"
    path.write_bytes(b"header" + VALUES.tobytes())
    return path


def mapped(path, mode):
    return np.memmap(path, np.float32, mode, offset=6, shape=VALUES.shape)


def values_of(path):
    return np.fromfile(path, np.float32, offset=6).reshape(VALUES.shape)


# ---- files after a call ---------------------------------------------------------------------------------------------


def test_a_mapped_file_is_worked_on_in_place(path):
    array = mapped(path, "r+")
    assert cd.dropout(array, 0.3, rng=1, out=array) is array
    array.flush()
    assert np.array_equal(values_of(path), EXPECTED)
    assert path.read_bytes()[:6] == b"header"


def test_a_mapped_file_may_be_worked_on_in_slices(path):
    array, mask = mapped(path, "r+"), cd.draw_mask(VALUES.shape, 0.3, rng=1)
    for low in range(0, 300, 70):
        mask[low : low + 70].apply(array[low : low + 70], out=array[low : low + 70])
    array.flush()
    assert np.array_equal(values_of(path), EXPECTED)


def test_every_layout_of_a_mapped_file_is_worked_on_in_place(path):
    array = mapped(path, "r+")
    cd.dropout(array.T, 0.3, rng=1, out=array.T)
    array.flush()
    assert np.array_equal(values_of(path), cd.dropout(VALUES.T, 0.3, rng=1).T)


@pytest.mark.promise("bad-out")
def test_a_file_mapped_for_reading_is_refused_and_stays_as_it_was(path, isa):
    array, stream = mapped(path, "r"), cd.Stream(1)
    assert np.array_equal(cd.dropout(array, 0.3, rng=1), EXPECTED)
    with pytest.raises(ValueError, match="out must be writable, got a read-only memmap for x of shape"):
        cd.dropout(array, 0.3, rng=stream, out=array)
    assert stream.position == 0
    assert np.array_equal(values_of(path), VALUES)


def test_a_file_mapped_for_a_copy_on_writing_stays_as_it_was(path):
    array = mapped(path, "c")
    cd.dropout(array, 0.3, rng=1, out=array)
    assert np.array_equal(array, EXPECTED)
    assert np.array_equal(values_of(path), VALUES)


# ---- larger than memory ---------------------------------------------------------------------------------------------

DROP_IN_PLACE = """
import sys
import numpy as np
import cdropout as cd

path, n_elems, way = sys.argv[1], int(sys.argv[2]), sys.argv[3]
values = np.arange(1, (1 << 20) + 1, dtype=np.float32)
with open(path, "wb") as file:
    for _ in range(n_elems // len(values)):
        file.write(values)
array = np.memmap(path, np.float32, "r+") if way == "map" else np.fromfile(path, np.float32)
cd.dropout(array, 0.25, rng=1, out=array)
mask = cd.draw_mask(n_elems, 0.25, rng=1)
for low in range(0, n_elems, len(values)):
    part = slice(low, low + len(values))
    assert np.array_equal(array[part], mask[part].apply(values)), low
print("in place")
"""


def on_disk(tmp_path):
    """Return a folder on a disk; a file in a folder in memory would be in memory too."""
    for folder in (tmp_path, Path.cwd()):
        if not memmap.is_in_memory(folder):
            return folder
    pytest.skip("no folder on a disk: those for temporary files and the current one are in memory")
    return None


def test_a_file_larger_than_memory_is_worked_on_in_place(tmp_path):
    folder = on_disk(tmp_path)
    path = folder / "cdropout-larger-than-memory.bin"
    n_elems = 512 * MIB // 4
    try:
        with groups.control_group("memory") as group:
            group.limit_memory(128 * MIB)

            def run(way):
                command = [sys.executable, "-c", DROP_IN_PLACE, str(path), str(n_elems), way]
                return subprocess.run(
                    group.inside(command), cwd=tmp_path, capture_output=True, check=False, timeout=300
                )

            in_place, loaded = run("map"), run("load")
    except (OSError, groups.NoControlGroupError) as error:
        pytest.skip(f"no control group with a limit of memory can be made here: {error}")
    finally:
        path.unlink(missing_ok=True)
    assert in_place.returncode == 0, in_place.stderr.decode()
    assert in_place.stdout == b"in place\n"
    # Control: the limit ends a process that reads the whole file.
    assert loaded.returncode != 0
    assert loaded.stdout == b""


# ---- the benchmark --------------------------------------------------------------------------------------------------


def test_the_benchmark_checks_and_compares_passes(tmp_path):
    path = tmp_path / "array.bin"
    n_elems = MIB + 1000
    rows = memmap.measure(path, n_elems, 2)
    assert [row.name for row in rows][:2] == ["read and write", "np.multiply(m, 1, out=m)"]
    assert rows[0].ratio == 1
    assert all(row.seconds > 0 for row in rows)
    # Reading and writing, and a mask with scale 1, leave the masked file unchanged.
    memmap.check_file(path, cd.draw_mask(n_elems, memmap.P, rng=1))
    lines = memmap.table(rows, n_elems).splitlines()
    assert lines[0].split() == ["seconds", "GB/s", "ratio"]
    assert len(lines) == 5


def test_the_benchmark_refuses_a_file_that_is_not_masked_as_its_slices_are(tmp_path):
    path = tmp_path / "array.bin"
    mask = cd.draw_mask(3 * MIB, 0.1, rng=1)
    memmap.write_file(path, 3 * MIB)
    memmap.apply_mask(path, mask, 1 / 0.9)
    memmap.check_file(path, mask)
    array = np.memmap(path, np.float32, "r+")
    array[2 * MIB + 5] += 1
    array.flush()
    with pytest.raises(memmap.WrongResultError, match="elements 2097152 to 3145728 must be those of a slice"):
        memmap.check_file(path, mask)


def test_folders_in_memory_are_known(tmp_path):
    if not sys.platform.startswith("linux"):
        pytest.skip("needs Linux, to ask for file systems")
    assert memmap.file_system_of(Path("/proc")) == "proc"
    if Path("/dev/shm").is_dir() and memmap.file_system_of(Path("/dev/shm")) == "tmpfs":
        assert memmap.is_in_memory(Path("/dev/shm"))
        with pytest.raises(memmap.argparse.ArgumentTypeError, match="must be on a disk, got /dev/shm on a tmpfs"):
            memmap.parse_folder("/dev/shm")
    with pytest.raises(memmap.argparse.ArgumentTypeError, match="must be a folder, got "):
        memmap.parse_folder(str(tmp_path / "nothing"))


def test_the_program_prints_a_table_and_its_memory(tmp_path, capsys, monkeypatch):
    def refuse(arguments):
        raise groups.NoControlGroupError("not today")

    monkeypatch.setattr(memmap, "run_inside", refuse)
    monkeypatch.setattr(memmap, "is_in_memory", lambda folder: False)
    assert (
        import_module("benchmarks.command_line").main(
            ["memmap", "--mib", "1", "--rounds", "1", "--folder", str(tmp_path)]
        )
        == 0
    )
    out = capsys.readouterr().out
    assert "memory is not limited: not today" in out
    assert "read and write" in out
    assert "memory of the process: " in out
    assert list(tmp_path.iterdir()) == []
