"""Dropout for NumPy at the price of a multiplication."""

from cdropout.functional import draw_mask, dropout
from cdropout.layers import Dropout
from cdropout.mask import Mask
from cdropout.stream import Stream

__version__ = "0.1.0"

__all__ = ["Dropout", "Mask", "Stream", "__version__", "draw_mask", "dropout"]
