"""Dropout for NumPy at the price of a multiplication."""

from cdropout.functional import (
    bias_dropout_add,
    bias_relu_dropout,
    draw_mask,
    dropout,
    dropout_add,
    relu_dropout,
    relu_dropout_backward,
)
from cdropout.layers import BiasDropoutAdd, BiasReLUDropout, Dropout, DropoutAdd, ReLUDropout
from cdropout.mask import Mask
from cdropout.stream import Stream

__version__ = "0.1.0"

__all__ = [
    "BiasDropoutAdd",
    "BiasReLUDropout",
    "Dropout",
    "DropoutAdd",
    "Mask",
    "ReLUDropout",
    "Stream",
    "__version__",
    "bias_dropout_add",
    "bias_relu_dropout",
    "draw_mask",
    "dropout",
    "dropout_add",
    "relu_dropout",
    "relu_dropout_backward",
]
