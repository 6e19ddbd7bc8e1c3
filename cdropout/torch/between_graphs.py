"""`drop` and `attend`: functions before which torch.compile ends its graph, because it does not record generators.

Compiled programs that give a generator import this module, and nothing else does: `torch.compiler.disable` imports
PyTorch's compiler, which takes more than a second.
"""

import torch

from cdropout.torch.attention import _attend
from cdropout.torch.tensors import _drop_in_python

drop = torch.compiler.disable(_drop_in_python)
attend = torch.compiler.disable(_attend)
