"""Networks that are stored in half precision, in float32 for as long as they are trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn


@contextmanager
def in_single_precision(*models: nn.Module) -> Iterator[None]:
    """float16 and bfloat16 tensors in float32; behind it they are rounded back, unchanged ones bit for bit.

    Storage is that of before, so that whatever shares it keeps sharing it.
    """
    import torch

    half = {
        id(tensor): tensor
        for model in models
        for tensor in (*model.parameters(), *model.buffers())
        if tensor.dtype in (torch.float16, torch.bfloat16)
    }
    stored: list[tuple[torch.Tensor, torch.Tensor]] = [(tensor, tensor.data) for tensor in half.values()]
    try:
        for tensor, own in stored:
            tensor.data = own.float()
        yield
    finally:
        for tensor, own in stored:
            own.copy_(tensor.data)
            tensor.data = own
