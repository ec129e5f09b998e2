"""Which samples each step of an epoch sees, and in which order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import torch

from rmt_compress.data import reordered
from rmt_compress.data.batches import length, picked
from rmt_compress.training.on_device import OnDevice

if TYPE_CHECKING:
    from rmt_compress.data import Batch, Samples
    from rmt_compress.training.workers import Workers


class Step(NamedTuple):
    """The samples of one step.

    Attributes:
        mine: this process's part of them.
        of_all: how many samples all processes have together.
    """

    mine: Batch
    of_all: int


class Feed:
    """The steps of one epoch over training samples.

    Samples that have numbers come in a random order that `seed` decides, and are read as they are needed; a stream
    is gone through in its own order, by every process from its start. A last batch of fewer than two samples per
    process is left out, since batch norm has no variance of one sample; of text, where each is many places, one is
    enough.

    Attributes:
        steps: how many there are; None of a stream that does not know its length.
    """

    def __init__(self, samples: Samples, size: int, seed: int, workers: Workers) -> None:
        self._samples, self._size, self._workers = samples, size, workers
        self._least = (1 if samples.targets == "tokens" else 2) * workers.count
        count = samples.count
        self.steps: int | None = None
        self._shuffled: Samples | None = None
        if count is None:
            return
        self.steps = count // size + (count % size >= self._least)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
        kept = torch.split(order, size)[: self.steps]
        self._counts = [len(batch) for batch in kept]
        if kept:
            numbers = torch.cat([workers.share(batch) for batch in kept])
            held = samples.reordered(numbers) if isinstance(samples, OnDevice) else None
            self._shuffled = held or reordered(samples, numbers.numpy())

    def __iter__(self) -> Iterator[Step]:
        if self._shuffled is None:
            yield from self._streamed()
            return
        each = len(range(self._workers.rank, self._size, self._workers.count))
        for mine, count in zip(self._shuffled.batches(each), self._counts, strict=True):
            yield Step(mine, count)

    def _streamed(self) -> Iterator[Step]:
        for batch in self._samples.batches(self._size):
            count = length(batch)
            if count >= self._least:
                alone = self._workers.count == 1
                mine = batch if alone else picked(batch, slice(self._workers.rank, None, self._workers.count))
                yield Step(mine, count)
