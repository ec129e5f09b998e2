"""Where weights are decomposed: whether a device can, what it has room for, and how a tensor gets there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rmt_compress.errors import SettingsError
from rmt_compress.wording import one_line

if TYPE_CHECKING:
    import torch

# Bytes that are locked in memory at a time for a copy to a GPU: locking takes longer than copying, and locked
# memory is had again for the next piece.
_PIECE = 2**25
# The least min(rows, columns) of a weight that is worth its way to a GPU when it is decomposed by itself.
_WORTH_SENDING = 256


def decomposing_device(name: str | torch.device) -> torch.device:
    """The device of this name, tried: it must be there and find eigenvalues in float64.

    Raises:
        SettingsError: it is not there, or cannot.
    """
    import torch

    try:
        device = torch.device(name)
        if device.type == "mps":
            raise SettingsError([f"device: {device} knows no float64, which weights are decomposed in; take cpu"])
        torch.linalg.eigvalsh(torch.eye(2, dtype=torch.float64, device=device)).cpu()
    # What torch raises for an unknown name, a build without CUDA, and a device that lacks an operation.
    except (RuntimeError, AssertionError) as error:
        raise SettingsError([f"cannot decompose on device {str(name)!r}: {one_line(error)}"]) from error
    return device


def worth_sending(rows: int, columns: int) -> bool:
    """Whether one matrix is decomposed faster on a GPU than where it is."""
    return min(rows, columns) >= _WORTH_SENDING


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on a device; to a GPU the copy goes beside what is computed there meanwhile.

    Work on the stream that is current in the calling thread waits for the copy; other streams must be told to.
    """
    import torch

    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    made = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
    step = max(1, _PIECE // tensor.element_size())
    pieces = (torch.split(whole.view(-1), step) for whole in (tensor.contiguous(), made))
    for here, there in zip(*pieces, strict=True):
        there.copy_(here.pin_memory(), non_blocking=True)
    return made


def free_bytes(device: torch.device) -> int | None:
    """How much a GPU has room for, what torch holds of it unused included; None for other devices."""
    import torch

    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
