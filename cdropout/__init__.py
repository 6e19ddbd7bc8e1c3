"""Dropout for NumPy at the price of a multiplication."""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

try:
    from cdropout import _kernels as _kernels
except ImportError as _error:
    if _error.name != __name__:  # the compiled module exists, and its error says what is wrong
        raise
    raise ImportError(
        f"cdropout must be compiled, and what is in {__path__[0]} is not: outside of the checkout Python finds what is "
        'installed; within it, build in place (CONTRIBUTING.md, "The loop")'
    ) from None

from cdropout import functions, layers
from cdropout.functions import *
from cdropout.inference import dropout_on, mc_predict, train
from cdropout.inference import eval as eval  # noqa: A004 - the usual name of this function
from cdropout.layers import *
from cdropout.mask import Mask, draw_mask
from cdropout.noise import Noise, draw_noise
from cdropout.stream import Stream

if TYPE_CHECKING:
    # Tools that collect a program's modules, such as PyInstaller, follow imports in Python files, here too, but see
    # none in compiled modules: the compiled modules import the next three.
    from cdropout import api as api
    from cdropout import display as display
    from cdropout import machine as machine
    from cdropout.bit_generator import StreamBitGenerator
    from cdropout.c_api import get_include

__version__ = "0.1.0"

# Imported at first use, because importing them takes long and most programs need neither.
_LAZY = {"StreamBitGenerator": "cdropout.bit_generator", "get_include": "cdropout.c_api"}

# Modules that pickles of earlier code name, and the modules that have their classes and functions now.
_linear = ModuleType(f"{__name__}.linear")
vars(_linear).update({name: getattr(each, name) for each in (functions, layers) for name in each.__all__})
_MOVED = {
    "functional": functions,
    "linear": _linear,
    "value": _kernels,
    "variant_layers": layers,
    "variants": functions,
}
sys.modules.update({f"{__name__}.{name}": module for name, module in _MOVED.items()})


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = getattr(import_module(_LAZY[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})


# Without eval: `from cdropout import *` must not hide Python's built-in eval.
__all__ = [
    "Mask",
    "Noise",
    "Stream",
    "StreamBitGenerator",
    "__version__",
    "draw_mask",
    "draw_noise",
    "dropout_on",
    "get_include",
    "mc_predict",
    "train",
]
__all__ += functions.__all__
__all__ += layers.__all__
