"""Feature dropout between linear layers, whose matrix products skip what is dropped.

In `Linear -> activation -> CompactDropout -> Linear`, the first layer computes the kept features only, and the second
one reads the columns of its weight that belong to them. A matrix between two dropped layers is cut on both sides: at
p = 0.5 its products take a quarter of the arithmetic, forward and backward. Parameters keep their shapes, and so do
their gradients, which are 0 where a row or column was dropped.

Each dropout layer draws two 64-bit numbers from PyTorch's generator in a forward pass in training, as `FeatureDropout`
does; with one group the masks are those of `FeatureDropout` for the same seed.
"""

from cdropout.torch.compact.modules import CompactDropout, CompactSequential
from cdropout.torch.compact.modules import _unpickle as _unpickle  # named by earlier pickles
from cdropout.torch.compact.rewriting import Compacted, compact_dropout

__all__ = ["CompactDropout", "CompactSequential", "Compacted", "compact_dropout"]
