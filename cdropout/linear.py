"""Dropout inside a matrix product: weights dropped in the place of activations, and columns that are not touched."""

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cdropout import _kernels
from cdropout.checks import check_integer
from cdropout.functional import drawing
from cdropout.layers import DropoutLayer
from cdropout.mask import Mask
from cdropout.stream import Rng, Stream, as_stream
from cdropout.variants import draw_noise

Array = npt.NDArray[Any]
Inference = Literal["mean", "gaussian"]


# ---- as functions ---------------------------------------------------------------------------------------------------


def drop_connect(
    x: npt.ArrayLike,
    weight: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    p: float = 0.5,
    *,
    rng: Rng | None = None,
    rescale: bool = True,
) -> Array:
    """Return x @ (weight * mask) + bias: each weight is dropped with probability p, the same for all rows of x.

    Parameters
    ----------
    x : array_like of shape (..., n_in)
        Of the weight's dtype.
    weight : array_like of float32 or float64, of shape (n_in, n_out)
        What elements are dropped of.
    bias : array_like of shape (n_out,), optional
        Never dropped.
    p, rng
        As in `dropout`.
    rescale : bool
        Whether to divide kept weights by 1-p.

    Returns
    -------
    ndarray
        Of shape (..., n_out).

    Raises
    ------
    TypeError, ValueError
        As in `dropout`, or for arrays that do not fit each other.

    Notes
    -----
    Source: Wan et al., "Regularization of neural networks using DropConnect", ICML 2013, who do not rescale.

    """
    inputs, w, b = check_product(x, weight, bias)
    p = _kernels.check_p(p)
    with drawing(w.shape, p, rng) as mask:
        return _affine(inputs, mask.apply(w, scale=None if rescale else 1.0), b)


def drop_connect_moments(
    x: npt.ArrayLike,
    weight: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    p: float = 0.5,
    *,
    rescale: bool = True,
) -> tuple[Array, Array]:
    """Return mean and variance of `drop_connect` over its masks, each of shape (..., n_out).

    Parameters and errors are those of `drop_connect`. Each output is a sum of n_in independent terms, so nearly normal:
    with these moments, after Wan et al., section 3.
    """
    inputs, w, b = check_product(x, weight, bias)
    p = _kernels.check_p(p)
    scale = _kernels.kept_scale(p) if rescale else 1.0
    variance = np.square(inputs) @ np.square(w)
    variance *= w.dtype.type(p * (1 - p) * scale**2)
    return _affine(inputs, w * w.dtype.type((1 - p) * scale), b), variance


def feature_dropout_linear(
    x: npt.ArrayLike,
    weight: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    p: float = 0.5,
    *,
    rng: Rng | None = None,
) -> Array:
    """Return feature_dropout(x, p) @ weight + bias without touching what is dropped.

    Parameters
    ----------
    x : array_like of shape (n_samples, n_in)
        Of the weight's dtype.
    weight : array_like of float32 or float64, of shape (n_in, n_out)
        The rows of dropped features are not read, where that pays: for large products and p.
    bias : array_like of shape (n_out,), optional
        Added to the product.
    p, rng
        As in `dropout`.

    Returns
    -------
    ndarray
        Of shape (n_samples, n_out): to rounding what the two steps give for the same rng.

    Raises
    ------
    TypeError, ValueError
        As in `dropout`, or for arrays that do not fit each other.

    """
    inputs, w, b = check_product(x, weight, bias)
    check_batch(inputs)
    p = _kernels.check_p(p)
    with drawing(inputs.shape, p, rng, shared_axes=0) as mask:
        dropped, rows, _ = drop_features(mask, inputs, w)
        return _affine(dropped, rows, b)


def check_batch(x: Array) -> None:
    """Raise ValueError unless x has the axes (n_samples, n_in)."""
    if x.ndim != 2:
        raise ValueError(f"x must have the axes (n_samples, n_in), got shape {x.shape}")


