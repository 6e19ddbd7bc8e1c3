"""Python without the interpreter's lock: the library does not switch it on, and values shared by threads stay valid."""

import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import switches_settings
from limits import limits

import cdropout as cd
from cdropout import _kernels

IMPORT_EVERYTHING = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
assert not sys._is_gil_enabled()
"""


def test_no_extension_switches_the_interpreters_lock_on(run_python):
    if not sysconfig.get_config_var("Py_GIL_DISABLED"):
        pytest.skip("this interpreter has its lock always")
    suffix = Path(_kernels.__file__).suffix
    names = [f"cdropout.{path.name.partition('.')[0]}" for path in Path(cd.__file__).parent.glob(f"*{suffix}")]
    assert "cdropout._kernels" in names
    run_python("-W", "error", "-c", IMPORT_EVERYTHING, *names, env={"PYTHON_GIL": ""})


def in_threads(n_threads, work):
    """Return the results of work(i) in n_threads threads that run at the same time."""
    with ThreadPoolExecutor(n_threads) as pool:
        return list(pool.map(work, range(n_threads)))


def test_a_state_that_is_read_while_others_draw_is_one_that_the_stream_had():
    stream = cd.Stream(3)
    key = stream.key

    def work(i):
        if i % 2:
            return [cd.draw_mask(5000, 0.5, rng=stream).start for _ in range(300)]
        return [stream.state["position"] for _ in range(300)]

    found = in_threads(4, work)
    starts = sorted(found[1] + found[3])
    assert starts == [2 * 4096 * i for i in range(600)]
    for read in (found[0], found[2]):
        assert read == sorted(read)  # positions only grow
        assert set(read) <= {*starts, stream.position}
    assert stream.key == key


@pytest.mark.promise("shared-values")
def test_one_mask_is_applied_and_sliced_by_many_threads():
    mask = cd.draw_mask((200, 300), 0.3, rng=1)
    x = np.random.default_rng(0).standard_normal((200, 300), dtype=np.float32)
    whole = mask.apply(x)

    def work(i):
        rows = slice(10 * i, 10 * i + 50)
        return all(np.array_equal(mask[rows].apply(x[rows]), whole[rows]) for _ in range(50))

    assert all(in_threads(8, work))


def test_threads_that_write_parts_of_one_array_write_all_of_it():
    mask = cd.draw_mask((64, 3000), 0.3, rng=1)
    x = np.random.default_rng(0).standard_normal(mask.shape, dtype=np.float32)
    out = np.empty_like(x)
    in_threads(
        8, lambda i: [mask[row : row + 1].apply(x[row : row + 1], out=out[row : row + 1]) for row in range(i, 64, 8)]
    )
    assert np.array_equal(out, mask.apply(x))


@switches_settings
def test_limits_that_change_in_the_middle_change_no_bit():
    mask = cd.draw_mask(100_000, 0.3, rng=1)
    x = np.random.default_rng(0).standard_normal(mask.shape, dtype=np.float32)
    expected = mask.apply(x).tobytes()
    cache_bytes = _kernels.get_limits()["max_cached_bytes"]

    def work(i):
        if i == 0:
            for n in range(200):
                _kernels.set_limits(min_elems_per_thread=1 if n % 2 else 262144)
                _kernels.set_limits(max_cached_bytes=0 if n % 3 else cache_bytes)
            return True
        return all(mask.apply(x).tobytes() == expected for _ in range(20))

    with limits():
        assert all(in_threads(4, work))


def test_a_bit_generators_state_is_whole_while_others_draw():
    shared, alone = cd.StreamBitGenerator(5), cd.StreamBitGenerator(5)
    expected = set(alone.random_raw(4 * 200 * 7).tolist())

    def work(i):
        if i == 0:
            return [shared.state for _ in range(500)]
        return [number for _ in range(200) for number in shared.random_raw(7).tolist()]

    states, *drawn = in_threads(5, work)
    assert set().union(*drawn) == expected
    assert sum(map(len, drawn)) == len(expected)
    for state in states:
        assert state["state"]["key"] == alone.state["state"]["key"]
        assert state["state"]["position"] % 7 == 0
    assert [s["state"]["position"] for s in states] == sorted(s["state"]["position"] for s in states)
