"""Dropout at test time, and the modes of many layers at once."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from cdropout.checks import check_integer
from cdropout.stream import Rng, Stream, as_stream


class _HasModes(Protocol):
    training: bool


def train(layers: Iterable[Any], mode: bool = True) -> None:
    """Switch layers to training, or with mode=False to evaluation; those without `train` (`eval`) stay as they are."""
    for layer in layers:
        switch = getattr(layer, "train" if mode else "eval", None)
        if switch is not None:
            switch()


def eval(layers: Iterable[Any]) -> None:  # noqa: A001 - what everybody calls it
    """Switch layers to evaluation; layers without an `eval` method stay as they are."""
    train(layers, False)


@contextmanager
def dropout_on(layers: Iterable[_HasModes], *, rng: Rng | None = None) -> Iterator[None]:
    """Keep dropout on within a `with` block, whatever the layers' modes are; they have them again behind it.

    Parameters
    ----------
    layers : iterable of layers
        With an attribute `training`; others are left alone.
    rng
        Where the masks come from within the block: as in `dropout`, but None leaves each layer the stream it has.

    """
    stream = None if rng is None else as_stream(rng)
    # No stream of ours goes where there is none, or another library's.
    foreign = object()
    before = [(layer, layer.training, getattr(layer, "rng", foreign)) for layer in layers if hasattr(layer, "training")]
    try:
        for layer, _, own in before:
            layer.training = True
            if stream is not None and (own is None or isinstance(own, Stream)):
                layer.rng = stream  # type: ignore[attr-defined]
        yield
    finally:
        for layer, training, own in before:
            layer.training = training
            if stream is not None and (own is None or isinstance(own, Stream)):
                layer.rng = own  # type: ignore[attr-defined]


def mc_predict(
    forward: Callable[..., npt.ArrayLike],
    x: Any,
    n_samples: int,
    *,
    rng: Rng | None = None,
    layers: Iterable[Any] = (),
    progress: bool = False,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Predict by Monte Carlo dropout: the mean and the spread over sampled sub-networks.

    Parameters
    ----------
    forward : callable
        Takes x and returns an array, each time through new masks.
    x : object
        What forward takes.
    n_samples : int
        How many sub-networks, at least 1.
    rng
        As in `dropout`. With layers, their masks come from it; without, forward is called as `forward(x, rng=stream)`.
        None leaves it to forward where its masks come from.
    layers : iterable of layers
        Dropout layers that are switched on for the time being, in whatever mode they are: `dropout_on`.
    progress : bool
        Whether to show a progress bar on stderr; needs tqdm.

    The layers' masks are those of the last sample afterwards: not to be called between a forward and a backward pass.

    Returns
    -------
    mean, std : ndarray of float64
        Of the shape that forward returns; std is that of the samples themselves (their number in the denominator).
        Welford's recurrence: memory does not grow with n_samples.

    Raises
    ------
    TypeError, ValueError
        For an n_samples that is no integer of at least 1, or a forward whose outputs change their shape.

    Notes
    -----
    Source: Gal & Ghahramani, "Dropout as a Bayesian approximation", ICML 2016; B. P. Welford, Technometrics 4(3), 1962.

    """
    n_samples = check_integer("n_samples", n_samples, 1)
    if not callable(forward):
        raise TypeError(f"forward must be callable, got {type(forward).__name__}")
    layers = list(layers)
    numbers: Iterable[int] = range(1, n_samples + 1)
    if progress:
        from cdropout.extras import require

        tqdm = require("tqdm", extra="cli", purpose="progress=True").tqdm
        numbers = tqdm(numbers, unit="sample", leave=False, file=sys.stderr)
    keywords = {} if rng is None or layers else {"rng": as_stream(rng)}
    mean = squares = None
    with dropout_on(layers, rng=rng):
        for i in numbers:
            sample = np.asarray(forward(x, **keywords), np.float64)
            if mean is None or squares is None:
                mean, squares = np.zeros_like(sample), np.zeros_like(sample)
            if sample.shape != mean.shape:
                raise ValueError(f"forward must return one shape, got {sample.shape} after {mean.shape}")
            from_old = sample - mean
            mean += from_old / i
            squares += from_old * (sample - mean)
    assert mean is not None
    assert squares is not None
    return mean, np.asarray(np.sqrt(squares / n_samples))
