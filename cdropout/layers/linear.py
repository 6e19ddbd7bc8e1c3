"""Linear layers that drop weights or input features."""

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cdropout import _kernels
from cdropout.checks import check_flag, check_integer
from cdropout.functions.linear import (
    Array,
    affine,
    check_batch,
    check_gradient,
    check_product,
    drop_connect_moments,
    drop_features,
)
from cdropout.layers.base import DropoutLayer
from cdropout.mask import FAILURES, drawing
from cdropout.noise import draw_noise
from cdropout.stream import Rng, Stream, as_stream

Inference = Literal["mean", "gaussian"]


class _LinearLayer(DropoutLayer):
    """A linear layer: its weights, their gradients, and the arrays that its backward pass needs."""

    def __init__(
        self, n_in: int, n_out: int, p: float = 0.5, *, rng: Rng | None = None, dtype: npt.DTypeLike = np.float32
    ) -> None:
        n_in, n_out = check_integer("n_in", n_in, 1), check_integer("n_out", n_out, 1)
        dtype = _kernels.check_dtype(dtype, ("float32", "float64")).newbyteorder("=")
        # Before rng advances or spawns, so that MemoryError leaves it unchanged.
        params, numbers = [np.empty((n_in, n_out), dtype), np.zeros(n_out, dtype)], np.empty((n_in, n_out))
        grads = [np.zeros_like(param) for param in params]
        del numbers  # the memory for those of `uniform`
        super().__init__(p, rng=rng)
        generator = np.random.default_rng(_weight_seed(self._rng))
        bound = np.sqrt(6 / n_in)
        params[0][...] = generator.uniform(-bound, bound, (n_in, n_out))
        self.params, self.grads = params, grads
        self._saved: tuple[Any, ...] | None = None

    def _options(self) -> dict[str, Any]:
        widths = zip(("n_in", "n_out"), self.params[0].shape if self.params else (), strict=False)
        return {**dict(widths), **super()._options()}

    def _take_saved(self) -> tuple[Any, ...]:
        """Return the arrays that the last forward pass saved for the backward pass."""
        if self._saved is None:
            raise RuntimeError("backward must follow a forward pass, and none has been made")
        return self._saved


def _weight_seed(stream: Stream | None) -> "np.random.SeedSequence | None":
    """Return a seed for a layer's initial weights: a child of its stream, so that layers with one stream differ."""
    return None if stream is None else np.random.SeedSequence(stream.spawn(1)[0].key)


class DropConnect(_LinearLayer):
    """A linear layer whose weights are dropped instead of its inputs: x @ (W * mask) + b.

    One mask serves all rows of a batch; each forward pass in training draws a new one. The layer keeps a reference to
    x: do not write into x or W before `backward` has run.

    Parameters
    ----------
    n_in, n_out : int
        The widths of input and output. `params` are W, of shape (n_in, n_out), uniform with variance 2 / n_in (He et
        al., 2015) at first, and b, of shape (n_out,), zero at first.
    p, rng
        As in `Dropout`.
    rescale : bool
        Whether to divide kept weights by 1-p in training; Wan et al. do not.
    inference : {"mean", "gaussian"}
        Method of evaluation. "mean" uses the mean of each weight. "gaussian" draws from a normal distribution with the
        output's mean and variance (moment matching by Wan et al.) and averages relu over the draws.
    n_samples : int
        Number of draws to average over.
    relu : bool
        Whether the layer ends with a ReLU. "gaussian" needs it: without a ReLU, the average is the mean.
    dtype : float32 or float64
        The dtype of the parameters.

    Raises
    ------
    TypeError, ValueError
        For an argument other than the above.

    Notes
    -----
    Source: Wan et al., "Regularization of neural networks using DropConnect", ICML 2013.

    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        p: float = 0.5,
        *,
        rng: Rng | None = None,
        rescale: bool = True,
        inference: Inference = "mean",
        n_samples: int = 64,
        relu: bool = False,
        dtype: npt.DTypeLike = np.float32,
    ) -> None:
        if inference not in ("mean", "gaussian"):
            raise ValueError(f"inference must be 'mean' or 'gaussian', got {inference!r}")
        if inference == "gaussian" and not relu:
            raise ValueError("inference 'gaussian' must have relu=True: without it the average is the mean")
        n_samples = check_integer("n_samples", n_samples, 1)
        rescale, relu = check_flag("rescale", rescale), check_flag("relu", relu)
        super().__init__(n_in, n_out, p, rng=rng, dtype=dtype)
        self.rescale, self.inference, self.n_samples, self.relu = rescale, inference, n_samples, relu

    def forward(self, x: npt.ArrayLike) -> Array:
        """Return the layer's output for x of shape (..., n_in), of shape (..., n_out)."""
        weight, bias = self.params
        inputs, _, _ = check_product(x, weight, bias)
        if not self.training and self.inference == "gaussian":
            y = self._average(x, inputs)
            self.mask = self._saved = None
            return y
        if self.training:
            with drawing(weight.shape, self._p, self._rng) as mask:
                y, saved = self._product(x, inputs, mask.apply(weight, scale=self._scale), bias)
            self.mask, self._saved = mask, saved
            return y
        scale = weight.dtype.type(self._mean_scale)
        y, saved = self._product(x, inputs, weight * scale if scale != 1.0 else weight, bias)
        self.mask, self._saved = None, saved
        return y

    def _product(self, x: Any, inputs: Array, used: Array, bias: Array) -> tuple[Array, tuple[Any, ...]]:
        """Return the output for the given weights, in x's class, and what `backward` needs; inputs is plain x."""
        y = affine(inputs, used, bias)
        if self.relu:
            np.maximum(y, 0, out=y)
        output = _kernels.handed_back(y, None, x)
        return output, (inputs, used, y > 0 if self.relu else None, y.shape, self._mean_scale, self._scale)

    def backward(self, dy: npt.ArrayLike) -> Array:
        """Return the gradient with respect to x, and write those with respect to W and b to `grads`.

        RuntimeError if there was no forward pass, or if the last one sampled ("gaussian").
        """
        x, used, is_active, shape, mean_scale, scale = self._take_saved()
        gradient = check_gradient(dy, shape)
        if is_active is not None:
            gradient = gradient * is_active
        rows, drows = x.reshape(-1, x.shape[-1]), gradient.reshape(-1, gradient.shape[-1])
        np.matmul(rows.T, drows, out=self.grads[0])
        if self.mask is not None:
            self.mask.apply(self.grads[0], out=self.grads[0], scale=scale)
        else:
            self.grads[0] *= self.grads[0].dtype.type(mean_scale)
        np.sum(drows, axis=0, out=self.grads[1])
        return _kernels.handed_back(gradient @ used.T, None, dy)

    @property
    def _scale(self) -> float | None:
        """Factor for kept weights; None for 1/(1-p)."""
        return None if self.rescale else 1.0

    @property
    def _mean_scale(self) -> float:
        """Factor for weights in evaluation."""
        return (1.0 - self._p) * (_kernels.kept_scale(self._p) if self.rescale else 1.0)

    def _average(self, x: Any, inputs: Array) -> Array:
        """Return the average of relu over draws from the normal distribution with the output's moments, in x's class.

        If NumPy fails meanwhile, the stream moves back, unless another thread has drawn from it.
        """
        weight, bias = self.params
        mean, variance = drop_connect_moments(inputs, weight, bias, self._p, rescale=self.rescale)
        std, total, stream = np.sqrt(variance), np.zeros_like(mean), as_stream(self._rng)
        zeros, drawn = np.zeros_like(mean), np.empty_like(mean)
        first, n_draws = None, 0
        try:
            while n_draws < self.n_samples:
                noise = draw_noise(mean.shape, 1.0, rng=stream)
                first, n_draws = first or noise, n_draws + 1
                noise.add(zeros, out=drawn)
                drawn *= std
                drawn += mean
                total += np.maximum(drawn, 0, out=drawn)
            total /= total.dtype.type(self.n_samples)
            return _kernels.handed_back(total, None, x)
        except FAILURES:
            if first is not None:
                stream._take_back(first, n_draws)
            raise


