"""PyTorch on the CPU: dropout modules, functions and attention that use this library's masks.

    import cdropout.torch
    n_replaced = cdropout.torch.replace_dropout(model)       # restore_dropout(model) undoes it

Masks follow `torch.manual_seed`, or a `torch.Generator` if one is passed. For the backward pass autograd saves the mask
as a value of a few dozen bytes. Arguments, checks, messages and edge cases are those of `torch.nn`, with one exception:
a dropped NaN or infinity is 0. Tensors that are not plain CPU tensors, and calls that drop nothing, are passed to
PyTorch's function, which also raises the errors for invalid arguments.

`enable` does more: from then on every dropout of the process that runs on the CPU uses these masks, also in the code of
other packages.

Needs torch; `import cdropout` does not import it. A small C++ library calls the kernels. It is compiled once, by
`build_native`; without a compiler, all of this runs in Python.
"""

from cdropout.torch import (
    native_library,
    recorded,  # noqa: F401 - defines operators
)
from cdropout.torch.attention import scaled_dot_product_attention
from cdropout.torch.functions import (
    alpha_dropout,
    dropout,
    dropout1d,
    dropout2d,
    dropout3d,
    feature_alpha_dropout,
)
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
from cdropout.torch.sites import Site, report
from cdropout.torch.switch import disable, enable, enabled, is_enabled

native_library.load_if_built()

__all__ = [
    "AlphaDropout",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Dropout3d",
    "FeatureAlphaDropout",
    "MultiheadAttention",
    "NativeBuildError",
    "Replaced",
    "Site",
    "alpha_dropout",
    "build_native",
    "disable",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "enable",
    "enabled",
    "feature_alpha_dropout",
    "is_enabled",
    "replace_dropout",
    "report",
    "restore_dropout",
    "scaled_dot_product_attention",
]
