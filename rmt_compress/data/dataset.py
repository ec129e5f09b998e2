"""What every reader of data hands over: inputs and labels of one split, in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from rmt_compress.data.samples import Batch, Part, Targets
from rmt_compress.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

Split = Literal["train", "test"]


@dataclass(frozen=True, eq=False)
class Dataset:
    """One split of a data set.

    There is one convention for pixels, in training and in evaluation alike: grey value / largest grey value,
    so [0, 1], and **no** further normalisation (no mean subtracted, no division by a standard deviation). What
    a ``package.module:callable`` yields is taken as it is.

    Attributes:
        name: the set's name, or the directory or callable it came from.
        split: ``train`` or ``test``.
        images: float32 inputs, (N, C, H, W) for images; a callable may yield other shapes (N, …), and whole
            numbers (tokens, indices), which stay such.
        labels: int64 class indices, (N,), each in [0, classes).
        classes: number of classes.
        notes: what the user should know (missing files, unusual sizes), one sentence each.
    """

    name: str
    split: Split
    images: torch.Tensor
    labels: torch.Tensor
    classes: int
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        images, labels = len(self.images), self.labels.numel()
        if images != labels:
            raise DataError(f"{self.name}: {images:,} images but {labels:,} labels in the {self.split} split")
        if not labels:
            raise DataError(f"{self.name}: the {self.split} split is empty")
        lowest, highest = int(self.labels.min()), int(self.labels.max())
        if lowest < 0 or highest >= self.classes:
            wrong = lowest if lowest < 0 else highest
            raise DataError(f"{self.name}: label {wrong} is outside 0 … {self.classes - 1}")

    def __len__(self) -> int:
        return self.labels.numel()

    @property
    def part(self) -> Part:
        """The split."""
        return self.split

    @property
    def targets(self) -> Targets:
        """Labels are classes."""
        return "classes"

    @property
    def count(self) -> int:
        """Number of samples."""
        return len(self)

    def read(self, _name: str, which: npt.NDArray[np.int64], size: int) -> Iterator[Batch]:
        """The samples of these numbers in this order, `size` at a time."""
        import torch

        for start in range(0, len(which), size):
            mine = torch.from_numpy(which[start : start + size])
            yield Batch(self.images[mine], self.labels[mine])

    def thinned(self, count: int) -> Dataset:
        """`count` samples, at least 1, spread evenly over the set, in order; the set itself where it has no more.

        Spread, since image folders are in the order of their classes.
        """
        import torch

        if count < 1:
            raise ValueError(f"{count} samples are fewer than 1")
        if count >= len(self):
            return self
        picked = torch.arange(count) * len(self) // count
        return replace(self, images=self.images[picked], labels=self.labels[picked])

    # Batches whose targets are never None, which evaluation.py relies on; a `Batch` may have none.
    def batches(self, size: int) -> Iterator[Any]:
        """Inputs and labels in their order, `size` (1 at least) at a time; the last batch may be smaller."""
        if size < 1:
            raise ValueError(f"batch size {size} is below 1")
        for start in range(0, len(self), size):
            yield Batch(self.images[start : start + size], self.labels[start : start + size])


def from_pixels(
    name: str,
    split: Split,
    pixels: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.integer],
    *,
    classes: int,
    notes: tuple[str, ...] = (),
) -> Dataset:
    """A `Dataset` of `pixels` (N, C, H, W) in 0 … 255, scaled to [0, 1]."""
    import numpy as np
    import torch

    images = torch.from_numpy(pixels.astype(np.float32)).div_(255.0)
    return Dataset(name, split, images, torch.from_numpy(labels.astype(np.int64)), classes, notes)
