"""The primitives of JAX that apply a mask: how they are evaluated, differentiated, batched and lowered.

    apply_mask_p(x, mask)    Mask.apply: x / (1-p) where kept, 0 where dropped; linear in x
    relu_mask_p(x, mask)     the same of max(x, 0)
    keep_mask_p(mask)        Mask.keep: bool, True where kept

mask is one or several packed masks (packed_mask.py). Its leading axes are the first axes of x and of the result. The
parameter strides has the distance in positions between neighbours along each other axis, 0 where they share a decision.
So `vmap` over x alone adds an axis of stride 0, and `vmap` over keys a leading axis.

On the CPU the primitives become calls of the handlers in src/xla_ffi.c, and partitioning.py says what part of the mask
each device takes of a sharded array. On other platforms they become JAX's operations (stock.py).
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from cdropout import _kernels
from cdropout.jax import partitioning, stock

try:
    # The primitives whose lowering JAX tells the devices. There is no public way to become one of them.
    from jax._src.dispatch import prim_requires_devices_during_lowering as _told_devices
except ImportError:
    _told_devices = set()

for _name, _handler in _kernels.XLA_HANDLERS.items():
    jax.ffi.register_ffi_target(_name, _handler, platform="cpu")

apply_mask_p = Primitive("cdropout_apply")
relu_mask_p = Primitive("cdropout_relu")
keep_mask_p = Primitive("cdropout_keep")


# ---- functions that bind them ---------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnames=("strides",), inline=True)
def apply_mask(x: jax.Array, mask: jax.Array, *, strides: tuple[int, ...]) -> jax.Array:
    """Apply a packed mask to an array; strides has a number for each axis."""
    return apply_mask_p.bind(*_varying_alike(x, mask), strides=strides)  # type: ignore[no-any-return]


@functools.partial(jax.jit, static_argnames=("scale", "strides"), inline=True)
def relu_mask(x: jax.Array, mask: jax.Array, *, scale: float, strides: tuple[int, ...]) -> jax.Array:
    """Apply a packed mask to max(x, 0); scale is 1/(1-p)."""
    return relu_mask_p.bind(*_varying_alike(x, mask), scale=scale, strides=strides)  # type: ignore[no-any-return]


@functools.partial(jax.jit, static_argnames=("shape", "strides"), inline=True)
def keep_mask(mask: jax.Array, *, shape: tuple[int, ...], strides: tuple[int, ...]) -> jax.Array:
    """Return a bool array of a shape, True where the packed mask keeps an element."""
    return keep_mask_p.bind(mask, shape=shape, strides=strides)  # type: ignore[no-any-return]


def _varying_alike(*arrays: jax.Array) -> Sequence[jax.Array]:
    """Inside `shard_map`, mark arrays as varying along the mesh axes along which any of them varies."""
    if not hasattr(jax, "typeof"):  # JAX 0.5, which has no such marks
        return arrays
    axes: list[frozenset[Any]] = [getattr(jax.typeof(array), "vma", frozenset()) for array in arrays]
    missing = [tuple(sorted(frozenset().union(*axes) - each, key=str)) for each in axes]
    return [_varying(array, names) if names else array for array, names in zip(arrays, missing, strict=True)]


def _varying(array: jax.Array, names: tuple[Any, ...]) -> Any:
    if hasattr(jax.lax, "pcast"):
        return jax.lax.pcast(array, names, to="varying")
    return jax.lax.pvary(array, names)


# ---- evaluation -----------------------------------------------------------------------------------------------------


def evaluate(primitive: Primitive, *operands: Any, **parameters: Any) -> Any:
    """Compile a primitive that is called outside of a compiled program, as in a backward pass without `jit`."""
    with jax.disable_jit(False):  # it is compiled where JAX compiles nothing else, as JAX's own primitives are
        return _compiled(primitive, tuple(sorted(parameters.items())))(*operands)


@functools.lru_cache(maxsize=4096)
def _compiled(primitive: Primitive, parameters: tuple[tuple[str, Any], ...]) -> Any:
    return jax.jit(functools.partial(primitive.bind, **dict(parameters)))


def _result_like_x(x: Any, mask: Any, *, strides: tuple[int, ...], **_: Any) -> Any:
    n_leading = len(mask.shape) - 1
    if len(x.shape) != n_leading + len(strides) or x.shape[:n_leading] != mask.shape[:-1]:
        raise ValueError(f"mask of shape {mask.shape} with strides {strides} does not fit x of shape {x.shape}")
    return x.update(weak_type=False)


def _result_of_keep(mask: Any, *, shape: tuple[int, ...], **_: Any) -> Any:
    return mask.update(shape=(*mask.shape[:-1], *shape), dtype=np.dtype(np.bool_), weak_type=False)


for _primitive in (apply_mask_p, relu_mask_p, keep_mask_p):
    _primitive.def_impl(functools.partial(evaluate, _primitive))
    _primitive.def_abstract_eval(_result_of_keep if _primitive is keep_mask_p else _result_like_x)


# ---- derivatives ----------------------------------------------------------------------------------------------------


def _apply_jvp(primals: Any, tangents: Any, **parameters: Any) -> Any:
    _, mask = primals
    y, dx = apply_mask_p.bind(*primals, **parameters), tangents[0]
    return y, ad.Zero.from_primal_value(y) if _is_zero(dx) else apply_mask_p.bind(dx, mask, **parameters)


def _apply_transpose(dy: Any, x: Any, mask: Any, **parameters: Any) -> Any:
    return (ad.Zero(x.aval) if _is_zero(dy) else apply_mask_p.bind(dy, mask, **parameters)), None


def _relu_jvp(primals: Any, tangents: Any, *, scale: float, **parameters: Any) -> Any:
    """The derivative where the result is above 0 is scale. JAX's own operations, which XLA fuses with others."""
    y, dx = relu_mask_p.bind(*primals, scale=scale, **parameters), tangents[0]
    return y, ad.Zero.from_primal_value(y) if _is_zero(dx) else jnp.where(y > 0, times(dx, scale), 0)


