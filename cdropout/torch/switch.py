"""One switch for the process: PyTorch's own dropout operators run this library's kernels on the CPU."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch._decomp import decompositions
from torch.fx.node import has_side_effect

from cdropout.torch import native_library
from cdropout.torch.attention import attend_if_it_fits
from cdropout.torch.tensors import drop, is_compiled, is_ours, keep

_lock = threading.RLock()
_CACHE_TAG = " cdropout-1-"  # the number changes with the operators of recorded.py


class _Switch:
    """What is on now, and the kernels that are registered.

    Those of dropout stay registered after the first time, because calls of other threads read the dispatcher's table
    while it changes; when they are off, they pass everything to PyTorch's implementation.
    """

    dropout = False
    bernoulli = False
    is_prepared = False
    dropout_kernels: tuple[torch.library.Library, ...] = ()
    bernoulli_kernels: tuple[torch.library.Library, ...] = ()


class _Thread(threading.local):
    """How many blocks of `enter` the thread is in, where the C++ part of this package is not loaded."""

    n_entered = 0


_thread = _Thread()


def _enter() -> None:
    if _is_native():
        torch.ops.cdropout.enter_native.default()
    else:
        _thread.n_entered += 1


def _leave() -> None:
    if _is_native():
        torch.ops.cdropout.leave_native.default()
    else:
        _thread.n_entered -= 1


# As operators, torch.compile records them, and they take effect when the operators between them are traced.
_library = torch.library.Library("cdropout", "FRAGMENT")
for _name, _function in (("enter", _enter), ("leave", _leave)):
    _library.define(f"{_name}() -> ()")
    _library.impl(_name, _function, "CompositeImplicitAutograd")
    has_side_effect(getattr(torch.ops.cdropout, _name).default)  # dead code elimination keeps them


def enter() -> None:
    """Begin a block in which this thread's dropout and bernoulli are this library's. `prepare` comes first."""
    if torch.compiler.is_compiling():
        torch.ops.cdropout.enter.default()
    else:
        _enter()


def leave() -> None:
    """End a block that `enter` has begun."""
    if torch.compiler.is_compiling():
        torch.ops.cdropout.leave.default()
    else:
        _leave()


def prepare() -> bool:
    """Register the kernels of `enter`, which pass everything to PyTorch outside of its blocks.

    Return whether they include bernoulli: in Python they do not, because a kernel in Python hides PyTorch's.
    """
    if _Switch.is_prepared:
        return _is_native()
    with _lock:
        if native_library.load() and _is_native():
            torch.ops.cdropout.register_dropout()
            torch.ops.cdropout.register_bernoulli()
        else:
            _register(True, _Switch.bernoulli)
        _forget_choices()
        _Switch.is_prepared = True
        return _is_native()


def _is_native() -> bool:
    """Return whether the registered kernels, or else the next ones, are those of the C++ part."""
    return native_library.is_loaded() and not (_Switch.dropout_kernels or _Switch.bernoulli_kernels)


def enable(*, bernoulli: bool = False) -> None:
    """Let PyTorch's own dropout use this library's masks, in the whole process and for tensors on the CPU.

    From then on these operators of PyTorch's dispatcher are this library's, wherever they are called: `aten::dropout`,
    `feature_dropout`, `alpha_dropout`, `feature_alpha_dropout`, their in-place forms, and
    `scaled_dot_product_attention` with `dropout_p > 0`. So `torch.nn.functional.dropout` in any model's code, `nn.LSTM`
    and `nn.GRU`, attention, subclasses of `nn.Dropout`, and modules in lists are reached without a change of the model.

    Masks follow `torch.manual_seed`; each call draws two 64-bit numbers from PyTorch's generator. They are those of the
    functions of this package for the same seed. Tensors on other devices, meta, fake, nested, sparse and complex ones,
    and calls inside `torch.func` or forward-mode differentiation run PyTorch's own implementation as before.
    `torch.compile` records `cdropout::draw` in the graph; call this function before it, because a model that has been
    compiled keeps the operators of its graph. Compiles the C++ part of this package on the first call (`build_native`).

    Calling it again is allowed, and may add bernoulli. Call it before other threads run models.

    Parameters
    ----------
    bernoulli : bool
        Whether to include `aten::bernoulli_.float`, and so `aten::bernoulli.p`: random zeros and ones with a single
        probability, from which stochastic depth and other hand-written masks are made.

    See Also
    --------
    disable, enabled, replace_dropout

    """
    with _lock:
        _set(True, _Switch.bernoulli or bernoulli)


def disable() -> None:
    """Give PyTorch its own operators back. Without an earlier `enable`, nothing happens."""
    with _lock:
        _set(False, False)


@contextlib.contextmanager
def enabled(*, bernoulli: bool = False) -> Iterator[None]:
    """Run a block with the switch on, for all threads, and set it back after it.

    Parameters
    ----------
    bernoulli : bool
        As in `enable`.

    """
    with _lock:
        before = _Switch.dropout, _Switch.bernoulli
        enable(bernoulli=bernoulli)
    try:
        yield
    finally:
        with _lock:
            _set(*before)


def is_enabled() -> bool:
    """Return whether the switch is on."""
    return _Switch.dropout


def _set(dropout: bool, bernoulli: bool) -> None:
    if (dropout, bernoulli) == (_Switch.dropout, _Switch.bernoulli):
        return
    if native_library.load() and _is_native():
        torch.ops.cdropout.switch_dropout(dropout)
        torch.ops.cdropout.switch_bernoulli(bernoulli)
    else:
        _register(dropout, bernoulli)
    _Switch.dropout, _Switch.bernoulli = dropout, bernoulli
    _forget_choices()
    _tag_caches(dropout, bernoulli)


def _forget_choices() -> None:
    """Let the dispatcher that compilers use look the operators' kernels up again."""
    for name in (*_DROPOUT, "scaled_dot_product_attention", "bernoulli_"):
        packet = getattr(torch.ops.aten, name)
        for overload in packet.overloads():
            getattr(packet, overload)._dispatch_cache.clear()


