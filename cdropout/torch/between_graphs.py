"""`drop`, `attend` and `run_chain`: functions before which torch.compile ends its graph.

It records neither generators nor compact products. Compiled programs that have these import this module, and nothing
else does: `torch.compiler.disable` imports PyTorch's compiler, which takes more than a second.
"""

from typing import Any

import torch

from cdropout.torch.attention import _attend
from cdropout.torch.compact import _run
from cdropout.torch.tensors import _drop_in_python

drop = torch.compiler.disable(_drop_in_python)
attend = torch.compiler.disable(_attend)
run_chain: Any = torch.compiler.disable(_run)
