"""The dropout family as layers. Each is its docstring, its defaults, and the few lines that make it different."""

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from cdropout import _kernels
from cdropout.checks import check_integer, shown
from cdropout.layers import Dropout, DropoutLayer, Rescale
from cdropout.mask import Mask
from cdropout.noise import Noise
from cdropout.stream import Rng
from cdropout.variants import (
    Channels,
    apply_blocks,
    channel_axes,
    check_time_axis,
    drop_blocks,
    noise_std,
    sample_axes,
    spatial_axes,
)

# ---- whole channels, features, time steps, samples ------------------------------------------------------------------


class _AxesOfShape(Dropout):
    """Dropout whose shared axes follow from the number of dimensions of what it is given: `_axes` tells them."""

    def __init__(
        self, p: float = 0.5, *, rng: Rng | None = None, inplace: bool = False, rescale: Rescale = "train"
    ) -> None:
        super().__init__(p, rng=rng, inplace=inplace, rescale=rescale)
        self.shared_axes = None


class _SpatialDropout(_AxesOfShape):
    """Dropout of whole channels.

    Parameters
    ----------
    p, rng, inplace
        As in `Dropout`.
    channels : {"first", "last"}
        Where the channels are.

    Raises
    ------
    TypeError, ValueError
        For a p, rng or channels that is not one of the above; by `forward` for another number of dimensions.

    """

    n_spatial: ClassVar[int]

    def __init__(
        self, p: float = 0.5, *, channels: Channels = "first", rng: Rng | None = None, inplace: bool = False
    ) -> None:
        spatial_axes(self.n_spatial, self.n_spatial + 1, channels)
        super().__init__(p, rng=rng, inplace=inplace)
        self.channels = channels

    def _axes(self, n_dims: int) -> tuple[int, ...]:
        return spatial_axes(self.n_spatial, n_dims, self.channels)


class Dropout1d(_SpatialDropout):
    """Drop whole channels of sequences, ([batch,] channels, length).

    Parameters and errors: p, rng and inplace as in `Dropout`; channels="last" for ([batch,] length, channels). Source:
    Tompson et al., "Efficient object localization using convolutional networks", CVPR 2015. Evaluation is the identity.
    """

    n_spatial = 1


class Dropout2d(_SpatialDropout):
    """Drop whole channels of images, ([batch,] channels, height, width); otherwise as `Dropout1d`."""

    n_spatial = 2


class Dropout3d(_SpatialDropout):
    """Drop whole channels of volumes, ([batch,] channels, depth, height, width); otherwise as `Dropout1d`."""

    n_spatial = 3


# Keras's names.
SpatialDropout1D = Dropout1d
SpatialDropout2D = Dropout2d
SpatialDropout3D = Dropout3d


class FeatureDropout(_AxesOfShape):
    """Drop whole features of a batch: one decision for each column (the last axis), the same in all rows.

    Parameters
    ----------
    p, rng, inplace, rescale
        As in `Dropout`.

    """

    def _axes(self, n_dims: int) -> tuple[int, ...]:
        return tuple(range(n_dims - 1))


class LockedDropout(_AxesOfShape):
    """Drop the same elements at all time steps.

    Parameters
    ----------
    p, rng, inplace
        As in `Dropout`.
    time_axis : int
        The axis along which decisions are shared: 0 for (time, batch, features).

    Raises
    ------
    TypeError, ValueError
        For a p, rng or time_axis that is not one of the above.

    Notes
    -----
    Source: Gal & Ghahramani, "A theoretically grounded application of dropout in recurrent neural networks", NIPS 2016.

    """

    def __init__(self, p: float = 0.5, *, time_axis: int = 0, rng: Rng | None = None, inplace: bool = False) -> None:
        check_time_axis(time_axis)
        super().__init__(p, rng=rng, inplace=inplace)
        self.time_axis = time_axis

    def _axes(self, n_dims: int) -> tuple[int, ...]:
        check_time_axis(self.time_axis, n_dims)
        return (self.time_axis,)


class DropPath(_AxesOfShape):
    """Drop whole samples, (batch, ...): stochastic depth, on the residual branch of a block.

    Parameters
    ----------
    p, rng, inplace
        As in `Dropout`.
    scale_by_keep : bool
        Whether to divide what is kept by 1-p.

    Notes
    -----
    Source: Huang et al., "Deep networks with stochastic depth", ECCV 2016; the option is timm's.

    """

    def __init__(
        self, p: float = 0.5, *, scale_by_keep: bool = True, rng: Rng | None = None, inplace: bool = False
    ) -> None:
        super().__init__(p, rng=rng, inplace=inplace, rescale="train" if scale_by_keep else None)

    @property
    def scale_by_keep(self) -> bool:
        """Whether what is kept is divided by 1-p."""
        return self.rescale == "train"

    def _axes(self, n_dims: int) -> tuple[int, ...]:
        return sample_axes(n_dims)