def _keep_jvp(primals: Any, tangents: Any, **parameters: Any) -> Any:
    keep = keep_mask_p.bind(*primals, **parameters)
    return keep, ad.Zero.from_primal_value(keep)


def _is_zero(tangent: Any) -> bool:
    return isinstance(tangent, ad.Zero)


# Bits of the significand to which kernels round the scale for a dtype, so that its products are exact in float32.
SCALE_BITS = {"float16": 13, "bfloat16": 16}


def times(x: jax.Array, scale: float) -> jax.Array:
    """Return x * scale with the roundings of the kernels."""
    if x.dtype.name not in SCALE_BITS:
        return x * scale
    significand, exponent = math.frexp(scale)
    n_bits = SCALE_BITS[x.dtype.name]
    rounded = math.ldexp(round(math.ldexp(significand, n_bits)), exponent - n_bits)
    return (x.astype(np.float32) * rounded).astype(x.dtype)


ad.primitive_jvps[apply_mask_p] = _apply_jvp
ad.primitive_jvps[relu_mask_p] = _relu_jvp
ad.primitive_jvps[keep_mask_p] = _keep_jvp
ad.primitive_transposes[apply_mask_p] = _apply_transpose


# ---- batching -------------------------------------------------------------------------------------------------------


def _batch(
    primitive: Primitive, operands: Any, axes: Any, *, strides: tuple[int, ...], **parameters: Any
) -> tuple[Any, int]:
    (x, mask), (x_axis, mask_axis) = operands, axes
    if mask_axis is None:  # one mask for all
        n_leading = mask.ndim - 1
        x = jnp.moveaxis(x, x_axis, n_leading)
        return primitive.bind(x, mask, strides=(0, *strides), **parameters), n_leading
    mask = jnp.moveaxis(mask, mask_axis, 0)
    x = jnp.broadcast_to(x, (mask.shape[0], *x.shape)) if x_axis is None else jnp.moveaxis(x, x_axis, 0)
    return primitive.bind(x, mask, strides=strides, **parameters), 0


def _batch_keep(operands: Any, axes: Any, **parameters: Any) -> tuple[Any, int]:
    return keep_mask_p.bind(jnp.moveaxis(operands[0], axes[0], 0), **parameters), 0


batching.primitive_batchers[apply_mask_p] = functools.partial(_batch, apply_mask_p)
batching.primitive_batchers[relu_mask_p] = functools.partial(_batch, relu_mask_p)
batching.primitive_batchers[keep_mask_p] = _batch_keep


# ---- lowering -------------------------------------------------------------------------------------------------------


def tell_devices(primitive: Primitive) -> None:
    """Let JAX tell the devices to the lowering of a primitive, if this version of JAX has such a list."""
    _told_devices.add(primitive)


def _knows_devices(context: Any) -> bool:
    """Return whether JAX tells the devices, without which custom_partitioning fails; warn if it should."""
    if not hasattr(context, "device_assignment") or context.device_assignment is not None:
        return True
    if getattr(context, "num_devices", 1) > 1:
        warnings.warn(
            f"jax {jax.__version__} does not tell cdropout.jax the devices of a program: each device computes the whole"
            " result, and sharded arrays are gathered",
            stacklevel=2,
        )
    return False


def lower(primitive: Primitive, on_cpu: Callable[..., Any], elsewhere: Callable[..., Any]) -> None:
    """Lower a primitive to a call of a handler on the CPU, and to JAX's operations on other platforms."""
    tell_devices(primitive)

    def lower_on_cpu(ctx: Any, *operands: Any, **parameters: Any) -> Any:
        # Within shard_map along some axes of the mesh, JAX cannot tell custom_partitioning the shards along the others.
        context = ctx.module_context.axis_context
        manual_axes: frozenset[Any] = getattr(context, "manual_axes", frozenset())
        if manual_axes and manual_axes != set(context.mesh.axis_names) and not jax.config.jax_use_shardy_partitioner:
            raise NotImplementedError(  # XLA would end the process
                "cdropout.jax within shard_map along some axes of the mesh needs JAX's option "
                "jax_use_shardy_partitioner to be True"
            )
        call = functools.partial(on_cpu, is_divisible=not manual_axes and _knows_devices(context))
        return mlir.lower_fun(call, multiple_results=False)(ctx, *operands, **parameters)

    mlir.register_lowering(primitive, lower_on_cpu, platform="cpu")
    mlir.register_lowering(primitive, mlir.lower_fun(elsewhere, multiple_results=False))


lower(apply_mask_p, functools.partial(partitioning.with_x, "cdropout_apply"), stock.apply_mask)
lower(relu_mask_p, functools.partial(partitioning.with_x, "cdropout_relu"), stock.relu_mask)
lower(keep_mask_p, partitioning.keep, stock.keep_mask)
