"""Alpha dropout, for networks of SELUs, as layers."""

from cdropout import _kernels
from cdropout.functions.alpha import channel_axes
from cdropout.layers.dropout import Dropout
from cdropout.stream import Rng


class AlphaDropout(Dropout):
    """Dropout for SELU, which keeps mean 0 and variance 1; evaluation is the identity.

    Parameters
    ----------
    p, rng, inplace, shared_axes
        As in `Dropout`.

    Notes
    -----
    Dropped elements become SELU's value at minus infinity, and an affine map, given at `alpha_dropout`, restores mean
    and variance. Source: Klambauer et al., "Self-normalizing neural networks", NIPS 2017.

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

    def _map(self) -> tuple[float, float, float]:
        return _kernels.alpha_map(self._p)


class FeatureAlphaDropout(AlphaDropout):
    """`AlphaDropout` of whole channels, (batch, channels, ...)."""

    def __init__(self, p: float = 0.5, *, rng: Rng | None = None, inplace: bool = False) -> None:
        super().__init__(p, rng=rng, inplace=inplace)
        self.shared_axes = None

    def _axes(self, n_dims: int) -> tuple[int, ...]:
        return channel_axes(n_dims)
