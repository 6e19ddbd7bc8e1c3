"""The number of threads of a call: the control group's quota, OpenMP's limit, and other calls; the cache's size."""

import hashlib
import os
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from compilers import reason_to_skip
from conftest import needs_core_probe, switches_settings, writes_what_is_shared
from core_probe import regions_that_run
from threadpoolctl import threadpool_limits

import cdropout as cd
from cdropout import _kernels, machine
from cdropout.machine import CpuQuota, cache_bytes, last_level_cache_bytes

needs_openmp = pytest.mark.skipif(not _kernels.has_openmp(), reason="this build has no OpenMP")


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def quota_of(folder, *, mountinfo, membership, files):
    """Return the quota that CpuQuota finds if /proc/self and the mounted control groups have these files."""
    write(folder / "proc/mountinfo", mountinfo.replace("MOUNT", str(folder)))
    write(folder / "proc/cgroup", membership)
    for name, text in files.items():
        write(folder / name, text)
    return CpuQuota(folder / "proc").n_cpus()


V2 = "31 23 0:28 / MOUNT/unified rw,nosuid - cgroup2 cgroup2 rw\n"
V1 = "32 31 0:29 / MOUNT/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
V1_OF_CONTAINER = "32 31 0:29 /docker/abc MOUNT/cpu rw - cgroup cgroup rw,cpu\n"
OTHERS = "20 1 8:1 / / rw - ext4 /dev/sda1 rw\n33 31 0:30 / MOUNT/memory rw - cgroup cgroup rw,memory\nnonsense\n"


