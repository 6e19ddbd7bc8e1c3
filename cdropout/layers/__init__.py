"""Dropout as layers of NumPy networks: `forward` draws a mask and keeps it for `backward`."""

from cdropout.layers.alpha import AlphaDropout, FeatureAlphaDropout
from cdropout.layers.drop_block import DropBlock2d
from cdropout.layers.dropout import Dropout
from cdropout.layers.fused import BiasDropoutAdd, BiasReLUDropout, DropoutAdd, ReLUDropout
from cdropout.layers.gaussian import GaussianDropout, GaussianNoise
from cdropout.layers.linear import DropConnect, FeatureDropoutLinear
from cdropout.layers.shared_axes import (
    Dropout1d,
    Dropout2d,
    Dropout3d,
    DropPath,
    FeatureDropout,
    LockedDropout,
    SpatialDropout1D,
    SpatialDropout2D,
    SpatialDropout3D,
)
from cdropout.layers.zoneout import Zoneout

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
    "ReLUDropout",
    "SpatialDropout1D",
    "SpatialDropout2D",
    "SpatialDropout3D",
    "Zoneout",
]
