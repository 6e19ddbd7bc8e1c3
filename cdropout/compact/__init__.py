"""Dropout that saves the arithmetic of what it drops: networks whose matrix products use kept rows and columns only."""

from cdropout.compact.kept import KeepWords, gather_kept, scatter_kept

__all__ = ["KeepWords", "gather_kept", "scatter_kept"]
