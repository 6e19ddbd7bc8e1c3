"""Dropout for NumPy at the price of a multiplication."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

try:
    from cdropout import _kernels as _kernels
except ImportError as _error:
    if _error.name != __name__:  # it is there, and says itself what is wrong
        raise
    raise ImportError(
        f"cdropout must be compiled, and what is in {__path__[0]} is not: outside of the checkout Python finds what is "
        'installed; within it, build in place (CONTRIBUTING.md, "The loop")'
    ) from None

from cdropout.functional import (
    bias_dropout_add,
    bias_relu_dropout,
    draw_mask,
    dropout,
    dropout_add,
    relu_dropout,
    relu_dropout_backward,
)
from cdropout.inference import dropout_on, mc_predict, train
from cdropout.inference import eval as eval  # noqa: A004 - what everybody calls it
from cdropout.layers import BiasDropoutAdd, BiasReLUDropout, Dropout, DropoutAdd, ReLUDropout
from cdropout.linear import (
    DropConnect,
    FeatureDropoutLinear,
    drop_connect,
    drop_connect_moments,
    feature_dropout_linear,
)
from cdropout.mask import Mask
from cdropout.noise import Noise
from cdropout.stream import Stream
from cdropout.variant_layers import (
    AlphaDropout,
    DropBlock2d,
    Dropout1d,
    Dropout2d,
    Dropout3d,
    DropPath,
    FeatureAlphaDropout,
    FeatureDropout,
    GaussianDropout,
    GaussianNoise,
    LockedDropout,
    SpatialDropout1D,
    SpatialDropout2D,
    SpatialDropout3D,
    Zoneout,
)
from cdropout.variants import (
    alpha_dropout,
    draw_noise,
    drop_block2d,
    drop_path,
    dropout1d,
    dropout2d,
    dropout3d,
    feature_alpha_dropout,
    feature_dropout,
    gaussian_dropout,
    gaussian_noise,
    locked_dropout,
    zoneout,
)

if TYPE_CHECKING:
    from cdropout.bit_generator import StreamBitGenerator
    from cdropout.embedding import get_include

__version__ = "0.1.0"

# Imported where they are asked for, so that nobody else waits for them.
_LAZY = {"StreamBitGenerator": "cdropout.bit_generator", "get_include": "cdropout.embedding"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})


# Without eval, which an import of * must not put in the place of the built-in one.
__all__ = [
    "AlphaDropout",
    "BiasDropoutAdd",
    "BiasReLUDropout",
    "DropBlock2d",
    "DropConnect",
    "DropPath",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Dropout3d",
    "DropoutAdd",
    "FeatureAlphaDropout",
    "FeatureDropout",
    "FeatureDropoutLinear",
    "GaussianDropout",
    "GaussianNoise",
    "LockedDropout",
    "Mask",
    "Noise",
    "ReLUDropout",
    "SpatialDropout1D",
    "SpatialDropout2D",
    "SpatialDropout3D",
    "Stream",
    "StreamBitGenerator",
    "Zoneout",
    "__version__",
    "alpha_dropout",
    "bias_dropout_add",
    "bias_relu_dropout",
    "draw_mask",
    "draw_noise",
    "drop_block2d",
    "drop_connect",
    "drop_connect_moments",
    "drop_path",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "dropout_add",
    "dropout_on",
    "feature_alpha_dropout",
    "feature_dropout",
    "feature_dropout_linear",
    "gaussian_dropout",
    "gaussian_noise",
    "get_include",
    "locked_dropout",
    "mc_predict",
    "relu_dropout",
    "relu_dropout_backward",
    "train",
    "zoneout",
]