class FeatureDropoutLinear(_LinearLayer):
    """Feature dropout followed by a linear layer, in one: the matrix products use only the kept columns.

    The results equal, up to rounding, those of `FeatureDropout` followed by x @ W + b, with about 1-p of the
    arithmetic. Where gathering columns does not pay (small p, small layers), the layer runs the two steps. The layer
    keeps a reference to x: do not write into x or W before `backward` has run.

    Parameters
    ----------
    n_in, n_out : int
        The widths of input and output. `params` are W, of shape (n_in, n_out), uniform with variance 2 / n_in (He et
        al., 2015) at first, and b, of shape (n_out,), zero at first.
    p, rng
        As in `Dropout`.
    dtype : float32 or float64
        The dtype of the parameters.

    Raises
    ------
    TypeError, ValueError
        For an argument other than the above.

    """

    def forward(self, x: npt.ArrayLike) -> Array:
        """Return the layer's output for x of shape (n_samples, n_in), of shape (n_samples, n_out)."""
        weight, bias = self.params
        inputs, _, _ = check_product(x, weight, bias)
        check_batch(inputs)
        if not self.training:
            y = _kernels.handed_back(affine(inputs, weight, bias), None, x)
            self.mask, self._saved = None, (inputs, weight, None, 1.0)
            return y
        with drawing(inputs.shape, self._p, self._rng, shared_axes=0) as mask:
            dropped, rows, columns = drop_features(mask, inputs, weight)
            y = _kernels.handed_back(affine(dropped, rows, bias), None, x)
            saved = dropped, rows, columns, _kernels.kept_scale(self._p)
        self.mask, self._saved = mask, saved
        return y

    def backward(self, dy: npt.ArrayLike) -> Array:
        """Return the gradient with respect to x, and write those with respect to W and b to `grads`.

        RuntimeError if there was no forward pass.
        """
        x, weight, columns, scale = self._take_saved()
        gradient = check_gradient(dy, (x.shape[0], weight.shape[1]))
        np.sum(gradient, axis=0, out=self.grads[1])
        if columns is None:
            np.matmul(x.T, gradient, out=self.grads[0])
            dx: Array = gradient @ weight.T
            if self.mask is not None:
                self.mask.apply(dx, out=dx)
            return _kernels.handed_back(dx, None, dy)
        self.grads[0].fill(0)
        self.grads[0][columns] = x.T @ gradient
        # Dropped features take the column of zeros after the kept ones: np.take costs a tenth of indexed assignment.
        n_kept = len(columns)
        kept = np.zeros((x.shape[0], n_kept + 1), x.dtype)
        np.matmul(gradient, weight.T, out=kept[:, :n_kept])
        kept *= kept.dtype.type(scale)
        sources = np.full(self.params[0].shape[0], n_kept)
        sources[columns] = np.arange(n_kept)
        return _kernels.handed_back(np.take(kept, sources, axis=1), None, dy)