def check_product(x: Any, weight: Any, bias: Any) -> tuple[Array, Array, Array | None]:
    """Return the arrays of x @ weight + bias; TypeError or ValueError where they do not fit each other."""
    x, weight = _kernels.as_array(x, "x"), _kernels.as_array(weight, "weight")
    if weight.dtype not in (np.float32, np.float64):
        raise TypeError(f"weight must be an array of float32 or float64, got dtype {weight.dtype}")
    if weight.ndim != 2:
        raise ValueError(f"weight must have the axes (n_in, n_out), got shape {weight.shape}")
    if x.dtype != weight.dtype:
        raise TypeError(f"x must have the dtype of weight, got {x.dtype} for {weight.dtype}")
    if x.ndim == 0 or x.shape[-1] != weight.shape[0]:
        raise ValueError(f"x must have {weight.shape[0]} columns, the rows of weight, got shape {x.shape}")
    if bias is None:
        return x, weight, None
    bias = _kernels.as_array(bias, "bias")
    if bias.dtype != weight.dtype:
        raise TypeError(f"bias must have the dtype of weight, got {bias.dtype} for {weight.dtype}")
    if bias.shape != weight.shape[1:]:
        raise ValueError(f"bias must have one element for each column of weight, got {bias.shape} for {weight.shape}")
    return x, weight, bias


def check_gradient(dy: Any, shape: tuple[int, ...]) -> Array:
    """Return a gradient of the output's shape as an array; TypeError or ValueError for another dtype or shape."""
    gradient = _kernels.check_array(dy, "dy")
    if gradient.shape != shape:
        raise ValueError(f"dy must have the output's shape {shape}, got {gradient.shape}")
    return gradient


def _affine(x: Array, weight: Array, bias: Array | None) -> Array:
    y: Array = x @ weight
    if bias is not None:
        y += bias
    return y


# ---- gathering ------------------------------------------------------------------------------------------------------

# A product makes about so many multiplications and additions in the time in which gathering and scattering move one
# element (`python -m benchmarks feature-linear`; docs/design.md, "When gathering pays").
FLOPS_PER_MOVED_ELEM = 30


def gathering_pays(n_samples: int, weight_shape: tuple[int, ...], p: float) -> bool:
    """Whether smaller products, forward and backward, save more than gathering and scattering cost."""
    n_in, n_out = weight_shape
    n_kept = (1 - p) * n_in
    flops_saved = 6 * p * n_in * n_samples * n_out
    # Rows of the weight are read and written, and those of its gradient; columns of x, and of its gradient.
    n_moved = (n_out + n_samples) * (3 * n_kept + n_in)
    return flops_saved > FLOPS_PER_MOVED_ELEM * n_moved


def drop_features(mask: Mask, x: Array, weight: Array) -> tuple[Array, Array, npt.NDArray[np.intp] | None]:
    """Return the operands of the product of dropped x, (n_samples, n_in), and weight, (n_in, n_out).

    Where gathering pays they are the kept columns, scaled, and their rows of weight, with the columns' indices; else
    all of x, dropped, and weight itself, with None. The mask shares axis 0.
    """
    if not gathering_pays(x.shape[0], weight.shape, mask.p):
        return mask.apply(x), weight, None
    columns = np.flatnonzero(mask[:1].keep())
    gathered = np.take(x, columns, axis=1)
    gathered *= x.dtype.type(_kernels.kept_scale(mask.p))
    return gathered, np.take(weight, columns, axis=0), columns


# ---- as layers ------------------------------------------------------------------------------------------------------


