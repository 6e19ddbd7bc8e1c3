"""`CompactLinear`: a linear layer that multiplies kept rows and columns only."""

from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from cdropout import _kernels
from cdropout.checks import check_integer
from cdropout.compact.kept import KeepWords, gather_kept, scatter_kept
from cdropout.layers.linear import _LinearLayer
from cdropout.mask import Mask, drawing
from cdropout.stream import Rng

__all__ = ["CompactLinear", "KeptGrad", "compact_pays"]

Array = npt.NDArray[Any]

# Measured by `python -m benchmarks compact --rule` (docs/compact.md, "When compact products pay"): the multiplications
# and additions that a product does in the time in which one element is gathered or scattered; the part of a product's
# time that the uneven sizes of smaller products cost; and the time of the additional calls, in flops.
FLOPS_PER_MOVED_ELEM = 8
FLOPS_PER_MOVED_ELEM_OF_GROUPS = 24  # the gradients of groups are added to whole ones
LOST_TO_UNEVEN_SIZES = 0.08
FLOPS_OF_CALLS = 5_000_000


def compact_pays(
    n_samples: int,
    n_before: int,
    n_features: int,
    n_after: int,
    p: float,
    *,
    has_groups: bool = False,
    flops_of_calls: float = FLOPS_OF_CALLS,
    flops_per_moved_elem: float | None = None,
) -> bool:
    """Return whether smaller products save more time than gathering and scattering rows and columns costs.

    Parameters
    ----------
    n_samples : int
        Rows of a batch that share a mask.
    n_before, n_features, n_after : int
        The width of the features that are dropped, and those of the layers before and behind.
    p : float
        The probability of dropping.
    has_groups : bool
        Whether the batch has several groups of rows.
    flops_of_calls : float
        The multiplications and additions that a product does in the time of the additional calls.
    flops_per_moved_elem : float, optional
        The same for the time in which one element is gathered or scattered.

    """
    flops_saved = 6 * n_samples * (p - LOST_TO_UNEVEN_SIZES) * n_features * (n_before + n_after)
    # Columns of the weights before, which touch all of their memory, and rows of those behind; each is gathered once,
    # and its gradient is scattered once.
    n_moved = 2 * n_features * (n_before + (1 - p) * n_after)
    if flops_per_moved_elem is None:
        flops_per_moved_elem = FLOPS_PER_MOVED_ELEM_OF_GROUPS if has_groups else FLOPS_PER_MOVED_ELEM
    return flops_saved > flops_per_moved_elem * n_moved + flops_of_calls


class KeptGrad(NamedTuple):
    """The gradient of a parameter, without the rows and columns that are zero because they were dropped.

    The parameter counts as a matrix; a bias has one row. The gradient is 0 except at kept rows and columns, where it is
    ``values * scale``: ``scatter_kept(values, rows, columns, out=grad, scale=scale)``.
    """

    rows: KeepWords | None
    columns: KeepWords | None
    values: Array
    scale: float


