"""What test_jax_devices.py runs on four devices: `python jax_devices.py shardy|gspmd`. Prints a line for each check."""

import os
import sys

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import cdropout as cd
import cdropout.jax as cj

RATE = 0.3
KEY = jax.random.key(7)
X = np.random.default_rng(0).standard_normal((8, 4096)).astype(np.float32)
SPECS = (P(), P("a"), P(None, "b"), P("a", "b"), P("b", "a"), P(("a", "b")), P(("b", "a")), P(None, ("b", "a")))
GATHERS = ("all-gather", "all-to-all", "collective-permute")


def mask_of(key, shape, p=RATE, shared_axes=()):
    return cd.Mask(cj.stream_key(key), 0, p, shape, shared_axes)


def check(name, got, expected):
    got = np.asarray(got)
    assert got.dtype == expected.dtype, (name, got.dtype)
    np.testing.assert_array_equal(got, expected, err_msg=name)


def check_not_gathered(name, compiled):
    text = compiled.as_text()
    assert "cdropout_" in text, name
    assert not any(gather in text for gather in GATHERS), (name, text)


def sharded(x, mesh, spec):
    return jax.device_put(x, NamedSharding(mesh, spec))


def check_sharded_arrays(mesh):
    expected = mask_of(KEY, X.shape).apply(X)
    twice = mask_of(KEY, X.shape).apply(2 * expected)
    relu = mask_of(KEY, X.shape).apply(np.maximum(X, 0))
    shared = mask_of(KEY, X.shape, shared_axes=(0,)).apply(X)
    functions = {
        "dropout": (lambda key, x: cj.dropout(key, x, RATE), expected),
        "gradient": (lambda key, x: jax.grad(lambda x: (cj.dropout(key, x, RATE) ** 2).sum())(x), twice),
        "relu_dropout": (lambda key, x: cj.relu_dropout(key, x, RATE), relu),
        "shared axis": (lambda key, x: cj.dropout(key, x, RATE, broadcast_dims=0), shared),
    }
    for spec in SPECS:
        x = sharded(X, mesh, spec)
        for name, (function, result) in functions.items():
            compiled = jax.jit(function).lower(KEY, x).compile()
            y = compiled(KEY, x)
            check(f"{name} {spec}", y, result)
            assert y.sharding.is_equivalent_to(x.sharding, y.ndim), (name, spec, y.sharding)
            check_not_gathered(f"{name} {spec}", compiled)
    print("arrays")


def check_bernoulli(mesh):
    keep = mask_of(KEY, X.shape, 1 - RATE).keep()
    for spec in SPECS:
        drawn = jax.jit(lambda key: cj.bernoulli(key, RATE, X.shape), out_shardings=NamedSharding(mesh, spec))
        check(f"bernoulli {spec}", drawn(KEY), keep)
        x = sharded(X, mesh, spec)
        used = jax.jit(lambda key, x: jnp.where(cj.bernoulli(key, RATE, X.shape), x, 0)).lower(KEY, x).compile()
        check(f"where {spec}", used(KEY, x), np.where(keep, X, 0))
        check_not_gathered(f"where {spec}", used)
        shard_shape = x.sharding.shard_shape(x.shape)
        assert f"pred[{shard_shape[0]},{shard_shape[1]}]" in used.as_text(), "each device draws its part only"
    print("bernoulli")


def check_batches(mesh):
    keys = jax.random.split(KEY, 8)
    each = np.stack([mask_of(key, X.shape[1:]).apply(row) for key, row in zip(keys, X, strict=True)])
    of_keys = jax.jit(jax.vmap(lambda key, x: cj.dropout(key, x, RATE)))
    alike = np.stack([mask_of(KEY, X.shape[1:]).apply(row) for row in X])
    of_arrays = jax.jit(jax.vmap(lambda x: cj.dropout(KEY, x, RATE)))
    for spec in SPECS:
        x = sharded(X, mesh, spec)
        check(f"keys {spec}", of_keys(keys, x), each)
        check(f"one key {spec}", of_arrays(x), alike)
        check_not_gathered(f"keys {spec}", of_keys.lower(keys, x).compile())
        check_not_gathered(f"one key {spec}", of_arrays.lower(x).compile())
    print("batches")


