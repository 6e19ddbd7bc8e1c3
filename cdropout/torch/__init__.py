"""PyTorch on the CPU: dropout modules, functions and attention that use this library's masks.

    import cdropout.torch
    n_replaced = cdropout.torch.replace_dropout(model)       # restore_dropout(model) undoes it

Masks follow `torch.manual_seed`, or a `torch.Generator` if one is passed. For the backward pass autograd saves the mask
as a value of a few dozen bytes. Arguments, checks, messages and edge cases are those of `torch.nn`, with one exception:
a dropped NaN or infinity is 0. Tensors that are not plain CPU tensors, and calls that drop nothing, are passed to
PyTorch's function, which also raises the errors for invalid arguments.

`enable` does more: from then on every dropout of the process that runs on the CPU uses these masks, also in the code of
other packages.

Kinds of dropout that `torch.nn` does not have, such as `FeatureDropout`, `DropConnect` and `DropPath`, are here too, as
functions and modules.

Needs torch; `import cdropout` does not import it. A small C++ library calls the kernels. It is compiled once, by
`build_native`; without a compiler, all of this runs in Python.
"""

from cdropout.torch import (
    native_library,
    recorded,  # noqa: F401 - defines operators
)
from cdropout.torch.attention import scaled_dot_product_attention
from cdropout.torch.compact import CompactDropout, Compacted, CompactSequential, compact_dropout
from cdropout.torch.drop_block import DropBlock2d, drop_block2d
from cdropout.torch.functions import (
    alpha_dropout,
    dropout,
    dropout1d,
    dropout2d,
    dropout3d,
    feature_alpha_dropout,
)
from cdropout.torch.fused import DropoutAdd, ReLUDropout, bias_dropout_add, bias_relu_dropout, dropout_add, relu_dropout
from cdropout.torch.gaussian import GaussianDropout, gaussian_dropout
from cdropout.torch.inference import Prediction, mc_predict
from cdropout.torch.linear import DropConnect, FeatureDropoutLinear, drop_connect, feature_dropout_linear
from cdropout.torch.modules import (
    AlphaDropout,
    Dropout,
    Dropout1d,
    Dropout2d,
    Dropout3d,
    FeatureAlphaDropout,
    MultiheadAttention,
    Replaced,
    replace_dropout,
    restore_dropout,
)
from cdropout.torch.native_library import NativeBuildError, build_native
from cdropout.torch.shared_axes import (
    DropPath,
    FeatureDropout,
    LockedDropout,
    StochasticDepth,
    drop_path,
    feature_dropout,
    locked_dropout,
    stochastic_depth,
)
from cdropout.torch.sites import Site, report
from cdropout.torch.switch import disable, enable, enabled, is_enabled
from cdropout.torch.zoneout import Zoneout, ZoneoutGRUCell, ZoneoutLSTMCell, ZoneoutRNNCell, zoneout

native_library.load_if_built()

__all__ = [
    "AlphaDropout",
    "CompactDropout",
    "CompactSequential",
    "Compacted",
    "DropBlock2d",
    "DropConnect",
    "DropPath",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Dropout3d",
    "DropoutAdd",
    "FeatureAlphaDropout",
    "FeatureDropout",
    "FeatureDropoutLinear",
    "GaussianDropout",
    "LockedDropout",
    "MultiheadAttention",
    "NativeBuildError",
    "Prediction",
    "ReLUDropout",
    "Replaced",
    "Site",
    "StochasticDepth",
    "Zoneout",
    "ZoneoutGRUCell",
    "ZoneoutLSTMCell",
    "ZoneoutRNNCell",
    "alpha_dropout",
    "bias_dropout_add",
    "bias_relu_dropout",
    "build_native",
    "compact_dropout",
    "disable",
    "drop_block2d",
    "drop_connect",
    "drop_path",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "dropout_add",
    "enable",
    "enabled",
    "feature_alpha_dropout",
    "feature_dropout",
    "feature_dropout_linear",
    "gaussian_dropout",
    "is_enabled",
    "locked_dropout",
    "mc_predict",
    "relu_dropout",
    "replace_dropout",
    "report",
    "restore_dropout",
    "scaled_dot_product_attention",
    "stochastic_depth",
    "zoneout",
]
