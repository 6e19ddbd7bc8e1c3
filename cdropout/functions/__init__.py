"""Dropout as pure functions: arrays in, arrays out; the only state is the position of the stream."""

from cdropout.functions.alpha import alpha_dropout, feature_alpha_dropout
from cdropout.functions.bernoulli import bernoulli
from cdropout.functions.coarse_dropout import coarse_dropout
from cdropout.functions.column_dropout import column_dropout
from cdropout.functions.drop_block import drop_block2d
from cdropout.functions.dropout import dropout
from cdropout.functions.fused import (
    bias_dropout_add,
    bias_relu_dropout,
    dropout_add,
    relu_dropout,
    relu_dropout_backward,
)
from cdropout.functions.gaussian import gaussian_dropout, gaussian_noise
from cdropout.functions.linear import drop_connect, drop_connect_moments, feature_dropout_linear
from cdropout.functions.pixel_dropout import pixel_dropout
from cdropout.functions.shared_axes import (
    drop_path,
    dropout1d,
    dropout2d,
    dropout3d,
    feature_dropout,
    locked_dropout,
)
from cdropout.functions.token_dropout import token_dropout
from cdropout.functions.zoneout import zoneout

__all__ = [
    "alpha_dropout",
    "bernoulli",
    "bias_dropout_add",
    "bias_relu_dropout",
    "coarse_dropout",
    "column_dropout",
    "drop_block2d",
    "drop_connect",
    "drop_connect_moments",
    "drop_path",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "dropout_add",
    "feature_alpha_dropout",
    "feature_dropout",
    "feature_dropout_linear",
    "gaussian_dropout",
    "gaussian_noise",
    "locked_dropout",
    "pixel_dropout",
    "relu_dropout",
    "relu_dropout_backward",
    "token_dropout",
    "zoneout",
]