class _Dropped(NamedTuple):
    """The decisions on one layer's outputs in one forward pass."""

    mask: Mask  # of shape (n_samples, n_out) sharing axis 0; with groups (n_groups, n_out)
    bounds: list[int]  # rows bounds[g] .. bounds[g + 1] - 1 of the batch are group g
    kept: list[KeepWords] | None  # of each group; None if products are full
    scale: float

    @property
    def n_groups(self) -> int:
        return len(self.bounds) - 1

    def masks(self, is_contiguous: bool) -> list[tuple[slice, tuple[int, ...], Mask]]:
        """Return masks for rows of a full array: the rows, the shape in which they fit the mask, and the mask.

        Groups of equal size share a mask of three axes, if the array can be reshaped without a copy.
        """
        n_samples, n_features = self.bounds[-1], self.mask.shape[1]
        if self.n_groups == 1:
            return [(slice(None), self.mask.shape, self.mask)]
        key, p, shape = self.mask.key, self.mask.p, (self.n_groups, n_samples // self.n_groups, n_features)
        if n_samples % self.n_groups == 0 and is_contiguous:
            return [(slice(None), shape, Mask(key, self.mask.start, p, shape, 1))]
        masks: list[tuple[slice, tuple[int, ...], Mask]] = []
        for g, (begin, end) in enumerate(pairwise(self.bounds)):
            shape_of_group = (end - begin, n_features)
            mask = Mask(key, self.mask.start + g * n_features, p, shape_of_group, 0)
            masks.append((slice(begin, end), shape_of_group, mask))
        return masks

    def apply(self, x: Array, out: Array | None = None) -> Array:
        """Drop features of a full array."""
        if self.n_groups == 1:
            return self.mask.apply(x, out=out)
        dropped = np.empty(x.shape, x.dtype) if out is None else out
        for rows, shape, mask in self.masks(x.flags.c_contiguous and dropped.flags.c_contiguous):
            mask.apply(x[rows].reshape(shape), out=dropped[rows].reshape(shape))
        return dropped

    def relu(self, y: Array) -> None:
        """Replace a full C-contiguous array by its ReLU with features dropped."""
        for rows, shape, mask in self.masks(True):
            _kernels.relu_in_place(y[rows].reshape(shape), mask)

    def packed_shape(self) -> tuple[int, ...]:
        """Return the shape of the kept outputs: two axes, or one with the groups' blocks one after the other."""
        assert self.kept is not None
        if self.n_groups == 1:
            return self.bounds[1], self.kept[0].n_kept
        lengths = zip(pairwise(self.bounds), self.kept, strict=True)
        return (sum((end - begin) * kept.n_kept for (begin, end), kept in lengths),)

    def blocks(self, packed: Array) -> list[Array]:
        """Return the groups' blocks, (n_rows, n_kept) each, as views of the packed array."""
        assert self.kept is not None
        if self.n_groups == 1:
            return [packed]
        views, at = [], 0
        for (begin, end), kept in zip(pairwise(self.bounds), self.kept, strict=True):
            n_elems = (end - begin) * kept.n_kept
            views.append(packed[at : at + n_elems].reshape(end - begin, kept.n_kept))
            at += n_elems
        return views


class _Saved(NamedTuple):
    """What the backward pass needs of a forward pass."""

    source: _Dropped | None
    dropped: _Dropped | None
    blocks: list[Array]  # inputs of each product
    weights: list[Array]
    x_shape: tuple[int, ...]
    y_shape: tuple[int, ...]


class CompactLinear(_LinearLayer):
    """A linear layer whose outputs are dropped, feature by feature, and are not computed where they are dropped.

    In training, each forward pass draws a mask of the outputs, which all rows of a batch share, or all rows of a group.
    The output then consists of the kept columns only, side by side, so that element-wise functions, such as ReLU, can
    be applied to it as to any array. The layer behind, made with ``after=this_layer``, multiplies them with the kept
    rows of its weights, and scales by 1/(1-p). Both layers gather what they need of their weights, and their gradients
    are as small. Where that costs more time than it saves (`compact_pays`), the output is full and the layer behind
    applies the mask. Results equal, up to rounding, those of full layers with `FeatureDropout` between them.

    Do not write into x or W before `backward` has run.

    Parameters
    ----------
    n_in, n_out : int
        The widths of input and output. `params` are W, of shape (n_in, n_out), uniform with variance 2 / n_in (He et
        al., 2015) at first, and b, of shape (n_out,), zero at first.
    p : float
        The probability of dropping an output. A layer with p > 0 must have a layer behind it that names it as `after`.
    after : CompactLinear, optional
        The layer whose output, through element-wise functions only, is this layer's input.
    n_groups : int
        Number of groups that the rows of a batch are divided into, each with a mask. With groups, the compact output
        has one axis: the groups' blocks, one after the other.
    rng
        As in `Dropout`.
    dtype : float32 or float64
        The dtype of the parameters.
    full_grads : bool
        Whether `backward` writes whole gradients to `grads`. Optimizers of this package read `kept_grads`, which always
        exists, so that without `grads` a step takes less time. If compact products leave `grads` unwritten, its arrays
        contain NaN, so that a step of another optimizer is no silent step without gradients.
    input_grad : bool
        Whether `backward` computes the gradient with respect to x; a network's first layer needs none. If not, it
        returns None.

    Attributes
    ----------
    kept_grads : list of KeptGrad
        The gradients of W and b after `backward`. Valid until the next backward pass.

    Raises
    ------
    TypeError, ValueError
        For an argument other than the above, or if `after` has another n_out, dtype or n_groups, or has a layer behind.

    Notes
    -----
    Source: Graham, Reizenstein & Robinson, "Efficient batchwise dropout training using submatrices", 2015.

    """

    n_groups: int
    _behind: "CompactLinear | None"
    _scratch: ClassVar[tuple[str, ...]] = ("_weight_room", "_grad_room")

    def __init__(
        self,
        n_in: int,
        n_out: int,
        p: float = 0.0,
        *,
        after: "CompactLinear | None" = None,
        n_groups: int = 1,
        rng: Rng | None = None,
        dtype: npt.DTypeLike = np.float32,
        full_grads: bool = True,
        input_grad: bool = True,
    ) -> None:
        n_groups = check_integer("n_groups", n_groups, 1)
        numpy_dtype = _kernels.check_dtype(dtype, ("float32", "float64"))
        if after is not None:
            if not isinstance(after, CompactLinear):
                raise TypeError(f"after must be a CompactLinear or None, got {type(after).__name__}")
            width, groups, given = after.params[0].shape[1], after.n_groups, after.params[0].dtype
            if (check_integer("n_in", n_in, 1), n_groups, numpy_dtype.newbyteorder("=")) != (width, groups, given):
                raise ValueError(
                    f"after must have n_out {n_in}, n_groups {n_groups} and dtype {numpy_dtype}, got {width}, {groups} "
                    f"and {given}"
                )
            if after._behind is not None:
                raise ValueError("after must have no layer behind it yet, got one that has")
        super().__init__(n_in, n_out, p, rng=rng, dtype=dtype)
        self.n_groups, self.full_grads, self.input_grad = n_groups, bool(full_grads), bool(input_grad)
        self._after, self._behind = after, None
        self._dropped: _Dropped | None = None
        self._state: _Saved | None = None
        self.kept_grads: list[KeptGrad] = []
        self._weight_room: Array | None = None
        self._grad_room: Array | None = None
        if after is not None:
            after._behind = self

    def __getstate__(self) -> dict[str, Any]:
        kept = {**super().__getstate__(), "_dropped": None, "_state": None, "kept_grads": []}
        return {**kept, **dict.fromkeys(self._scratch)}

    def _link_copies(self, copies: dict[int, Any]) -> None:
        self._after = copies.get(id(self._after), self._after)
        self._behind = copies.get(id(self._behind), self._behind)
        self._dropped, self._state, self.kept_grads = None, None, []
        for name in self._scratch:
            setattr(self, name, None)

    # ---- forward ----------------------------------------------------------------------------------------------------

    def forward(self, x: npt.ArrayLike) -> Array:
        """Return the layer's output, compact in training if that pays.

        x has the shape (n_samples, n_in), or that of the output of `after`.
        """
        return self._forward(x, is_dropped=False)

    def _forward(self, x: npt.ArrayLike, *, is_dropped: bool) -> Array:
        """Run `forward`; is_dropped: the mask of `after` has been applied to a full x."""
        weight = self.params[0]
        source = self._after._dropped if self._after is not None else None
        inputs, n_samples = self._check_input(x, source)
        if not (self.training and self._p > 0):
            y = self._products(inputs, source, None, n_samples, is_dropped)
            self.mask = self._dropped = None
            return y
        if self._behind is None:
            raise RuntimeError("a CompactLinear with p > 0 must have a layer behind it that names it as `after`")
        if n_samples < self.n_groups:
            raise ValueError(f"x must have a row for each of {self.n_groups} groups, got shape {inputs.shape}")
        one = self.n_groups == 1
        shape = (n_samples if one else self.n_groups, weight.shape[1])
        with drawing(shape, self._p, self._rng, shared_axes=0 if one else (), arrays=(("x", inputs),)) as mask:
            bounds = [n_samples * g // self.n_groups for g in range(self.n_groups + 1)]
            kept = None
            if self._is_compact(n_samples // self.n_groups, source):
                kept = [KeepWords(mask[:1] if one else mask[g : g + 1]) for g in range(self.n_groups)]
            dropped = _Dropped(mask, bounds, kept, _kernels.kept_scale(self._p))
            y = self._products(inputs, source, dropped, n_samples, is_dropped)
        self.mask, self._dropped = mask, dropped
        return y

    def _is_compact(self, n_samples: int, source: _Dropped | None) -> bool:
        behind = self._behind
        assert behind is not None
        n_in, n_out = self.params[0].shape
        if source is not None and source.kept is not None and self._after is not None:
            n_in = int(n_in * (1 - self._after.p))
        n_after = int(behind.params[0].shape[1] * (1 - behind.p))
        return compact_pays(n_samples, n_in, n_out, n_after, self._p, has_groups=self.n_groups > 1)

    def _check_input(self, x: npt.ArrayLike, source: _Dropped | None) -> tuple[Array, int]:
        """Return x as a plain array and the number of samples; TypeError or ValueError if it does not fit."""
        weight = self.params[0]
        _kernels.check_unmasked(x, "x")
        inputs = _kernels.as_array(x, "x")
        if inputs.dtype != weight.dtype:
            raise TypeError(f"x must have the dtype of the weights, got {inputs.dtype} for {weight.dtype}")
        if source is not None and source.kept is not None:
            if inputs.shape != source.packed_shape():
                raise ValueError(f"x must have the shape {source.packed_shape()} of after's output, got {inputs.shape}")
            return inputs, source.bounds[-1]
        if inputs.ndim != 2 or inputs.shape[1] != weight.shape[0]:
            raise ValueError(f"x must have the axes (n_samples, {weight.shape[0]}), got shape {inputs.shape}")
        if source is not None and len(inputs) != source.bounds[-1]:
            raise ValueError(f"x must have the {source.bounds[-1]} rows of after's output, got shape {inputs.shape}")
        return inputs, len(inputs)

    def _products(
        self, x: Array, source: _Dropped | None, dropped: _Dropped | None, n_samples: int, is_dropped: bool
    ) -> Array:
        """Return the output, and save what `backward` needs. dropped are the decisions on this layer's outputs."""
        weight, bias = self.params
        rows = source.kept if source is not None else None
        columns = dropped.kept if dropped is not None else None
        dense = source.apply(x) if source is not None and rows is None and not is_dropped else x
        if rows is None and columns is None:
            y: Array = dense @ weight
            y += bias
            self._state = _Saved(source, dropped, [dense], [weight], x.shape, y.shape)
            return y
        bounds = source.bounds if source is not None else dropped.bounds if dropped is not None else [0, n_samples]
        blocks = source.blocks(x) if source is not None and rows is not None else _slices(dense, bounds)
        shape = (n_samples, weight.shape[1]) if dropped is None or columns is None else dropped.packed_shape()
        y = np.empty(shape, weight.dtype)
        outs = dropped.blocks(y) if dropped is not None and columns is not None else _slices(y, bounds)
        scale = source.scale if source is not None and rows is not None else 1.0
        weights = []
        for g, (block, out) in enumerate(zip(blocks, outs, strict=True)):
            row_words = rows[g] if rows is not None else None
            column_words = columns[g] if columns is not None else None
            used = self._room("_weight_room", (block.shape[1], out.shape[1])) if len(blocks) == 1 else None
            used = gather_kept(weight, row_words, column_words, scale=scale, out=used)
            np.matmul(block, used, out=out)
            out += bias if column_words is None else gather_kept(bias[np.newaxis], None, column_words)
            weights.append(used)
        self._state = _Saved(source, dropped, blocks, weights, x.shape, y.shape)
        return y

    def _room(self, name: str, shape: tuple[int, int]) -> Array:
        """Return an array of this shape in memory that stays from step to step: fresh memory costs page faults."""
        room = getattr(self, name)
        if room is None:
            room = np.empty(self.params[0].size, self.params[0].dtype)
            setattr(self, name, room)
        view: Array = room[: shape[0] * shape[1]].reshape(shape)
        return view

    # ---- backward ---------------------------------------------------------------------------------------------------

    def backward(self, dy: npt.ArrayLike) -> Array | None:
        """Return the gradient with respect to x, of x's shape; None without input_grad. Set `kept_grads` and `grads`.

        dy has the output's shape. RuntimeError if there was no forward pass.
        """
        return self._backward(dy, is_masked=True)

    def _backward(self, dy: npt.ArrayLike, *, is_masked: bool) -> Array | None:
        """Run `backward`; without is_masked, the gradient of a full x lacks the mask of `after`."""
        if self._state is None:
            raise RuntimeError("backward must follow a forward pass, and none has been made")
        state = self._state
        gradient = self._check_gradient(dy, state)
        source, dropped = state.source, state.dropped
        rows = source.kept if source is not None else None
        columns = dropped.kept if dropped is not None else None
        if rows is None and columns is None:
            dys = [gradient]
        elif dropped is not None and columns is not None:
            dys = dropped.blocks(gradient)
        else:
            dys = _slices(gradient, source.bounds if source is not None else [0, len(gradient)])
        self._set_grads(state, dys, rows, columns, source.scale if source is not None and rows is not None else 1.0)
        return self._input_gradient(state, dys, is_masked) if self.input_grad else None

    def _check_gradient(self, dy: npt.ArrayLike, state: _Saved) -> Array:
        """Return dy as a plain array; TypeError or ValueError if it does not fit."""
        _kernels.check_unmasked(dy, "dy")
        gradient = _kernels.check_array(dy, "dy")
        if gradient.shape != state.y_shape:
            raise ValueError(f"dy must have the output's shape {state.y_shape}, got {gradient.shape}")
        if gradient.dtype != self.params[0].dtype:
            raise TypeError(f"dy must have the dtype of the weights, got {gradient.dtype} for {self.params[0].dtype}")
        return gradient

    def _input_gradient(self, state: _Saved, dys: list[Array], is_masked: bool) -> Array:
        source = state.source
        if len(dys) == 1:
            dx: Array = dys[0] @ state.weights[0].T
        else:
            dx = np.empty(state.x_shape, self.params[0].dtype)
            is_packed = source is not None and source.kept is not None
            divided = source if source is not None else state.dropped
            assert divided is not None
            bounds = divided.bounds
            outs = source.blocks(dx) if is_packed and source is not None else _slices(dx, bounds)
            for dy, used, out in zip(dys, state.weights, outs, strict=True):
                np.matmul(dy, used.T, out=out)
        if is_masked and source is not None and source.kept is None:
            source.apply(dx, out=dx)
        return dx

    def _set_whole_grads(self, x: Array, dy: Array) -> None:
        """Set the gradients of full products."""
        grad, bias_grad = self.grads
        np.matmul(x.T, dy, out=grad)
        np.add.reduce(dy, axis=0, out=bias_grad)
        kept = self.kept_grads
        if not (kept and kept[0].values is grad and kept[1].values.base is bias_grad):
            self.kept_grads = [KeptGrad(None, None, grad, 1.0), KeptGrad(None, None, bias_grad[np.newaxis], 1.0)]

    def _set_grads(
        self,
        state: _Saved,
        dys: list[Array],
        rows: list[KeepWords] | None,
        columns: list[KeepWords] | None,
        scale: float,
    ) -> None:
        grad, bias_grad = self.grads[0], self.grads[1][np.newaxis]
        if rows is None and columns is None:
            self._set_whole_grads(state.blocks[0], dys[0])
            return
        if len(dys) == 1:
            row_words = rows[0] if rows is not None else None
            column_words = columns[0] if columns is not None else None
            values = self._room("_grad_room", (state.blocks[0].shape[1], dys[0].shape[1]))
            np.matmul(state.blocks[0].T, dys[0], out=values)
            sums = np.sum(dys[0], axis=0, keepdims=True)
            self.kept_grads = [
                KeptGrad(row_words, column_words, values, scale),
                KeptGrad(None, column_words, sums, 1.0),
            ]
            if self.full_grads:
                scatter_kept(values, row_words, column_words, out=grad, scale=scale)
                scatter_kept(sums, None, column_words, out=bias_grad)
            else:  # an optimizer that reads these must not go unnoticed; one element of the weight's is enough
                grad[0, 0] = np.nan
                bias_grad.fill(np.nan)
            return
        # Most rows and columns are kept by some group, so the sum of the groups' gradients is a whole matrix.
        grad.fill(0)
        bias_grad.fill(0)
        for g, (block, dy) in enumerate(zip(state.blocks, dys, strict=True)):
            row_words = rows[g] if rows is not None else None
            column_words = columns[g] if columns is not None else None
            values = self._room("_grad_room", (block.shape[1], dy.shape[1]))
            np.matmul(block.T, dy, out=values)
            scatter_kept(values, row_words, column_words, out=grad, rest="add", scale=scale)
            scatter_kept(np.sum(dy, axis=0, keepdims=True), None, column_words, out=bias_grad, rest="add")
        self.kept_grads = [KeptGrad(None, None, grad, 1.0), KeptGrad(None, None, bias_grad, 1.0)]


def _slices(a: Array, bounds: list[int]) -> list[Array]:
    return [a] if len(bounds) == 2 else [a[i:j] for i, j in pairwise(bounds)]