# ---- another value for what is dropped ------------------------------------------------------------------------------


class AlphaDropout(Dropout):
    """Dropout for SELU: mean 0 and variance 1 stay what they are.

    Parameters
    ----------
    p, rng, inplace, shared_axes
        As in `Dropout`.

    Notes
    -----
    What is dropped becomes SELU's value at minus infinity, and an affine map, given at `alpha_dropout`, restores mean
    and variance. Source: Klambauer et al., "Self-normalizing neural networks", NIPS 2017. Evaluation is the identity.

    """

    def __init__(
        self,
        p: float = 0.5,
        *,
        rng: Rng | None = None,
        inplace: bool = False,
        shared_axes: int | tuple[int, ...] = (),
    ) -> None:
        super().__init__(p, rng=rng, inplace=inplace, shared_axes=shared_axes)

    def _effect(self) -> tuple[float, float, float]:
        return _kernels.alpha_map(self._p)


class FeatureAlphaDropout(AlphaDropout):
    """`AlphaDropout` of whole channels, (batch, channels, ...)."""

    def __init__(self, p: float = 0.5, *, rng: Rng | None = None, inplace: bool = False) -> None:
        super().__init__(p, rng=rng, inplace=inplace)
        self.shared_axes = None

    def _axes(self, n_dims: int) -> tuple[int, ...]:
        return channel_axes(n_dims)


