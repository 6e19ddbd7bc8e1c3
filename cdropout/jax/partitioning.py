"""Calls of the handlers in src/xla_ffi.c, and how they are divided among the devices of a sharded array.

XLA would gather a sharded operand of a foreign function. `custom_partitioning` instead has each device call the
function on its shard, with masks that begin at the position of the shard's first element.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding, PartitionSpec

from cdropout.jax.packed_mask import advanced

# Results of at least this size are written over x, of which XLA makes a copy first if x is used again. Memory of this
# size is always new to the process (malloc's largest threshold for mmap), and page faults cost more than the copy:
# docs/design.md, "Calls from JAX".
IN_PLACE_FROM_BYTES = 1 << 25

Strides = tuple[int, ...]
Shape = tuple[int, ...]


def with_x(
    target: str, x: jax.Array, mask: jax.Array, *, strides: Strides, is_divisible: bool, scale: float | None = None
) -> Any:
    """Call the handler of this name, on each shard of x if the call is divisible. It computes scale from p."""
    call = _partitioned_with_x if is_divisible and x.ndim > 0 else _call_with_x
    return call(mask, _words(strides), x, target, strides)


def keep(mask: jax.Array, *, shape: Shape, strides: Strides, is_divisible: bool, dtype: str = "bool") -> Any:
    """Call the handler that writes a bool array, or raw output of an unsigned dtype; as with_x."""
    call = _partitioned_keep if is_divisible and mask.ndim + len(shape) > 1 else _call_keep
    return call(mask, _words(strides), shape, strides, dtype)


def _call_with_x(mask: jax.Array, stride_words: Any, x: jax.Array, target: str, strides: Strides) -> Any:
    aliases = {2: 0} if x.size * x.dtype.itemsize >= IN_PLACE_FROM_BYTES else None
    call = jax.ffi.ffi_call(target, jax.ShapeDtypeStruct(x.shape, x.dtype), input_output_aliases=aliases)
    return call(mask, stride_words, x)


def _call_keep(mask: jax.Array, stride_words: Any, shape: Shape, strides: Strides, dtype: str) -> Any:
    result = jax.ShapeDtypeStruct((*mask.shape[:-1], *shape), np.dtype(dtype))
    return jax.ffi.ffi_call("cdropout_keep" if dtype == "bool" else "cdropout_bits", result)(mask, stride_words)


def _words(numbers: Any) -> Any:
    """Return numbers of 64 bits as an array of shape (n, 2): the lower and the upper 32 bits."""
    return np.array([[number & 0xFFFFFFFF, number >> 32] for number in numbers], np.uint32).reshape(-1, 2)


# ---- the part of each device ----------------------------------------------------------------------------------------


def _spec(sharding: Any, n_axes: int) -> tuple[Any, ...]:
    """Return the mesh axes along which each axis of an array is divided: a name, a tuple of names or None."""
    spec = tuple(sharding.spec)
    return spec + (None,) * (n_axes - len(spec))


def _distance(mesh: Any, spec: tuple[Any, ...], local_shape: Shape, strides: Strides) -> Any:
    """Return the distance in positions from the array's first element to that of this device: two words."""
    lower = upper = np.uint32(0)
    for names, length, stride in zip(spec, local_shape, strides, strict=True):
        if names is None or stride == 0:
            continue
        names = names if isinstance(names, tuple) else (names,)
        n_shards = int(np.prod([mesh.shape[name] for name in names]))
        starts = _words([shard * length * stride % (1 << 64) for shard in range(n_shards)])
        of_axis = jax.numpy.asarray(starts)[jax.lax.axis_index(names)]
        total = lower + of_axis[0]
        upper = upper + of_axis[1] + (total < of_axis[0]).astype(np.uint32)
        lower = total
    return lower, upper


