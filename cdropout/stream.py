"""Streams: `Stream` (a class of src/stream.pxi), and `Rng`, the type of every rng argument."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ForwardRef, TypeAlias

import numpy as np

from cdropout._kernels import STATE_VERSION, Stream, as_stream, restore_stream, seed_sequence

__all__ = ["STATE_VERSION", "Rng", "Stream", "as_stream", "restore_stream", "seed_sequence"]

# The types that SPEC 7 (https://scientific-python.org/specs/spec-0007/) lets a caller pass as rng=, RandomState (from
# scikit-learn's check_random_state), and Stream. It is a string, because importing numpy.random takes longer than
# importing the rest of this library.
Rng: TypeAlias = (
    "Stream | int | np.integer[Any] | Sequence[int] | np.ndarray[Any, np.dtype[np.integer[Any]]] | "
    "np.random.SeedSequence | np.random.BitGenerator | np.random.Generator | np.random.RandomState"
)
if not TYPE_CHECKING:
    Rng = ForwardRef(Rng, module=__name__)  # so that typing.get_type_hints finds the names, in every module
