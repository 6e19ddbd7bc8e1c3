"""PyTorch on the CPU: dropout modules, functions and attention that use this library's masks.

    import cdropout.torch
    n_replaced = cdropout.torch.replace_dropout(model)       # restore_dropout(model) undoes it

Masks follow `torch.manual_seed`, or a `torch.Generator` if one is passed. For the backward pass autograd saves the mask
as a value of a few dozen bytes. Arguments, checks, messages and edge cases are those of `torch.nn`, with one exception:
a dropped NaN or infinity is 0. Tensors that are not plain CPU tensors, and calls that drop nothing, are passed to
PyTorch's function, which also raises the errors for invalid arguments.

Needs torch; `import cdropout` does not import it.
"""

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
    replace_dropout,
    restore_dropout,
)

__all__ = [
    "AlphaDropout",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Dropout3d",
    "FeatureAlphaDropout",
    "MultiheadAttention",
    "alpha_dropout",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "feature_alpha_dropout",
    "replace_dropout",
    "restore_dropout",
    "scaled_dot_product_attention",
]
