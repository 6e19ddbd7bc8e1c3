"""Other libraries' OpenMP runtimes in the same process: each binary wheel contains one."""

import functools
import hashlib
import importlib.util

import numpy as np
import pytest

import cdropout as cd
from cdropout import _kernels

pytestmark = [pytest.mark.ci, pytest.mark.skipif(not _kernels.has_openmp(), reason="this build has no OpenMP")]

N = 3_000_000
deep = functools.partial(pytest.param, marks=pytest.mark.deep)

TAKE_TURNS = """
import importlib, hashlib, sys, threading
order, together = sys.argv[1].split(","), sys.argv[2] == "together"
for name in order:
    importlib.import_module(name)
import numpy as np
import cdropout as cd
from cdropout import _kernels
from threadpoolctl import threadpool_info
from cdropout.machine import CpuQuota
CpuQuota.n_cpus = lambda self: None

def with_cdropout():
    return hashlib.sha256(cd.Mask(5, 0, 0.1, x.shape).apply(x)).hexdigest()

def with_sklearn():
    from sklearn.metrics import pairwise_distances_argmin
    return pairwise_distances_argmin(points, points[::-1]).sum()

def with_torch():
    import torch
    return float(torch.relu(torch.from_numpy(x)).sum())

x = np.random.default_rng(0).standard_normal(int(sys.argv[3]), dtype=np.float32)
points = np.random.default_rng(1).standard_normal((2000, 8))
calls = [globals()["with_" + name] for name in order]
found = {call.__name__: set() for call in calls}

def turn(call):
    for _ in range(5):
        found[call.__name__].add(call())

if together:
    threads = [threading.Thread(target=turn, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
else:
    for _ in range(5):
        for call in calls:
            found[call.__name__].add(call())
if "with_torch" in found:  # sums of floats depend on the division among threads: only their sign is checked
    assert max(found.pop("with_torch")) > 0
assert all(len(results) == 1 for results in found.values()), found
runtimes = {info["filepath"] for info in threadpool_info() if info["user_api"] == "openmp"}
print(found["with_cdropout"].pop(), _kernels.thread_limit(), len(runtimes))
"""


@pytest.mark.promise("other-openmp")
@pytest.mark.parametrize(
    ("order", "how"),
    [
        (("cdropout", "sklearn"), "in turns"),
        (("sklearn", "cdropout"), "in turns"),
        # PyTorch in turns is deep: the last one has it, together with scikit-learn.
        deep(("cdropout", "torch"), "in turns"),
        deep(("torch", "cdropout"), "in turns"),
        deep(("torch", "sklearn", "cdropout"), "in turns"),
        (("cdropout", "sklearn", "torch"), "together"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_other_libraries_with_openmp_change_no_bit_and_block_no_call(run_python, order, how):
    for name in order:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    x = np.random.default_rng(0).standard_normal(N, dtype=np.float32)
    expected = hashlib.sha256(cd.Mask(5, 0, 0.1, N).apply(x)).hexdigest()
    # Dask and Ray leave MKL_NUM_THREADS=1 set, which PyTorch uses as the limit of its OpenMP.
    env = {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "1"}
    result = run_python("-c", TAKE_TURNS, ",".join(order), how, str(N), env=env)
    digest, n_threads, n_runtimes = result.stdout.decode().split()
    assert (digest, n_threads) == (expected, "2")
    if n_runtimes == "1":
        pytest.skip("all of them share one runtime here")
