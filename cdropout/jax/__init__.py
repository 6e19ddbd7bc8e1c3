"""JAX: dropout that is computed by this library's kernels on the CPU.

    import cdropout.jax
    y = cdropout.jax.dropout(key, x, 0.1)

The functions take JAX's keys, and work under `jit`, `grad`, `vmap`, `scan` and JAX's other transformations, and on
arrays that are sharded over several devices. A key gives the same mask compiled or not, for every number of devices,
and the same as `cdropout.Mask` with this key (`stream_key`). For the backward pass the mask is generated again.

On other devices than CPUs the functions run JAX's own operations, which drop other elements for the same key.

Needs jax 0.5 or later; `import cdropout` does not import it.
"""

import jax

if not hasattr(jax, "ffi"):
    raise ImportError(f"cdropout.jax needs jax 0.5 or later, got {jax.__version__}")

from cdropout.jax.functions import bernoulli, dropout, relu_dropout
from cdropout.jax.key_implementation import prng
from cdropout.jax.packed_mask import stream_key
from cdropout.jax.sites import Site, report
from cdropout.jax.switch import disable, enable, enabled, is_enabled

__all__ = [
    "Site",
    "bernoulli",
    "disable",
    "dropout",
    "enable",
    "enabled",
    "is_enabled",
    "prng",
    "relu_dropout",
    "report",
    "stream_key",
]
