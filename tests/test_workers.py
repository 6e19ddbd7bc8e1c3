"""Workers: processes started in every way, threads of a pool, children of a process whose other threads are running."""

import hashlib
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import IS_WINE

import cdropout as cd
from cdropout import _kernels

X = np.random.default_rng(0).standard_normal(3_000_000, dtype=np.float32)  # enough for several threads
MASK = cd.draw_mask(X.shape, 0.1, rng=3)
DIGEST = hashlib.sha256(MASK.apply(X).tobytes()).digest()
SMALL = np.ones(300, np.float32)

fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
many_threads = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


def digest():
    return hashlib.sha256(MASK.apply(X).tobytes()).digest()


# Each child prints the digest of a default draw, the digest of MASK.apply(X), its thread limit and its number of
# threads; the parent prints the same before and after. C's fork() bypasses Python's hooks.
FORK_50_TIMES = """
import ctypes, hashlib, os, signal, sys
import numpy as np
import cdropout as cd
from cdropout import _kernels

from cdropout.machine import CpuQuota
CpuQuota.n_cpus = lambda self: None
fork = os.fork if sys.argv[1] == "Python" else ctypes.PyDLL(None).fork

def report():
    small = hashlib.sha256(cd.dropout(np.ones(300, np.float32))).hexdigest()
    large = hashlib.sha256(MASK.apply(X)).hexdigest()
    n_threads = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else "?"
    os.write(write_end, f"{small} {large} {_kernels.thread_limit()} {n_threads}\\n".encode())

X = np.random.default_rng(0).standard_normal(3_000_000, dtype=np.float32)
MASK = cd.draw_mask(X.shape, 0.1, rng=3)
write_end = sys.stdout.fileno()
report()
for _ in range(50):
    child = fork()
    if child == 0:
        signal.alarm(5)  # the default action also ends a child that hangs in C
        status = 1
        try:
            report()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
report()
"""


@pytest.mark.promise("fork", "worker-masks")
@fork
@pytest.mark.parametrize("whose", ["Python", "C"])
def test_50_children_forked_after_a_parallel_region_end_within_5_seconds_with_the_right_bits(run_python, whose):
    # In a child, GNU's OpenMP would wait for ever for the parent's threads; with it, the library uses one thread there.
    env = {"OMP_NUM_THREADS": "4", "OPENBLAS_NUM_THREADS": "1"}
    arguments = ("-W", "ignore::DeprecationWarning", "-c", FORK_50_TIMES, whose)
    lines = run_python(*arguments, env=env).stdout.decode().split("\n")[:-1]
    small, large, limits, n_threads = zip(*(line.split() for line in lines), strict=True)
    assert large == (DIGEST.hex(),) * 52
    assert len(set(small)) == 52
    team = "4" if _kernels.has_openmp() else "1"
    assert limits == (team, *["1"] * 50, team)
    if n_threads[0] != "?":
        assert n_threads == (team, *["1"] * 50, team)  # the parent's threads existed before the first fork


@pytest.mark.promise("forked-stream")
@fork
@many_threads
def test_forked_children_go_on_with_a_stream_they_were_given_as_their_parent_does(in_forked_child):
    stream = cd.Stream(5)
    cd.dropout(SMALL, rng=stream)
    layer = cd.Dropout(0.5, rng=stream)
    drawn = [in_forked_child(lambda: cd.dropout(SMALL, rng=stream).tobytes()) for _ in range(3)]
    drawn.append(in_forked_child(lambda: layer.forward(SMALL).tobytes()))
    assert set(drawn) == {cd.dropout(SMALL, rng=stream).tobytes()}


@pytest.mark.promise("worker-streams")
@fork
@many_threads
def test_forked_children_that_take_a_spawned_stream_each_never_draw_the_same(in_forked_child):
    streams = cd.Stream(5).spawn(8)
    drawn = [in_forked_child(lambda stream=stream: cd.dropout(SMALL, rng=stream).tobytes()) for stream in streams]
    assert drawn == [cd.dropout(SMALL, rng=stream).tobytes() for stream in cd.Stream(5).spawn(8)]
    assert len(set(drawn)) == 8


@pytest.mark.promise("fork")
@fork
@many_threads
def test_a_thread_other_than_the_main_one_may_fork(in_forked_child):
    with ThreadPoolExecutor(1) as pool:
        pool.submit(digest).result()
        assert [pool.submit(in_forked_child, digest).result() for _ in range(3)] == [DIGEST] * 3
        drawn = [pool.submit(in_forked_child, lambda: cd.dropout(SMALL).tobytes()).result() for _ in range(3)]
        drawn.append(pool.submit(lambda: cd.dropout(SMALL).tobytes()).result())
    assert len({*drawn, cd.dropout(SMALL).tobytes()}) == 5


