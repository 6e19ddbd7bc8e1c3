"""`call`: a function before which torch.compile ends its graph.

It records neither generators nor compact products. Compiled programs that have these import this module when they are
traced, and nothing else does: `torch.compiler.disable` imports PyTorch's compiler, which takes more than a second.
"""

from collections.abc import Callable
from typing import Any

import torch


def _call_between_graphs(function: Callable[..., Any], *args: Any) -> Any:
    """Return function(*args)."""
    return function(*args)


call: Any = torch.compiler.disable(_call_between_graphs)
