"""Samples whose inputs are changed on the way: pixels as the network takes them, images flattened."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rmt_compress.data.batches import leaves, mapped
from rmt_compress.data.rows import RowSamples
from rmt_compress.data.samples import Batch, Part, Samples, Targets
from rmt_compress.data.settings import Pixels
from rmt_compress.errors import DataError
from rmt_compress.wording import counted, times

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

_IMAGES = 4  # dimensions: (N, C, H, W)
BYTES_NOTE = "Inputs are bytes and taken as they are, 0 to 255; --mean 0 divides them by 255."


@dataclass(frozen=True, eq=False)
class ChangedSamples:
    """Samples with the same change done to each tensor of their inputs.

    Attributes:
        inner: the samples.
        change: from a tensor (N, …) to one of the same N.
        added: notes.
    """

    inner: Samples
    change: Callable[[torch.Tensor], torch.Tensor]
    added: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """See `Samples`."""
        return self.inner.name

    @property
    def part(self) -> Part:
        """See `Samples`."""
        return self.inner.part

    @property
    def notes(self) -> tuple[str, ...]:
        """See `Samples`."""
        return (*self.inner.notes, *self.added)

    @property
    def targets(self) -> Targets:
        """See `Samples`."""
        return self.inner.targets

    @property
    def classes(self) -> int | None:
        """See `Samples`."""
        return self.inner.classes

    @property
    def count(self) -> int | None:
        """See `Samples`."""
        return self.inner.count

    def batches(self, size: int) -> Iterator[Batch]:
        """See `Samples`."""
        for inputs, targets in self.inner.batches(size):
            yield Batch(mapped(inputs, self.change), targets)

    def thinned(self, count: int) -> ChangedSamples:
        """See `Samples`."""
        return replace(self, inner=self.inner.thinned(count))


def reordered(samples: Samples, numbers: npt.NDArray[np.int64]) -> Samples | None:
    """The samples of these numbers, each in [0, count), in this order; None of a stream, which has its own."""
    if isinstance(samples, RowSamples):
        return replace(samples, which=samples.which[numbers])
    if not isinstance(samples, ChangedSamples):
        return None
    inner = reordered(samples.inner, numbers)
    return None if inner is None else replace(samples, inner=inner)


def flattened(samples: Samples) -> Samples:
    """Every input as one row per sample, (N, features), as a network takes it whose first layer is Linear."""
    return ChangedSamples(samples, lambda each: each.flatten(1), ("Inputs go flattened into the network.",))


def with_pixels(samples: Samples, pixels: Pixels, first: Batch) -> Samples:
    """The samples, bytes and pixels as `pixels` says.

    Args:
        samples: inputs of floating-point numbers in [0, 1], or bytes, as far as they are pixels.
        pixels: what is done. Of several inputs it is done to images, (N, C, H, W), alone.
        first: a batch of them.

    Raises:
        DataError: there are no pixels, or their channels do not suit.
    """
    import torch

    inputs = [each for _, each in leaves(first.inputs)]
    alone = not isinstance(first.inputs, tuple | Mapping)
    notes = (BYTES_NOTE,) if not pixels.given and any(each.dtype == torch.uint8 for each in inputs) else ()
    if pixels.given or pixels.size:
        said = "--mean and --std" if pixels.given else "--size"
        found = [each for each in inputs if _is_pixels(each, alone, pixels)]
        if not found:
            shapes = " and ".join(f"{times(each.shape[1:])} {str(each.dtype).partition('.')[2]}" for each in inputs)
            raise DataError(
                f"{samples.name}: {said} are of images, C×H×W in floating point; its samples are {shapes}"
            )
        channels = max(len(pixels.mean), len(pixels.std))
        for each in found:
            if channels > 1 and (each.ndim != _IMAGES or each.shape[1] != channels):
                raise DataError(
                    f"{samples.name}: --mean and --std have {counted(channels, 'channel')}, its images are "
                    f"{times(each.shape[1:])}"
                )

    def change(tensor: torch.Tensor) -> torch.Tensor:
        wanted = (pixels.given or pixels.size) and _is_pixels(tensor, alone, pixels)
        if tensor.dtype == torch.uint8:
            tensor = tensor.to(torch.float32)
            if pixels.given and wanted:
                tensor = tensor / 255
        return _as_asked(tensor, pixels) if wanted else tensor

    if not notes and not pixels.given and not pixels.size:
        return samples
    return ChangedSamples(samples, change, notes)


def _is_pixels(tensor: torch.Tensor, alone: bool, pixels: Pixels) -> bool:
    import torch

    numbers = tensor.is_floating_point() or tensor.dtype == torch.uint8
    return numbers and (tensor.ndim == _IMAGES or (alone and pixels.size is None))


def _as_asked(tensor: torch.Tensor, pixels: Pixels) -> torch.Tensor:
    import torch

    if pixels.size:
        tensor = _square(tensor, pixels.size)
    if pixels.given:
        shape = (-1, 1, 1) if tensor.ndim == _IMAGES else (-1,)
        tensor = (tensor - torch.tensor(pixels.mean).view(shape)).div_(torch.tensor(pixels.std).view(shape))
    return tensor


def _square(images: torch.Tensor, size: int) -> torch.Tensor:
    """The shorter side brought to `size`, smoothed where it shrinks, and the middle square of that."""
    from torch.nn.functional import interpolate

    height, width = images.shape[-2:]
    if (height, width) == (size, size):
        return images
    scale = size / min(height, width)
    shape = max(size, round(height * scale)), max(size, round(width * scale))
    images = interpolate(images, shape, mode="bilinear", antialias=True, align_corners=False)
    top, left = (shape[0] - size) // 2, (shape[1] - size) // 2
    return images[..., top : top + size, left : left + size]