@pytest.mark.promise("fork")
@fork
@many_threads
def test_a_fork_in_the_middle_of_other_threads_calls_gives_a_child_that_works(in_forked_child):
    streams, is_over, digests = cd.Stream(1), threading.Event(), []

    def apply_masks():
        while not is_over.is_set():
            digests.append(digest())

    def draw_and_spawn():
        while not is_over.is_set():
            cd.dropout(SMALL)
            cd.dropout(SMALL, rng=streams.spawn(1)[0])

    def work():
        child = cd.Stream(1).spawn(1)[0]
        streams.spawn(1)
        return digest() + cd.dropout(SMALL, rng=child).tobytes()

    threads = [threading.Thread(target=target) for target in (apply_masks, apply_masks, draw_and_spawn)]
    for thread in threads:
        thread.start()
    try:
        expected = DIGEST + cd.dropout(SMALL, rng=cd.Stream(1).spawn(1)[0]).tobytes()
        assert [in_forked_child(work) for _ in range(20)] == [expected] * 20
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
    assert set(digests) == {DIGEST}


@pytest.mark.promise("stream-per-thread")
def test_threads_of_a_pool_draw_from_their_streams_what_one_thread_would():
    x = np.ones(700_000, np.float32)
    with ThreadPoolExecutor(8) as pool:
        drawn = list(pool.map(lambda stream: cd.dropout(x, rng=stream).tobytes(), cd.Stream(5).spawn(24)))
    assert drawn == [cd.dropout(x, rng=stream).tobytes() for stream in cd.Stream(5).spawn(24)]


# ---- workers of other libraries -------------------------------------------------------------------------------------

# A separate program, because workers import the main program anew, and servers remain after them.
WORKERS = """
import hashlib, json, multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
import numpy as np
import cdropout as cd

SMALL = np.ones(300, np.float32)

def small(_):
    return hashlib.sha256(cd.dropout(SMALL)).hexdigest()

def seeded(stream):
    return hashlib.sha256(cd.dropout(SMALL, rng=stream)).hexdigest()

def large(mask):
    return hashlib.sha256(mask.apply(np.ones(mask.shape, np.float32))).hexdigest()

def send(pipe, stream, mask):
    pipe.send((small(None), seeded(stream), large(mask)))

def in_processes(context, streams, mask):
    # One process for each, so that no two draw from the same default stream.
    pipes, processes = [], []
    for stream in streams:
        here, there = context.Pipe(duplex=False)
        processes.append(context.Process(target=send, args=(there, stream, mask)))
        processes[-1].start()
        there.close()
        pipes.append(here)
    found = [pipe.recv() for pipe in pipes]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    return found

def in_joblib(backend, streams, mask):
    import joblib
    parallel = joblib.Parallel(n_jobs=2, backend=backend)
    found = [parallel(joblib.delayed(call)(a) for a in many)
             for call, many in ((small, streams), (seeded, streams), (large, [mask] * len(streams)))]
    return list(zip(*found))

def in_executor(context, streams, mask):
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        return list(zip(pool.map(small, streams), pool.map(seeded, streams), pool.map(large, [mask] * len(streams))))

if __name__ == "__main__":
    kind, method, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
    mask = cd.draw_mask(1_500_000, 0.1, rng=3)
    right = large(mask)  # starts OpenMP's threads here
    streams = cd.Stream(5).spawn(n)
    if kind == "joblib":
        found = in_joblib(method, streams, mask)
    else:
        context = multiprocessing.get_context(method)
        if method == "forkserver":
            context.set_forkserver_preload(["numpy", "cdropout"])
        found = (in_processes if kind == "process" else in_executor)(context, streams, mask)
    print(json.dumps({
        "n_masks": len({found[i][0] for i in range(n)} | {small(None)}),
        "seeded": [f[1] for f in found] == [seeded(stream) for stream in cd.Stream(5).spawn(n)],
        "large": [f[2] for f in found] == [right] * n,
    }))
"""


@pytest.mark.promise("worker-masks", "worker-streams")
@pytest.mark.parametrize(
    ("kind", "method", "n_workers"),
    [
        ("process", "fork", 8),
        ("process", "spawn", 3),
        ("process", "forkserver", 8),
        ("executor", "fork", 4),
        ("executor", "spawn", 4),
        ("joblib", "loky", 4),
        ("joblib", "multiprocessing", 4),
        ("joblib", "threading", 4),
    ],
)
def test_workers_draw_masks_of_their_own_by_default_and_the_seeds_masks_when_given_streams(
    tmp_path, run_python, kind, method, n_workers
):
    import multiprocessing

    if IS_WINE and (kind == "executor" or method == "loky"):
        pytest.skip("executors of processes hang under Wine, also without this library")
    if kind == "joblib":
        pytest.importorskip("joblib")
    elif method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"needs the start method {method}")
    program = tmp_path / "workers.py"
    program.write_text(WORKERS)
    found = json.loads(run_python("-W", "ignore", str(program), kind, method, str(n_workers)).stdout)
    assert found == {"n_masks": n_workers + 1, "seeded": True, "large": True}
