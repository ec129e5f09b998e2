"""The type that a network computes in, by its name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rmt_compress.errors import SettingsError
from rmt_compress.wording import did_you_mean, listed

if TYPE_CHECKING:
    import torch

    from rmt_compress.checkpoints import Checkpoint

_TYPES = ("float32", "float16", "bfloat16", "float64")
_STORED = "stored"


def computing_type(checkpoint: Checkpoint, dtype: str | torch.dtype) -> torch.dtype:
    """The type of torch that is meant.

    Args:
        checkpoint: whose network computes in it.
        dtype: as torch or its name; ``stored`` for that of the first tensor of the file that can be computed in.

    Raises:
        SettingsError: no such type.
    """
    import torch

    if isinstance(dtype, torch.dtype):
        return dtype
    name = dtype
    if dtype == _STORED:
        name = next((info.dtype for info in checkpoint.tensors.values() if info.dtype in _TYPES), "float32")
    if name not in _TYPES:
        raise SettingsError([f"dtype is {listed((*_TYPES, _STORED))}, not {dtype}{did_you_mean(dtype, _TYPES)}"])
    found: torch.dtype = getattr(torch, name)
    return found
