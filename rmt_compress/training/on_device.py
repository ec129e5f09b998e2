"""Samples that are held where the network is trained, so that no step waits for them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rmt_compress.data.batches import leaves, mapped
from rmt_compress.data.changed_inputs import ChangedSamples
from rmt_compress.data.dataset import Dataset
from rmt_compress.data.in_memory import InMemory
from rmt_compress.data.rows import ArrayRows, RowSamples

if TYPE_CHECKING:
    import torch

    from rmt_compress.data import Samples

# The samples, and those of an epoch in their order, may take half of what is free.
_SHARE = 1 / 4
# Where the device does not say how much is free.
_ELSEWHERE = 2**30
_AT_ONCE = 8192


@dataclass(frozen=True, eq=False)
class OnDevice(InMemory):
    """`InMemory` on a GPU, with what it was read from behind it."""

    def reordered(self, numbers: torch.Tensor) -> OnDevice:
        """The samples of these numbers, int64 (M,), in this order."""
        import torch

        first = leaves(self.inputs)[0][1]
        place = numbers.to(first.device)
        wanted = None if self.wanted is None else torch.index_select(self.wanted, 0, place)
        inputs = mapped(self.inputs, lambda each: torch.index_select(each, 0, place))
        return replace(self, inputs=inputs, wanted=wanted)


def on_device(samples: Samples, device: torch.device) -> Samples:
    """The same samples held on `device`, if it is no CPU, they are in memory already and fit; else as they are."""
    if device.type == "cpu" or not _in_memory(samples):
        return samples
    return held(samples, device) if _bytes(samples) <= _SHARE * _free(device) else samples


def held(samples: Samples, device: torch.device) -> OnDevice:
    """All of some samples that have targets, on a device."""
    import torch

    batches = [
        (
            mapped(batch.inputs, lambda each: each.to(device)),
            None if batch.targets is None else batch.targets.to(device),
        )
        for batch in samples.batches(_AT_ONCE)
    ]
    parts = [[each for _, each in leaves(inputs)] for inputs, _ in batches]
    columns = iter([torch.cat(column) for column in zip(*parts, strict=True)])
    wanted = [targets for _, targets in batches if targets is not None]
    return OnDevice(
        mapped(batches[0][0], lambda _: next(columns)),
        torch.cat(wanted) if wanted else None,
        targets=samples.targets,
        classes=samples.classes,
        name=samples.name,
        part=samples.part,
        notes=samples.notes,
    )


def _in_memory(samples: Samples) -> bool:
    while isinstance(samples, ChangedSamples):
        samples = samples.inner
    return isinstance(samples, RowSamples) and isinstance(samples.rows, Dataset | ArrayRows)


def _bytes(samples: Samples) -> float:
    first = next(iter(samples.batches(1)))
    each = sum(part.numel() * part.element_size() for _, part in leaves(first.inputs))
    return each * (samples.count or 0)


def _free(device: torch.device) -> int:
    import torch

    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else _ELSEWHERE