@pytest.mark.parametrize(
    ("mountinfo", "membership", "files", "expected"),
    [
        (V2, "0::/\n", {"unified/cpu.max": "150000 100000\n"}, 1.5),
        (V2, "0::/\n", {"unified/cpu.max": "max 100000\n"}, None),
        (V2, "0::/\n", {}, None),
        (V2, "0::/a/b\n", {"unified/a/b/cpu.max": "max 100000\n", "unified/a/cpu.max": "300000 100000\n"}, 3),
        (V2, "0::/a/b\n", {"unified/a/b/cpu.max": "400000 100000\n", "unified/a/cpu.max": "30000 20000\n"}, 1.5),
        (V2, "0::/../../x\n", {"unified/cpu.max": "200000 100000\n", "x/cpu.max": "100000 100000\n"}, 2),
        (V2, "0::/gone\n", {"unified/cpu.max": "200000 100000\n"}, 2),
        (V2, "0::/\n", {"unified/cpu.max": "rubbish\n"}, None),
        (V2, "0::/\n", {"unified/cpu.max": ""}, None),
        (V2, "0::/\n", {"unified/cpu.max": "100000 0\n"}, None),
        (
            V1,
            "4:cpu,cpuacct:/g\n0::/\n",
            {"cpu/g/cpu.cfs_quota_us": "50000\n", "cpu/g/cpu.cfs_period_us": "100000"},
            0.5,
        ),
        (V1, "4:cpu:/g\n", {"cpu/g/cpu.cfs_quota_us": "-1\n", "cpu/g/cpu.cfs_period_us": "100000\n"}, None),
        (V1, "4:cpu:/g\n", {"cpu/g/cpu.cfs_quota_us": "50000\n"}, None),
        (
            V1_OF_CONTAINER,
            "4:cpu:/docker/abc\n",
            {"cpu/cpu.cfs_quota_us": "250000\n", "cpu/cpu.cfs_period_us": "100000\n"},
            2.5,
        ),
        (V1, "4:cpu:/elsewhere/abc\n", {"cpu/cpu.cfs_quota_us": "250000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2.5),
        (V1 + V2, "4:cpu:/\n0::/\n", {"unified/cpu.max": "700000 100000\n"}, 7),
        ("", "0::/\n", {"unified/cpu.max": "100000 100000\n"}, None),
    ],
)
def test_a_control_groups_quota_is_the_smallest_on_the_way_up(tmp_path, mountinfo, membership, files, expected):
    assert quota_of(tmp_path, mountinfo=OTHERS + mountinfo, membership=membership, files=files) == expected


def test_a_machine_without_control_groups_has_no_quota(tmp_path):
    assert CpuQuota(tmp_path / "nothing").n_cpus() is None
    write(tmp_path / "mountinfo", V2)
    assert CpuQuota(tmp_path).n_cpus() is None


@pytest.mark.promise("cpu-quota")
@switches_settings
@needs_openmp
def test_the_quota_limits_the_threads_of_every_call(fixed_quota):
    with threadpool_limits(8, user_api="openmp"):
        for n_cpus, expected in ((None, 8), (100, 8), (3.9, 3), (1.5, 1), (0.2, 1), (0.0, 1), (8, 8)):
            fixed_quota.value = n_cpus
            assert _kernels.thread_limit() == expected
    with threadpool_limits(1, user_api="openmp"):
        assert _kernels.thread_limit() == 1


@pytest.mark.promise("cpu-quota")
@switches_settings
@needs_openmp
@pytest.mark.parametrize("frozen_at", [-3e8, 0.0, 2.5e9])
def test_the_quota_is_followed_after_pythons_clocks_were_replaced(monkeypatch, frozen_at):
    # With a limit of 1 microsecond, a quota is valid for 51 at the longest, after a reading that took a millisecond.
    before = _kernels.set_limits(microseconds_of_quota=1)
    with threadpool_limits(8, user_api="openmp"):
        with monkeypatch.context() as replaced:  # as programs do to test code with dates
            for clock in ("monotonic", "time", "perf_counter"):
                replaced.setattr(time, clock, lambda: frozen_at)
            _kernels.thread_limit()
        time.sleep(100e-6)
        with monkeypatch.context() as limited:
            limited.setattr(machine.CpuQuota, "n_cpus", lambda self: 3.0)
            assert _kernels.thread_limit() == 3
    _kernels.set_limits(**before)


def test_a_quota_stays_valid_for_longer_where_reading_it_is_slow(fixed_quota, monkeypatch):
    n_read = []

    def read_slowly(_: object) -> float:
        n_read.append(1)
        time.sleep(1e-3)
        return 2.0

    monkeypatch.setattr(machine.CpuQuota, "n_cpus", read_slowly)
    _kernels.set_limits(microseconds_of_quota=20_000)
    for _ in range(30):
        _kernels.thread_limit()
        time.sleep(2e-3)  # 60 ms in all, and on a busy machine no more than a second
    assert len(n_read) == 1


@needs_openmp
@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_an_error_while_the_quota_is_read_leaves_stream_and_output_as_they_were(fixed_quota, monkeypatch, error):
    def fail(_: object) -> None:
        raise error

    stream, x, out = cd.Stream(1), np.ones(1_000_000, np.float32), np.zeros(1_000_000, np.float32)
    layers = [cd.Dropout(rng=stream), cd.ReLUDropout(rng=stream), cd.GaussianNoise(0.1, rng=stream)]
    with threadpool_limits(4, user_api="openmp"), monkeypatch.context() as failing:
        failing.setattr(machine.CpuQuota, "n_cpus", fail)
        for call in (
            lambda: cd.dropout(x, rng=stream, out=out),
            lambda: cd.dropout_add(x, x, rng=stream, out=out),
            lambda: cd.gaussian_noise(x, 0.1, rng=stream, out=out),
            *(lambda layer=layer: layer.forward(x) for layer in layers),
            cd.Mask(7, 0, 0.5, x.shape).keep,
        ):
            with pytest.raises(error):
                call()
    assert stream.position == 0
    assert not out.any()


COUNT_THREADS = """
import hashlib, os, sys
from pathlib import Path
group = sys.argv[1]
if group:
    Path(group, "cgroup.procs").write_text(str(os.getpid()))
import numpy as np
import cdropout as cd
from cdropout import _kernels
y = cd.dropout(np.ones(3_000_000, np.float32), rng=1)
print(_kernels.thread_limit(), len(os.listdir("/proc/self/task")), hashlib.sha256(y).hexdigest())
"""


@pytest.mark.promise("cpu-quota")
@needs_openmp
@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="needs Linux, to count threads")
def test_a_real_quota_of_one_cpu_means_one_thread(run_python):
    groups = pytest.importorskip("benchmarks.control_group", reason="the tests were taken out of the checkout")
    env = {"OMP_NUM_THREADS": "4", "OPENBLAS_NUM_THREADS": "1"}
    try:
        with groups.control_group("cpu") as group:
            group.limit_cpus(1)
            outside = run_python("-c", COUNT_THREADS, "", env=env).stdout.split()
            inside = run_python("-c", COUNT_THREADS, str(group.folder), env=env).stdout.split()
    except (OSError, groups.NoControlGroupError) as error:
        pytest.skip(f"no control group with a CPU quota can be made here: {error}")
    y = cd.dropout(np.ones(3_000_000, np.float32), rng=1)
    digest = hashlib.sha256(y).hexdigest().encode()
    assert inside == [b"1", b"1", digest]
    assert outside[0] == outside[1]
    assert outside[2] == digest


ONE_CPU = """
import hashlib, os, sys, threading
cpus = sorted(os.sched_getaffinity(0))
if "before" in sys.argv:
    os.sched_setaffinity(0, cpus[:1])
import numpy as np
import cdropout as cd
from cdropout import _kernels
from cdropout.machine import CpuQuota
CpuQuota.n_cpus = lambda self: None
n_at_import = len(os.listdir("/proc/self/task"))
if "after" in sys.argv:
    os.sched_setaffinity(0, cpus[:1])
y = cd.draw_mask(3_000_000, 0.1, rng=1).apply(np.ones(3_000_000, np.float32))
found = [_kernels.thread_limit(), n_at_import, len(os.listdir("/proc/self/task"))]
if "after" in sys.argv:
    os.sched_setaffinity(0, cpus)
    found.append(_kernels.thread_limit())
    def narrow():
        os.sched_setaffinity(0, cpus[1:2])
        found.append(_kernels.thread_limit())
    thread = threading.Thread(target=narrow)
    thread.start()
    thread.join()
    found.append(_kernels.thread_limit())
print(hashlib.sha256(y).hexdigest(), *found)
"""


@pytest.mark.promise("bound-cpus")
@needs_openmp
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux, to bind a process to a CPU")
@pytest.mark.parametrize(("when", "later"), [("before", []), ("after", [2, 1, 2])])
def test_a_process_bound_to_one_cpu_uses_one_thread(run_python, when, later):
    available = sorted(os.sched_getaffinity(0))
    if len(available) < 2:
        pytest.skip("needs two CPUs")
    prefix = f"import os; os.sched_setaffinity(0, {available[:2]})\n"  # two on every machine
    env = dict.fromkeys(("OMP_NUM_THREADS", "OMP_PLACES", "OMP_PROC_BIND"), "") | {"OPENBLAS_NUM_THREADS": "1"}
    digest, *found = run_python("-c", prefix + ONE_CPU, when, env=env).stdout.decode().split()
    y = cd.draw_mask(3_000_000, 0.1, rng=1).apply(np.ones(3_000_000, np.float32))
    assert digest == hashlib.sha256(y).hexdigest()
    assert list(map(int, found)) == [1, 1, 1, *later]


@pytest.mark.promise("bound-cpus")
@needs_openmp
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux, to bind a process to a CPU")
def test_a_process_bound_to_one_cpu_uses_the_threads_that_its_environment_asks_for(run_python):
    env = {"OMP_NUM_THREADS": "2", "OMP_PLACES": "", "OMP_PROC_BIND": "", "OPENBLAS_NUM_THREADS": "1"}
    _, *found = run_python("-c", ONE_CPU, "before", env=env).stdout.decode().split()
    assert list(map(int, found)) == [2, 1, 2]


FROM_A_REGION = """
import ctypes, hashlib, os, sys
import numpy as np
import cdropout as cd
from cdropout import _kernels
from cdropout.machine import CpuQuota
CpuQuota.n_cpus = lambda self: None
mask = cd.draw_mask(3_000_000, 0.1, rng=1)
x = np.ones(mask.shape, np.float32)
digests, n_threads, limits = [], [], []

@ctypes.CFUNCTYPE(None, ctypes.c_int)
def call(thread):
    digests.append(hashlib.sha256(mask.apply(x)).hexdigest())
    limits.append(_kernels.thread_limit())
    n_threads.append(len(os.listdir("/proc/self/task")))

region = ctypes.CDLL(sys.argv[1]).call_from_region
region(call, 4)
region(call, 4)
print(digests[0], len(digests), len(set(digests)), *set(limits), max(n_threads), _kernels.thread_limit())
"""


@pytest.mark.promise("nested-parallel")
@needs_openmp
@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="needs Linux, to count threads")
@pytest.mark.parametrize("nested", [{"OMP_MAX_ACTIVE_LEVELS": "2"}, {"OMP_NESTED": "true"}, {}], ids=str)
def test_calls_from_another_librarys_parallel_region_start_no_more_threads(tmp_path, run_python, nested):
    source = Path(__file__).with_name("parallel_region.c")
    if reason := reason_to_skip("cc", "-fopenmp"):
        pytest.skip(reason)
    library = tmp_path / "region.so"
    build = ["cc", "-shared", "-fPIC", "-fopenmp", "-o", library, source]
    subprocess.run(build, check=True, timeout=60, capture_output=True)
    env = {"OMP_NUM_THREADS": "4", "OPENBLAS_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", **nested}
    digest, *found = run_python("-c", FROM_A_REGION, str(library), env=env).stdout.decode().split()
    y = cd.draw_mask(3_000_000, 0.1, rng=1).apply(np.ones(3_000_000, np.float32))
    assert digest == hashlib.sha256(y).hexdigest()
    # 8 calls, one result, each on one thread, with the region's 4 alive; outside the region the limit is unchanged.
    assert list(map(int, found)) == [8, 1, 1, 4, 4]


