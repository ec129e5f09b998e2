"""Samples that are in memory already: inputs of any form, and what is wanted of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from rmt_compress.data.samples import Batch, Part, Targets
from rmt_compress.errors import DataError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class InMemory:
    """One part of a data set in memory; it is `Samples`.

    Attributes:
        inputs: a tensor (N, …), or a tuple or dict of such.
        wanted: the targets, N of them; None for none.
        targets: what they are.
        classes: number of classes; None where targets are no classes.
        name: see `Samples`.
        part: see `Samples`.
        notes: see `Samples`.
    """

    inputs: Any = field(repr=False)
    wanted: torch.Tensor | None = field(default=None, repr=False)
    targets: Targets = "none"
    classes: int | None = None
    name: str = "data in memory"
    part: Part = "test"
    notes: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """Number of samples."""
        first = self.inputs
        while isinstance(first, Mapping | tuple | list):
            first = next(iter(first.values())) if isinstance(first, Mapping) else first[0]
        return len(first)

    def batches(self, size: int) -> Iterator[Batch]:
        """See `Samples`."""
        for start in range(0, self.count, size):
            place = slice(start, start + size)
            yield Batch(_taken(self.inputs, place), None if self.wanted is None else self.wanted[place])

    def thinned(self, count: int) -> InMemory:
        """See `Samples`."""
        import torch

        if count < 1:
            raise DataError(f"{count} samples are fewer than 1")
        if count >= self.count:
            return self
        place = torch.arange(count) * self.count // count
        wanted = None if self.wanted is None else self.wanted[place]
        return replace(self, inputs=_taken(self.inputs, place), wanted=wanted)


def _taken(inputs: Any, place: Any) -> Any:
    if isinstance(inputs, Mapping):
        return {key: _taken(value, place) for key, value in inputs.items()}
    if isinstance(inputs, tuple | list):
        return tuple(_taken(value, place) for value in inputs)
    return inputs[place]
