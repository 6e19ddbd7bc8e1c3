"""The dropout family by PyTorch's own operators, for tensors that this library's kernels do not take.

These functions run on other devices, under `torch.func`, and while operators are recorded, and the tests compare the
kernels with them. `torch.jit.script` compiles them, so they keep to its part of Python. They draw from the default
generator of the tensor's device. As in the rest of the package, a dropped NaN or infinity is 0.
"""

# Without `from __future__ import annotations`: torch.jit.script reads the annotations.

import math

import torch
from torch import Tensor
from torch.nn import functional


def kept_scale(p: float) -> float:
    """Return 1/(1-p), and 0 for p = 1."""
    return 0.0 if p == 1.0 else 1.0 / (1.0 - p)


def draw_dropped(x: Tensor, shape: list[int], p: float) -> Tensor:
    """Return a bool tensor of a shape on x's device: True with probability p."""
    # Not torch.bernoulli: torch.onnx's exporter computes it when its input is a constant, and so fixes the mask.
    return torch.rand(shape, dtype=torch.float32, device=x.device) < p


def drop(x: Tensor, p: float, shared_axes: list[int], scale: float) -> Tensor:
    """Return scale * x where kept and 0 where dropped, with one decision along all shared axes."""
    shape = list(x.shape)
    for axis in shared_axes:
        shape[axis] = 1
    return (x * scale).masked_fill(draw_dropped(x, shape, p), 0.0)


def scale_in_evaluation(x: Tensor, p: float) -> Tensor:
    """Return (1-p) * x, and 0 for p = 1 also where x is NaN or infinite."""
    if p == 1.0:
        return x.masked_fill(torch.ones([], dtype=torch.bool, device=x.device), 0.0)
    return x * (1.0 - p)


def feature_dropout(x: Tensor, p: float, training: bool, rescale: str | None) -> Tensor:
    """Drop columns of x: `cdropout.torch.feature_dropout`."""
    if not training:
        return scale_in_evaluation(x, p) if rescale is not None and rescale == "eval" else x
    scale = kept_scale(p) if rescale is not None and rescale == "train" else 1.0
    return drop(x, p, list(range(x.dim() - 1)), scale)


def groups_of_rows(n_rows: int, n_groups: int, device: torch.device) -> Tensor:
    """Return the group of each row: group g begins at row n_rows * g // n_groups."""
    rows = torch.arange(1, n_rows + 1, device=device)
    return torch.div(rows * n_groups - 1, n_rows, rounding_mode="floor")


def group_dropout(x: Tensor, p: float, training: bool, n_groups: int) -> Tensor:
    """Drop columns of x, with a decision for each group of rows: `cdropout.torch.CompactDropout`."""
    if not training:
        return x
    groups = groups_of_rows(x.numel() // x.size(-1), n_groups, x.device)
    dropped = draw_dropped(x, [n_groups, x.size(-1)], p).index_select(0, groups)
    return (x * kept_scale(p)).masked_fill(dropped.reshape(x.shape), 0.0)


def locked_dropout(x: Tensor, p: float, training: bool, batch_first: bool) -> Tensor:
    """Drop the same elements at all time steps: `cdropout.torch.locked_dropout`."""
    if not training:
        return x
    return drop(x, p, [1 if batch_first and x.dim() == 3 else 0], kept_scale(p))


def drop_path(x: Tensor, drop_prob: float, training: bool, scale_by_keep: bool) -> Tensor:
    """Drop samples: `cdropout.torch.drop_path`."""
    if not training:
        return x
    return drop(x, drop_prob, list(range(1, x.dim())), kept_scale(drop_prob) if scale_by_keep else 1.0)


def stochastic_depth(x: Tensor, p: float, mode: str, training: bool) -> Tensor:
    """Drop samples, or all of x: `cdropout.torch.stochastic_depth`."""
    if not training:
        return x
    return drop(x, p, list(range(0 if mode == "batch" else 1, x.dim())), kept_scale(p))


def relu_dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Drop elements of relu(x): `cdropout.torch.relu_dropout`."""
    x = functional.relu(x)
    return drop(x, p, [], kept_scale(p)) if training else x


def dropout_add(x: Tensor, residual: Tensor, p: float, training: bool) -> Tensor:
    """Drop elements of x and add a residual: `cdropout.torch.dropout_add`."""
    return (drop(x, p, [], kept_scale(p)) if training else x) + residual


def gaussian_dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Multiply by normal noise: `cdropout.torch.gaussian_dropout`."""
    if not training or p == 0.0:
        return x
    return x * (1.0 + math.sqrt(p / (1.0 - p)) * torch.randn_like(x))


def zoneout(new: Tensor, previous: Tensor, p: float, training: bool) -> Tensor:
    """Keep elements of the previous state: `cdropout.torch.zoneout`."""
    if p == 0.0:
        return new
    if p == 1.0:
        return previous
    if not training:
        return (1.0 - p) * new + p * previous
    return torch.where(draw_dropped(new, list(new.shape), p), previous, new)


def drop_connect(x: Tensor, weight: Tensor, bias: "Tensor | None", p: float, training: bool, rescale: bool) -> Tensor:
    """Drop weights: `cdropout.torch.drop_connect`."""
    if training:
        weight = drop(weight, p, [], kept_scale(p) if rescale else 1.0)
    elif not rescale or p == 1.0:
        weight = scale_in_evaluation(weight, p)
    return functional.linear(x, weight, bias)


def drop_block2d(x: Tensor, dropped_corners: Tensor, block_size: int) -> Tensor:
    """Set squares of images to 0 and multiply the rest by (number of elements / number kept).

    dropped_corners is True at the upper left corners of squares: ([N,] C, H - block_size + 1, W - block_size + 1).
    """
    margin = block_size - 1
    corners = functional.pad(dropped_corners.to(torch.float32), [margin, margin, margin, margin])
    # A pixel lies in a square if, along each axis, a corner is among the block_size pixels that end with it.
    dropped = functional.max_pool2d(corners, block_size, stride=1) > 0.0
    n_kept = dropped.logical_not().sum().clamp(min=1)
    return (x * (dropped.numel() / n_kept)).masked_fill(dropped, 0.0)