class _LinearLayer(DropoutLayer):
    """A linear layer that drops something: its weights, and what its backward pass needs."""

    def __init__(
        self, n_in: int, n_out: int, p: float = 0.5, *, rng: Rng | None = None, dtype: npt.DTypeLike = np.float32
    ) -> None:
        for name, value in (("n_in", n_in), ("n_out", n_out)):
            check_integer(name, value, 1)
        dtype = _kernels.check_dtype(dtype, ("float32", "float64")).newbyteorder("=")
        super().__init__(p, rng=rng)
        generator = np.random.default_rng(_weight_seed(self._rng))
        bound = np.sqrt(6 / n_in)
        weight = generator.uniform(-bound, bound, (n_in, n_out)).astype(dtype)
        self.params = [weight, np.zeros(n_out, dtype)]
        self.grads = [np.zeros_like(param) for param in self.params]
        self._saved: tuple[Any, ...] | None = None

    def _options(self) -> dict[str, Any]:
        widths = zip(("n_in", "n_out"), self.params[0].shape if self.params else (), strict=False)
        return {**dict(widths), **super()._options()}

    def _take_saved(self) -> tuple[Any, ...]:
        """Return what the last forward pass left for this backward pass."""
        if self._saved is None:
            raise RuntimeError("backward must follow a forward pass, and none has been made")
        return self._saved


def _weight_seed(stream: Stream | None) -> "np.random.SeedSequence | None":
    """Return a seed for a layer's first weights: a child of its stream, so that layers that share one begin unlike."""
    return None if stream is None else np.random.SeedSequence(stream.spawn(1)[0].key)


class DropConnect(_LinearLayer):
    """A linear layer whose weights are dropped in the place of its inputs: x @ (W * mask) + b.

    One mask serves all rows of a batch; each forward pass in training draws a new one. The layer holds on to x: write
    neither into it nor into W before `backward` has run.

    Parameters
    ----------
    n_in, n_out : int
        The widths of input and output. `params` are W, of shape (n_in, n_out), uniform with variance 2 / n_in (He et
        al., 2015) at first, and b, of shape (n_out,), zero at first.
    p, rng
        As in `Dropout`.
    rescale : bool
        Whether to divide kept weights by 1-p in training. Wan et al. do not.
    inference : {"mean", "gaussian"}
        What evaluation does: "mean" takes each weight's mean; "gaussian" draws from a normal distribution with the
        output's mean and variance (Wan et al.'s moment matching) and averages relu over the draws.
    n_samples : int
        How many draws that average is over.
    relu : bool
        Whether a ReLU follows inside the layer. "gaussian" needs it: without one, the average is the mean.
    dtype : float32 or float64
        That of the parameters.

    Raises
    ------
    TypeError, ValueError
        For an argument that is not one of the above.

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
        check_integer("n_samples", n_samples, 1)
        super().__init__(n_in, n_out, p, rng=rng, dtype=dtype)
        self.rescale, self.inference, self.n_samples, self.relu = bool(rescale), inference, n_samples, bool(relu)

    def forward(self, x: npt.ArrayLike) -> Array:
        """Return the layer's output for x of shape (..., n_in), of shape (..., n_out)."""
        weight, bias = self.params
        inputs, _, _ = check_product(x, weight, bias)
        if not self.training and self.inference == "gaussian":
            y = self._average(inputs)
            self.mask = self._saved = None
            return y
        if self.training:
            with drawing(weight.shape, self._p, self._rng) as mask:
                y = self._product(inputs, mask.apply(weight, scale=self._scale), bias)
            self.mask = mask
            return y
        scale = weight.dtype.type(self._mean_scale)
        y = self._product(inputs, weight * scale if scale != 1.0 else weight, bias)
        self.mask = None
        return y

    def _product(self, x: Array, used: Array, bias: Array) -> Array:
        """Return the output for the weights that are used, and keep what `backward` needs."""
        y = _affine(x, used, bias)
        if self.relu:
            np.maximum(y, 0, out=y)
        self._saved = x, used, y > 0 if self.relu else None, y.shape, self._mean_scale, self._scale
        return y

    def backward(self, dy: npt.ArrayLike) -> Array:
        """Return the gradient with respect to x, and put those with respect to W and b into `grads`.

        RuntimeError where no forward pass came before, or one that sampled.
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
        dx: Array = gradient @ used.T
        return dx

    @property
    def _scale(self) -> float | None:
        """What kept weights are multiplied by; None for 1/(1-p)."""
        return None if self.rescale else 1.0

    @property
    def _mean_scale(self) -> float:
        """What evaluation multiplies weights by."""
        return (1.0 - self._p) * (_kernels.kept_scale(self._p) if self.rescale else 1.0)

    def _average(self, x: Array) -> Array:
        """Return the average of relu over draws from the normal distribution with the output's moments."""
        weight, bias = self.params
        mean, variance = drop_connect_moments(x, weight, bias, self._p, rescale=self.rescale)
        std, total, stream = np.sqrt(variance), np.zeros_like(mean), as_stream(self._rng)
        zeros, drawn = np.zeros_like(mean), np.empty_like(mean)
        for _ in range(self.n_samples):
            draw_noise(mean.shape, 1.0, rng=stream).add(zeros, out=drawn)
            drawn *= std
            drawn += mean
            total += np.maximum(drawn, 0, out=drawn)
        total /= total.dtype.type(self.n_samples)
        return total