def _sharding_of_masks(mesh: Any, spec: tuple[Any, ...]) -> tuple[NamedSharding, NamedSharding]:
    """Return the shardings of packed masks, whose leading axes are divided as those of the result, and of strides."""
    return NamedSharding(mesh, PartitionSpec(*spec, None)), NamedSharding(mesh, PartitionSpec())


def _named(sharding: Any) -> NamedSharding:
    if not isinstance(sharding, NamedSharding):
        raise NotImplementedError(f"arrays must be sharded by a jax.sharding.NamedSharding, got {sharding}")
    return sharding


def _axis_names(n_axes: int) -> str:
    return " ".join(f"axis{axis}" for axis in range(n_axes))


# ---- handlers with x ------------------------------------------------------------------------------------------------

_partitioned_with_x = custom_partitioning(_call_with_x, static_argnums=(3, 4))


def _partition_with_x(target: str, strides: Strides, mesh: Any, operands: Any, result: Any) -> Any:
    n_leading = len(operands[0].shape) - 1
    sharding = _named(result.sharding)
    spec = _spec(sharding, len(result.shape))

    def call_on_shard(mask: jax.Array, stride_words: jax.Array, x: jax.Array) -> Any:
        distance = _distance(mesh, spec[n_leading:], x.shape[n_leading:], strides)
        return _call_with_x(advanced(mask, distance), stride_words, x, target, strides)

    of_operands = (*_sharding_of_masks(mesh, spec[:n_leading]), sharding)
    return mesh, call_on_shard, sharding, of_operands


def _infer_with_x(target: str, strides: Strides, mesh: Any, operands: Any, result: Any) -> Any:
    return operands[2].sharding


def _rule_with_x(target: str, strides: Strides, mesh: Any, operands: Any, results: Any) -> str:
    n_axes, n_leading = len(operands[2].shape), len(operands[0].shape) - 1
    return f"{_axis_names(n_leading)} word, stride part, {_axis_names(n_axes)} -> {_axis_names(n_axes)}"


_partitioned_with_x.def_partition(
    _partition_with_x, infer_sharding_from_operands=_infer_with_x, sharding_rule=_rule_with_x
)


# ---- handlers without x ---------------------------------------------------------------------------------------------

_partitioned_keep = custom_partitioning(_call_keep, static_argnums=(2, 3, 4))


def _partition_keep(shape: Shape, strides: Strides, dtype: str, mesh: Any, operands: Any, result: Any) -> Any:
    n_leading = len(operands[0].shape) - 1
    sharding = _named(result.sharding)
    spec = _spec(sharding, len(result.shape))
    local_shape = sharding.shard_shape(result.shape)[n_leading:]

    def call_on_shard(mask: jax.Array, stride_words: jax.Array) -> Any:
        distance = _distance(mesh, spec[n_leading:], local_shape, strides)
        return _call_keep(advanced(mask, distance), stride_words, local_shape, strides, dtype)

    return mesh, call_on_shard, sharding, _sharding_of_masks(mesh, spec[:n_leading])


def _infer_keep(shape: Shape, strides: Strides, dtype: str, mesh: Any, operands: Any, result: Any) -> Any:
    sharding = _named(operands[0].sharding)
    return NamedSharding(sharding.mesh, PartitionSpec(*_spec(sharding, len(operands[0].shape))[:-1]))


def _propagate_keep(shape: Shape, strides: Strides, dtype: str, mesh: Any, user: Any) -> Any:
    return user.sharding


def _rule_keep(shape: Shape, strides: Strides, dtype: str, mesh: Any, operands: Any, results: Any) -> str:
    n_leading = len(operands[0].shape) - 1
    return f"{_axis_names(n_leading)} word, stride part -> {_axis_names(n_leading + len(shape))}"


_partitioned_keep.def_partition(
    _partition_keep,
    infer_sharding_from_operands=_infer_keep,
    propagate_user_sharding=_propagate_keep,
    sharding_rule=_rule_keep,
)