def check_uneven(mesh):
    part = np.ascontiguousarray(X[:7, :4093])
    constrained = jax.jit(
        lambda key, x: jax.lax.with_sharding_constraint(cj.dropout(key, x, RATE), NamedSharding(mesh, P("a", "b")))
    )
    check("uneven", constrained(KEY, part), mask_of(KEY, part.shape).apply(part))
    print("uneven")


def check_shard_map(mesh):
    function = jax.shard_map(
        lambda key, x: cj.relu_dropout(key, cj.dropout(key, x, RATE), RATE) * cj.bernoulli(key, 0.5, x.shape),
        mesh=mesh,
        in_specs=(P(), P("a", "b")),
        out_specs=P("a", "b"),
    )

    def of_block(block):
        mask = mask_of(KEY, block.shape)
        return mask.apply(np.maximum(mask.apply(block), 0)) * mask_of(KEY, block.shape, 0.5).keep()

    blocks = [[np.ascontiguousarray(block) for block in np.hsplit(row, 2)] for row in np.vsplit(X, 2)]
    expected = np.block([[of_block(block) for block in row] for row in blocks])
    check("shard_map", function(KEY, X), expected)
    check("shard_map, jit", jax.jit(function)(KEY, X), expected)
    gradient = jax.jit(jax.grad(lambda x: (function(KEY, x) * X).sum()))(X)
    assert np.array_equal(np.asarray(gradient) != 0, expected != 0)
    keys = jax.random.split(KEY, 4)
    rows = X.reshape(4, 2, 4096)
    parallel = jax.pmap(lambda key, x: cj.dropout(key, x, RATE))
    expected = np.stack([mask_of(key, (2, 4096)).apply(row) for key, row in zip(keys, rows, strict=True)])
    check("pmap", parallel(keys, rows), expected)
    mapped = jax.pmap(lambda x: x)(rows)
    check("of pmap", jax.jit(lambda x: cj.dropout(KEY, x, RATE))(mapped), mask_of(KEY, rows.shape).apply(rows))
    print("shard_map and pmap")


def check_partly_manual(mesh, partitioner):
    function = jax.jit(
        jax.shard_map(
            lambda key, x: cj.dropout(key, x, RATE),
            mesh=mesh,
            in_specs=(P(), P("a")),
            out_specs=P("a"),
            axis_names={"a"},
        )
    )
    x = sharded(X, mesh, P("a", "b"))
    if partitioner == "gspmd":
        with pytest.raises(NotImplementedError, match="needs JAX's option jax_use_shardy_partitioner to be True"):
            function(KEY, x)
    else:
        halves = [mask_of(KEY, (4, 4096)).apply(np.ascontiguousarray(half)) for half in np.vsplit(X, 2)]
        check("partly manual", function(KEY, x), np.concatenate(halves))
    print("partly manual")


def check_explicit():
    """Arrays whose sharding is a part of their type."""
    mesh = jax.make_mesh((2, 2), ("a", "b"), axis_types=(jax.sharding.AxisType.Explicit,) * 2)
    with jax.set_mesh(mesh):
        x = jax.device_put(X, P("a", "b"))
        function = jax.jit(lambda key, x: cj.dropout(key, x, RATE))
        y = function(KEY, x)
        check("explicit", y, mask_of(KEY, X.shape).apply(X))
        assert jax.typeof(y).sharding.spec == P("a", "b")
        check_not_gathered("explicit", function.lower(KEY, x).compile())
    print("explicit")


def main():
    partitioner = sys.argv[1]
    jax.config.update("jax_use_shardy_partitioner", partitioner == "shardy")
    assert jax.device_count() == 4
    mesh = Mesh(np.array(jax.devices()).reshape(2, 2), ("a", "b"))
    check_sharded_arrays(mesh)
    check_bernoulli(mesh)
    check_batches(mesh)
    check_uneven(mesh)
    check_shard_map(mesh)
    check_partly_manual(mesh, partitioner)
    if hasattr(jax, "set_mesh"):
        check_explicit()


if __name__ == "__main__":
    main()
