"""Dropout of whole channels, features, time steps or samples, as layers."""

from typing import ClassVar

from cdropout.checks import check_flag
from cdropout.functions.shared_axes import Channels, check_time_axis, sample_axes, spatial_axes
from cdropout.layers.dropout import Dropout, Rescale
from cdropout.stream import Rng


class _AxesOfShape(Dropout):
    """Dropout whose shared axes depend on the number of dimensions of x: `_axes` returns them."""

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
        Position of the channel axis.

    Raises
    ------
    TypeError, ValueError
        For a p, rng or channels other than the above; from `forward`, for another number of dimensions.

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
        For a p, rng or time_axis other than the above.

    Notes
    -----
    Source: Gal & Ghahramani, "A theoretically grounded application of dropout in recurrent neural networks", NIPS 2016.

    """

    def __init__(self, p: float = 0.5, *, time_axis: int = 0, rng: Rng | None = None, inplace: bool = False) -> None:
        time_axis = check_time_axis(time_axis)
        super().__init__(p, rng=rng, inplace=inplace)
        self.time_axis = time_axis

    def _axes(self, n_dims: int) -> tuple[int, ...]:
        return (check_time_axis(self.time_axis, n_dims),)


class DropPath(_AxesOfShape):
    """Drop whole samples, (batch, ...): stochastic depth, on the residual branch of a block.

    Parameters
    ----------
    p, rng, inplace
        As in `Dropout`.
    scale_by_keep : bool
        Whether to divide kept elements by 1-p.

    Notes
    -----
    Source: Huang et al., "Deep networks with stochastic depth", ECCV 2016; the option scale_by_keep is timm's.

    """

    def __init__(
        self, p: float = 0.5, *, scale_by_keep: bool = True, rng: Rng | None = None, inplace: bool = False
    ) -> None:
        super().__init__(
            p, rng=rng, inplace=inplace, rescale="train" if check_flag("scale_by_keep", scale_by_keep) else None
        )

    @property
    def scale_by_keep(self) -> bool:
        """Whether kept elements are divided by 1-p."""
        return self.rescale == "train"

    def _axes(self, n_dims: int) -> tuple[int, ...]:
        return sample_axes(n_dims)
