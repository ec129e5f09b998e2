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
# The least p = min(rows, columns) that is worth its way to a GPU, on an H100 beside 16 cores; milliseconds for each
# matrix, benchmarks/results/gpu.md:
#
#     p                                    64    128    256    512   1024   2048
#     singular values, all cores          1.3    1.7   11.2   17.3    109    420
#                      the GPU            1.0    2.7    7.2   16.7   11.2   25.5
#     p leading directions, all cores    10.7   11.9   28.8   73.6    492   2995
#                      the GPU            2.3    3.1    4.3    8.4   26.1   50.7
#
# All cores work on up to eight matrices at once when layers are analysed: 200 of 128 × 256 took them 1.2 ms each,
# the GPU 4.1. And up to p = 512 torch has float32 eigenvalues found by cuSOLVER's Jacobi method, 2.4e-4 off there,
# where p = 784 was exact to 1e-7. Directions are found one matrix after the other; of small ones the GPU would save
# a few milliseconds, and the CPU gives the same digits everywhere.
_VALUES = 768
_DIRECTIONS = 256


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


def decomposing_devices(names: str | torch.device) -> tuple[torch.device, ...]:
    """The devices of these names, with commas between them, each once, as `decomposing_device` tries them.

    Raises:
        SettingsError: one is not there, or cannot decompose.
    """
    return tuple(dict.fromkeys(decomposing_device(name.strip()) for name in str(names).split(",")))


def worth_sending(rows: int, columns: int, *, directions: bool) -> bool:
    """Whether a GPU is the faster one for the directions of a matrix, or else for its singular values alone."""
    return min(rows, columns) >= (_DIRECTIONS if directions else _VALUES)


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
