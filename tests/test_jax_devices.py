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
