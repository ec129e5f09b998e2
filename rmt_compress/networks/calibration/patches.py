"""What a convolution reads at some of its places, without unfolding all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Geometry:
    """Where a convolution reads, one number per axis of its kernel.

    Attributes:
        kernel: positions of the kernel.
        stride: from one place to the next.
        before: zeros in front of the first position.
        dilation: from one position of the kernel to the next.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    before: tuple[int, ...]
    dilation: tuple[int, ...]

    @classmethod
    def of(cls, kernel: Sequence[int], stride: Any, padding: Any, dilation: Any, axes: int) -> Geometry:
        """From the arguments of torch's functions: whole numbers, sequences of them, ``"same"`` and ``"valid"``."""
        strides, dilations = _each(stride, axes), _each(dilation, axes)
        if padding == "valid":
            before = (0,) * axes
        elif padding == "same":
            # Torch puts the odd zero behind.
            before = tuple(step * (length - 1) // 2 for step, length in zip(dilations, kernel, strict=True))
        else:
            before = _each(padding, axes)
        return cls(tuple(kernel), strides, before, dilations)


def _each(value: Any, axes: int) -> tuple[int, ...]:
    if isinstance(value, int):
        return (value,) * axes
    numbers = tuple(int(number) for number in value)
    return numbers * axes if len(numbers) == 1 else numbers


def places(samples: int, count: int, limit: int | None, generator: torch.Generator) -> torch.Tensor:
    """Numbers of the places to look at, (samples, min(limit, count)); drawn anew for every sample, none twice."""
    import torch

    if limit is None or limit >= count:
        return torch.arange(count).expand(samples, count)
    return torch.rand(samples, count, generator=generator).topk(limit).indices


def patches(tensor: torch.Tensor, geometry: Geometry, chosen: torch.Tensor, grid: Sequence[int]) -> torch.Tensor:
    """The patches of `tensor` at the chosen places, (samples, places, channels × kernel positions).

    Args:
        tensor: (samples, channels, …).
        geometry: of the convolution.
        chosen: (samples, places), numbers of places in C order.
        grid: how many places there are along each axis.
    """
    import torch

    shape = tensor.shape[2:]
    chosen = chosen.to(tensor.device)
    inside = torch.ones((), dtype=torch.bool, device=tensor.device)
    index = torch.zeros((), dtype=torch.long, device=tensor.device)
    axes = len(shape)
    remaining = chosen
    coordinates = []
    for length in reversed(grid):
        coordinates.append(remaining % length)
        remaining = remaining // length
    for axis, coordinate in enumerate(reversed(coordinates)):
        offsets = torch.arange(geometry.kernel[axis], device=tensor.device) * geometry.dilation[axis]
        # (samples, places, k) with the kernel's other axes as ones.
        at = (coordinate * geometry.stride[axis] - geometry.before[axis])[..., None] + offsets
        at = at.reshape(*chosen.shape, *(-1 if other == axis else 1 for other in range(axes)))
        inside = inside & (at >= 0) & (at < shape[axis])
        index = index * shape[axis] + at.clamp(0, shape[axis] - 1)
    samples, count = chosen.shape
    flat = index.reshape(samples, 1, -1).expand(-1, tensor.shape[1], -1)
    values = tensor.flatten(2).gather(2, flat).reshape(samples, tensor.shape[1], count, -1)
    values = values * inside.reshape(samples, 1, count, -1)
    return values.transpose(1, 2).flatten(2)