class Zoneout(DropoutLayer):
    """Keep elements of a recurrent network's state, with probability p, in the place of the new ones.

    In evaluation the result is the expectation, p previous + (1-p) new.

    Parameters
    ----------
    p, rng, inplace
        As in `Dropout`; in place, `forward` writes into the new state.

    Raises
    ------
    TypeError, ValueError
        For a p or rng that is not one of the above.

    Notes
    -----
    Source: Krueger et al., "Zoneout: regularizing RNNs by randomly preserving hidden activations", ICLR 2017.

    """

    _evaluated: tuple[float, tuple[int, ...]] | None = None  # p and shape of a last pass that was in evaluation

    def forward(self, new: npt.ArrayLike, previous: npt.ArrayLike) -> npt.NDArray[Any]:
        """Return the state, of new's shape and dtype; errors as in `zoneout`."""
        out = new if self.inplace else None
        if self.training:
            y, self.mask = _kernels.forward_fused(Mask, "choose", new, None, previous, self._p, self._rng, out)
        else:
            _kernels.check_fused("choose", new, None, previous, self._p, out)
            arrays = _kernels.as_array(new, "new"), _kernels.as_array(previous, "previous")
            y, self.mask = _mixed(*arrays, self._p, out), None
            self._evaluated = self._p, arrays[0].shape
        return y

    def _check_fields(self, fields: dict[str, Any]) -> None:
        super()._check_fields(fields)
        evaluated = fields.get("_evaluated")
        if evaluated is not None:
            if not (isinstance(evaluated, tuple) and len(evaluated) == 2 and isinstance(evaluated[1], tuple)):
                raise TypeError(f"_evaluated of a pickled Zoneout must not be {shown(evaluated)}")
            self._checked_p(evaluated[0])

    def backward(self, dy: npt.ArrayLike) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return the gradients with respect to new and previous; RuntimeError where no forward pass came before."""
        gradient = _kernels.check_array(dy, "dy")
        if self.mask is not None:
            return self.mask.apply(gradient, scale=1.0), np.where(self.mask.keep(), np.zeros_like(gradient), gradient)
        self._check_evaluated()
        if self._evaluated is None:
            raise RuntimeError("backward must follow a forward pass, and none has been made")
        p, shape = self._evaluated
        if gradient.shape != shape:
            raise ValueError(f"dy must have the output's shape {shape}, got {gradient.shape}")
        return gradient * gradient.dtype.type(1 - p), gradient * gradient.dtype.type(p)


def _mixed(new: npt.NDArray[Any], previous: npt.NDArray[Any], p: float, out: Any) -> npt.NDArray[Any]:
    """Return p previous + (1-p) new in their own dtype; at p = 0 and 1, one of them whatever the other holds."""
    result = _kernels.check_out(out, new)
    if p in (0.0, 1.0):
        np.copyto(result, previous if p else new)
    else:
        np.add(new.dtype.type(1 - p) * new, new.dtype.type(p) * previous, out=result)
    return result if out is None else out


class DropBlock2d(DropoutLayer):
    """Drop squares of images, in each channel on its own.

    Parameters
    ----------
    p : float
        About the share of elements to be dropped where it is small: squares overlap, so that the share is nearer to
        1 - exp(-p). 1 drops all.
    rng, inplace
        As in `Dropout`.
    block_size : int
        The length of a square's side, in pixels.
    channels : {"first", "last"}
        Where the channels are.

    Raises
    ------
    TypeError, ValueError
        For a p, rng, block_size or channels that is not one of the above; from `forward`, for a block_size above the
        image's.

    Notes
    -----
    Source: Ghiasi, Lin & Le, "DropBlock: a regularization method for convolutional networks", NeurIPS 2018. The layer
    holds on to a bool array of its input's shape.

    """

    def __init__(
        self,
        p: float = 0.1,
        *,
        block_size: int = 7,
        channels: Channels = "first",
        rng: Rng | None = None,
        inplace: bool = False,
    ) -> None:
        spatial_axes(2, 3, channels)
        check_integer("block_size", block_size, 1)
        super().__init__(p, rng=rng, inplace=inplace)
        self.block_size, self.channels = block_size, channels
        self._keep: npt.NDArray[np.bool_] | None = None

    def forward(self, x: npt.ArrayLike) -> npt.NDArray[Any]:
        """Return x without new squares, and scaled, in training; x itself in evaluation; errors as `drop_block2d`."""
        if not self.training:
            self._keep = None
            return x  # type: ignore[return-value]
        out = x if self.inplace else None
        y, self._keep = drop_blocks(x, self._p, self.block_size, self.channels, self._rng, out)
        return y

    def backward(self, dy: npt.ArrayLike) -> npt.NDArray[Any]:
        """Return the gradient with respect to x; RuntimeError in training where no forward pass came before."""
        if self._keep is None:
            self._check_evaluated()
            return dy  # type: ignore[return-value]
        gradient = _kernels.check_array(dy, "dy")
        if gradient.shape != self._keep.shape:
            raise ValueError(f"dy must have the output's shape {self._keep.shape}, got {gradient.shape}")
        return apply_blocks(gradient, self._keep, dy if self.inplace else None)


# ---- noise ----------------------------------------------------------------------------------------------------------


class _Noisy(DropoutLayer):
    """What the layers have whose masks are normal noise."""

    def __init__(self, p: float = 0.5, *, rng: Rng | None = None, inplace: bool = False) -> None:
        super().__init__(p, rng=rng, inplace=inplace)
        self.noise: Noise | None = None

    def _with_noise(self, is_factor: bool, x: Any, std: float) -> npt.NDArray[Any]:
        """Return x times, or plus, new noise, which is kept for `backward`."""
        out = x if self.inplace else None
        y, self.noise = _kernels.with_noise(Noise, is_factor, x, std, self._rng, out)
        return y


class GaussianDropout(_Noisy):
    """Multiply by normal noise of mean 1 and variance p / (1-p).

    Parameters
    ----------
    p : float
        In [0, 1).
    rng, inplace
        As in `Dropout`.

    Attributes
    ----------
    noise : Noise or None
        That of the last forward pass; None after one in evaluation, which is the identity.

    Notes
    -----
    Source: Srivastava et al., JMLR 15, 2014, section 10.

    """

    def _checked_p(self, p: float) -> float:
        noise_std(p)
        return super()._checked_p(p)

    def forward(self, x: npt.ArrayLike) -> npt.NDArray[Any]:
        """Return x times new noise in training, x itself in evaluation; errors as in `gaussian_dropout`."""
        if not self.training:
            self.noise = None
            return x  # type: ignore[return-value]
        return self._with_noise(True, x, noise_std(self._p))

    def backward(self, dy: npt.ArrayLike) -> npt.NDArray[Any]:
        """Return dy times the noise of the last forward pass; RuntimeError in training where there was none."""
        if self.noise is None:
            self._check_evaluated()
            return dy  # type: ignore[return-value]
        return self.noise.multiply(dy, dy if self.inplace else None)


class GaussianNoise(_Noisy):
    """Add normal noise of mean 0, in training.

    Parameters
    ----------
    std : float
        The standard deviation, in [0, 1e37].
    rng, inplace
        As in `Dropout`.

    """

    _rate = "std"

    def __init__(self, std: float, *, rng: Rng | None = None, inplace: bool = False) -> None:
        self.std = std
        super().__init__(0.0, rng=rng, inplace=inplace)

    @property
    def std(self) -> float:
        """The standard deviation."""
        return self._std

    @std.setter
    def std(self, std: float) -> None:
        self._std = _kernels.check_std(std)

    def _check_fields(self, fields: dict[str, Any]) -> None:
        super()._check_fields(fields)
        _kernels.check_std(fields["_std"])

    def forward(self, x: npt.ArrayLike) -> npt.NDArray[Any]:
        """Return x plus new noise in training, x itself in evaluation; errors as in `gaussian_noise`."""
        if not self.training:
            self.noise = None
            return x  # type: ignore[return-value]
        return self._with_noise(False, x, self._std)

    def backward(self, dy: npt.ArrayLike) -> npt.NDArray[Any]:
        """Return dy itself."""
        return dy  # type: ignore[return-value]
