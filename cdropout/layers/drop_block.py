"""DropBlock, which drops squares of images, as a layer."""

from typing import Any

import numpy as np
import numpy.typing as npt

from cdropout import _kernels
from cdropout.checks import check_integer, shown
from cdropout.functions.drop_block import check_blocks
from cdropout.functions.shared_axes import Channels, spatial_axes
from cdropout.layers.base import DropoutLayer
from cdropout.stream import Rng


class DropBlock2d(DropoutLayer):
    """Drop squares of images, independently in each channel; evaluation is the identity.

    Parameters
    ----------
    p : float
        Share of elements to be dropped, in [0, 1]; because squares overlap, the expected share is about 1 - exp(-p). 1
        drops all.
    rng, inplace
        As in `Dropout`.
    block_size : int
        The length of a square's side, in pixels.
    channels : {"first", "last"}
        Position of the channel axis.

    Raises
    ------
    TypeError, ValueError
        For a p, rng, block_size or channels other than the above; from `forward`, for a block_size above the image's
        height or width.

    Notes
    -----
    Source: Ghiasi, Lin & Le, "DropBlock: a regularization method for convolutional networks", NeurIPS 2018. The layer
    stores one bit for each element of its input between `forward` and `backward`.

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
        block_size = check_integer("block_size", block_size, 1)
        super().__init__(p, rng=rng, inplace=inplace)
        self.block_size, self.channels = block_size, channels
        self._keep: _kernels.KeptElements | None = None

    def forward(self, x: npt.ArrayLike) -> npt.NDArray[Any]:
        """Return x without new squares, scaled, in training; x itself in evaluation; errors as in `drop_block2d`."""
        out = x if self.inplace else None
        if not self.training:
            _kernels.check_forward(check_blocks(x, self.block_size, self.channels), out, ())
            self._keep = None
            return x  # type: ignore[return-value]
        y, self._keep = _kernels.drop_squares(x, self._p, self.block_size, self.channels, self._rng, out, spatial_axes)
        return y

    def backward(self, dy: npt.ArrayLike) -> npt.NDArray[Any]:
        """Return the gradient with respect to x; RuntimeError in training if there was no forward pass."""
        if self._keep is None:
            self._check_not_training()
            _kernels.check_array(dy, "dy")
            return dy  # type: ignore[return-value]
        return self._keep.apply(dy, "dy", dy if self.inplace else None)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_keep": None if self._keep is None else self._keep.bools()}

    def _check_fields(self, fields: dict[str, Any]) -> None:
        super()._check_fields(fields)
        keep = fields["_keep"]  # a bool array in every pickle
        if not (keep is None or (type(keep) is np.ndarray and keep.dtype == np.bool_)):
            raise TypeError(f"_keep of a pickled DropBlock2d must not be {shown(keep)}")
        fields["_keep"] = None if keep is None else _kernels.KeptElements.of_bools(keep)
