"""Arrays of JAX that are sharded over devices: the bits of one device, and nothing is gathered."""

from pathlib import Path

import pytest

pytest.importorskip("jax")

CHECKS = ["arrays", "bernoulli", "batches", "uneven", "shard_map and pmap", "partly manual"]


@pytest.mark.parametrize("partitioner", ["shardy", "gspmd"])
def test_shards_take_their_parts_of_the_mask(partitioner, run_python):
    # A process has as many devices as JAX started with.
    run = run_python("-P", str(Path(__file__).with_name("jax_devices.py")), partitioner, check=False, timeout=300)
    assert run.returncode == 0, run.stderr.decode()[-3000:]
    assert run.stdout.decode().splitlines()[: len(CHECKS)] == CHECKS


UNTOLD = """
import sys, types, warnings
import jax
import numpy as np
from jax.experimental.custom_partitioning import custom_partitioning

whole = sys.modules["jax._src.dispatch"]  # as it would be in a JAX without the set
part = sys.modules["jax._src.dispatch"] = types.ModuleType("jax._src.dispatch")
vars(part).update({name: each for name, each in vars(whole).items() if name != "prim_requires_devices_during_lowering"})
import cdropout.jax
sys.modules["jax._src.dispatch"] = whole

import cdropout as cd

key = jax.random.key(7)
x = np.random.default_rng(0).standard_normal((8, 512)).astype(np.float32)
expected = cd.Mask(cdropout.jax.stream_key(key), 0, 0.3, x.shape).apply(x)
drop = jax.jit(lambda key, x: cdropout.jax.dropout(key, x, 0.3))
ours = jax.random.key(3, impl=cdropout.jax.prng)
with warnings.catch_warnings():
    warnings.simplefilter("error")  # nothing is lost on one device
    assert np.array_equal(drop(key, x), expected)
    bits = np.asarray(jax.random.bits(ours, (8, 512)))
mesh = jax.sharding.Mesh(np.array(jax.devices()).reshape(2, 2), ("a", "b"))
sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("a", "b"))
for call, result in (
    (lambda: drop(key, jax.device_put(x, sharding)), expected),
    (lambda: jax.jit(lambda key: jax.random.bits(key, (8, 512)), out_shardings=sharding)(ours), bits),
):
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        assert np.array_equal(call(), result)
    assert any("does not tell cdropout.jax the devices" in str(each.message) for each in warned), warned
print("checked")
"""


def test_without_the_devices_the_result_is_the_same_with_a_warning(run_python):
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    run = run_python("-W", "ignore", "-P", "-c", UNTOLD, env=flags, check=False, timeout=300)
    assert run.stdout == b"checked\n", run.stderr.decode()[-3000:]