class FeatureDropoutLinear(_LinearLayer):
    """Feature dropout and the linear layer behind it in one: the products touch only the kept columns.

    The same numbers, to rounding, as `FeatureDropout` followed by x @ W + b, at about 1-p of the arithmetic. Where
    gathering does not pay (small p, small layers) it does just that. The layer holds on to x: write neither into it nor
    into W before `backward` has run.

    Parameters
    ----------
    n_in, n_out : int
        The widths of input and output. `params` are W, of shape (n_in, n_out), uniform with variance 2 / n_in (He et
        al., 2015) at first, and b, of shape (n_out,), zero at first.
    p, rng
        As in `Dropout`.
    dtype : float32 or float64
        That of the parameters.

    Raises
    ------
    TypeError, ValueError
        For an argument that is not one of the above.

    """

    def forward(self, x: npt.ArrayLike) -> Array:
        """Return the layer's output for x of shape (n_samples, n_in), of shape (n_samples, n_out)."""
        weight, bias = self.params
        inputs, _, _ = check_product(x, weight, bias)
        check_batch(inputs)
        if not self.training:
            y = _affine(inputs, weight, bias)
            self.mask, self._saved = None, (inputs, weight, None, 1.0)
            return y
        with drawing(inputs.shape, self._p, self._rng, shared_axes=0) as mask:
            dropped, rows, columns = drop_features(mask, inputs, weight)
            y = _affine(dropped, rows, bias)
        self.mask, self._saved = mask, (dropped, rows, columns, _kernels.kept_scale(self._p))
        return y

    def backward(self, dy: npt.ArrayLike) -> Array:
        """Return the gradient with respect to x, and put those with respect to W and b into `grads`.

        RuntimeError where no forward pass came before.
        """
        x, weight, columns, scale = self._take_saved()
        gradient = check_gradient(dy, (x.shape[0], weight.shape[1]))
        np.sum(gradient, axis=0, out=self.grads[1])
        if columns is None:
            np.matmul(x.T, gradient, out=self.grads[0])
            dx: Array = gradient @ weight.T
            return dx if self.mask is None else self.mask.apply(dx, out=dx)
        self.grads[0].fill(0)
        self.grads[0][columns] = x.T @ gradient
        # What is dropped takes the column of zeros behind the kept ones: to take is a tenth of what assigning costs.
        n_kept = len(columns)
        kept = np.zeros((x.shape[0], n_kept + 1), x.dtype)
        np.matmul(gradient, weight.T, out=kept[:, :n_kept])
        kept *= kept.dtype.type(scale)
        sources = np.full(self.params[0].shape[0], n_kept)
        sources[columns] = np.arange(n_kept)
        return np.take(kept, sources, axis=1)
