"""Dropout that saves the arithmetic of what it drops: networks whose matrix products use kept rows and columns only."""

from cdropout.compact.kept import KeepWords, gather_kept, scatter_kept
from cdropout.compact.linear import CompactLinear, KeptGrad, compact_pays
from cdropout.compact.network import CompactMLP
from cdropout.compact.optimizers import SGD, Adam

__all__ = [
    "SGD",
    "Adam",
    "CompactLinear",
    "CompactMLP",
    "KeepWords",
    "KeptGrad",
    "compact_pays",
    "gather_kept",
    "scatter_kept",
]