@pytest.mark.promise("shared-values")
def test_calls_from_many_threads_at_once_give_the_same_bits(fixed_quota):
    mask = cd.draw_mask(1_500_000, 0.3, rng=1)
    x = np.random.default_rng(0).standard_normal(mask.shape, dtype=np.float32)
    expected = mask.apply(x).tobytes()
    results = []
    barrier = threading.Barrier(5)

    def call():
        barrier.wait()
        for _ in range(5):
            results.append(mask.apply(x).tobytes() == expected)

    threads = [threading.Thread(target=call) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 25


@writes_what_is_shared
def test_the_last_level_cache_is_the_largest_that_holds_data(tmp_path):
    assert last_level_cache_bytes(tmp_path) is None
    for index, (level, kind, size) in enumerate(
        [("1", "Data", "48K"), ("1", "Instruction", "64K"), ("2", "Unified", "1024K"), ("3", "Unified", "32M")]
    ):
        write(tmp_path / f"index{index}/level", level + "\n")
        write(tmp_path / f"index{index}/type", kind + "\n")
        write(tmp_path / f"index{index}/size", size + "\n")
    assert last_level_cache_bytes(tmp_path) == 32 << 20
    assert cache_bytes(tmp_path) == {1: 48 << 10, 2: 1 << 20, 3: 32 << 20}
    (tmp_path / "index3/size").write_text("not a size")
    assert last_level_cache_bytes(tmp_path) == 1 << 20
    (tmp_path / "index2/type").unlink()
    assert last_level_cache_bytes(tmp_path) == 48 << 10
    assert _kernels.get_limits()["max_cached_bytes"] > 0


# ---- busy machines --------------------------------------------------------------------------------------------------


@needs_core_probe
def test_a_team_that_is_slower_than_one_thread_pauses_and_is_tried_again():
    n = 10_000  # calls, one a millisecond: ten seconds
    assert regions_that_run([300] * n, [290] * n, step=1000) == n  # each thread works for 290 of 300 microseconds
    assert regions_that_run([600] * n, [290] * n, step=1000) == n  # as slow as one thread
    assert 4 <= regions_that_run([20_000] * n, [290] * n, step=1000) <= 8
    # The machine becomes idle: within the longest pause the team works again, and goes on.
    assert regions_that_run([20_000] * n + [300] * n, [290] * 2 * n, step=1000) > n - 5000
    # One slow region on an idle machine costs the 8 milliseconds of the first pause.
    assert regions_that_run([300] * 100 + [20_000] + [300] * n, [290] * (n + 101), step=1000) >= n + 101 - 28