def _tag_caches(dropout: bool, bernoulli: bool) -> None:
    """Keep compiled programs with the switch on and off apart in the caches of `torch.compile`, which are on disk.

    Their keys do not contain what operators are replaced by, so a program could get the graph of another process.
    """
    config: Any = getattr(torch.compiler, "config", None)
    if hasattr(config, "cache_key_tag"):  # not before PyTorch 2.7
        before = config.cache_key_tag.partition(_CACHE_TAG)[0]
        config.cache_key_tag = f"{before}{_CACHE_TAG}{int(bernoulli)}" if dropout else before


# ---- without the C++ part ----


def _is_on() -> bool:
    return _Switch.dropout or _thread.n_entered > 0


def _register(dropout: bool, bernoulli: bool) -> None:
    if dropout and not _Switch.dropout_kernels:
        # Autograd's first: with a kernel for the CPU alone, PyTorch would not differentiate the operator.
        _Switch.dropout_kernels = tuple(torch.library.Library("aten", "IMPL", key) for key in ("AutogradCPU", "CPU"))
        for library in _Switch.dropout_kernels:
            for name, kernel in _DROPOUT.items():
                library.impl(name, kernel)
            library.impl("scaled_dot_product_attention", _attention)
    if bernoulli and not _Switch.bernoulli_kernels:
        _Switch.bernoulli_kernels = (torch.library.Library("aten", "IMPL", "CPU"),)
        with warnings.catch_warnings():  # PyTorch warns that its kernel for this key is replaced
            warnings.simplefilter("ignore")
            _Switch.bernoulli_kernels[0].impl("bernoulli_.float", _bernoulli, allow_override=True)
    elif not bernoulli:
        for library in _Switch.bernoulli_kernels:  # Python cannot call the kernel that this one hides
            library._destroy()
        _Switch.bernoulli_kernels = ()


# PyTorch's own implementation. OpOverload.decompose would call a decomposition in Python, which is for compilers.
_COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd


def _operator(name: str, is_alpha: bool, is_feature: bool) -> Callable[[Tensor, float, bool], Tensor]:
    """Return the kernel of an operator of PyTorch; name ends with "_" if it works in place."""
    inplace = name.endswith("_")
    of_torch: Any = getattr(torch.ops.aten, name).default

    def kernel(x: Tensor, p: float, train: bool) -> Tensor:
        shared_axes = tuple(range(2, x.dim())) if is_feature else ()
        if _is_on() and train and (x.dim() >= 2 or not is_feature) and 0.0 < p <= 1.0:
            if is_ours(p, None, x):
                return drop(x, p, shared_axes, inplace, None, alpha=is_alpha)
            if is_compiled(x):
                y = torch.ops.cdropout.record(x, p, shared_axes, is_alpha)
                return x.copy_(y) if inplace else y  # type: ignore[no-any-return]
        if name == "dropout" and is_compiled(x):
            return decompositions.dropout(x, p, train)  # type: ignore[no-any-return]
        return of_torch._op_dk(_COMPOSITE, x, p, train)  # type: ignore[no-any-return]

    return kernel


_DROPOUT = {
    f"{kind}dropout{place}": _operator(f"{kind}dropout{place}", "alpha" in kind, "feature" in kind)
    for kind in ("", "feature_", "alpha_", "feature_alpha_")
    for place in ("", "_")
}


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if _is_on() and dropout_p > 0.0:
        y = attend_if_it_fits(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa, None)
        if y is not None:
            return y
    of_torch: Any = torch.ops.aten.scaled_dot_product_attention.default
    return of_torch._op_dk(  # type: ignore[no-any-return]
        _COMPOSITE, query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
    )


def _bernoulli(out: Tensor, p: float = 0.5, *, generator: torch.Generator | None = None) -> Tensor:
    if not 0.0 <= p <= 1.0:
        raise RuntimeError(f"bernoulli_ expects p to be in [0, 1], but got p={p}")
    return out.copy_(keep(out.shape, 1.0 - p, generator))
