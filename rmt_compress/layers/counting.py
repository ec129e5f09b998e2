"""How many parameters a network has: its entries that can be learned, whichever command counts them.

A state dict does not tell parameters from buffers, so names and types decide, for files and live networks alike:
the statistics of norms, tables of positions, and everything of a type that nothing is learned in are buffers.
"""

from __future__ import annotations

import re

_BUFFER = re.compile(r"(?:running_mean|running_var|num_batches_tracked|position_ids|token_type_ids|_extra_state)$")
_UNLEARNED = frozenset({"bool", "int64"})


def is_buffer(tensor: str, dtype: str) -> bool:
    """Whether a tensor is no parameter.

    Args:
        tensor: its name in the state dict.
        dtype: torch's name of its type, without ``torch.``.
    """
    return dtype in _UNLEARNED or _BUFFER.fullmatch(tensor.rpartition(".")[2]) is not None
