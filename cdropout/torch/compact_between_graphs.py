"""`run`: a chain with compact products, before which torch.compile ends its graph.

Only compiled programs import this module: `torch.compiler.disable` imports PyTorch's compiler, which takes more than a
second.
"""

from typing import Any

import torch

from cdropout.torch.compact import _run

run: Any = torch.compiler.disable(_run)
