"""Samples in memory, for tests: any inputs, any targets."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from rmt_compress.data.samples import Batch


@dataclass(frozen=True)
class Memory:
    """Inputs that are one tensor, a tuple or a dict, and their targets."""

    inputs: Any
    wanted: torch.Tensor | None = None
    targets: str = "none"
    classes: int | None = None
    name: str = "made"
    part: str = "test"
    notes: tuple[str, ...] = ()

    @property
    def count(self):
        first = self.inputs
        while not isinstance(first, torch.Tensor):
            first = next(iter(first.values())) if isinstance(first, Mapping) else first[0]
        return len(first)

    def batches(self, size):
        for start in range(0, self.count, size):
            place = slice(start, start + size)
            yield Batch(_cut(self.inputs, place), None if self.wanted is None else self.wanted[place])

    def thinned(self, count):
        place = torch.arange(count) * self.count // count
        wanted = None if self.wanted is None else self.wanted[place]
        return replace(self, inputs=_cut(self.inputs, place), wanted=wanted)


def _cut(inputs, place):
    if isinstance(inputs, Mapping):
        return {key: _cut(value, place) for key, value in inputs.items()}
    if isinstance(inputs, tuple):
        return tuple(_cut(value, place) for value in inputs)
    return inputs[place]
