"""Going over the calibration inputs, block of layers after block of layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

from rmt_compress.decomposition.moments import LayerMoments, Moments
from rmt_compress.networks.calibration.blocks import fitted, in_blocks
from rmt_compress.networks.calibration.repeated_batches import Padding
from rmt_compress.networks.calibration.scalars import label_free, of_user
from rmt_compress.networks.calibration.sums import SecondMoment
from rmt_compress.networks.calibration.watchers import Adder, LayerSums, seed_of, states

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rmt_compress.networks.calibration.blocks import Group
    from rmt_compress.networks.calibration.interrupted import Partial
    from rmt_compress.networks.calibration.runner import Runner
    from rmt_compress.networks.calibration.scalars import Scalar, UserScalar
    from rmt_compress.networks.calibration.shares import Shares
    from rmt_compress.networks.calibration.watchers import FeltElsewhere, Seen
    from rmt_compress.progress import Progress


class Inputs(Protocol):
    """Inputs of a network, as `Batches`."""

    @property
    def count(self) -> int | None:
        """How many batches there are, where that is known."""

    def once_over(self) -> Iterator[Any]:
        """All of them."""


@dataclass(frozen=True)
class Passes:
    """How inputs are gone over, see `calibrate`.

    `device` is where sums are kept, `shares` whose batch is whose, `elsewhere` is for `Adder`.
    """

    data: Inputs
    runner: Runner
    scalar: UserScalar | None
    seed: int
    positions: int | None
    weighted: bool
    memory: int
    device: torch.device
    shares: Shares
    progress: Progress | None
    elsewhere: FeltElsewhere | None = None

    def blocks(self, groups: list[list[Seen]]) -> list[list[Group]]:
        """Which layers are measured at a time."""
        widths = [width for group in groups for seen in group for width in (seen.inputs, seen.outputs)]
        room = self.memory - SecondMoment.beside(max(widths, default=0))
        return in_blocks([fitted(group, room) for group in groups], room)

    def run(self, blocks: list[list[Group]], partial: Partial | None) -> Moments:
        """Moments of the layers of all blocks.

        Raises:
            NotShared: two layers of a group are not applied to the same.
        """
        layers: dict[str, LayerMoments] = {}
        record: dict[str, Any] = {
            "seed": self.seed,
            "positions": self.positions,
            "weighted": self.weighted,
            "passes": len(blocks),
        }
        lists: dict[str, list[str]] = {"diagonal": [], "trace": []}
        uses: dict[str, list[int]] = {}
        for number, block in enumerate(blocks):
            known = None if partial is None else partial.block(number)
            if known is None:
                known = self._measure(block, number, len(blocks), partial)
                if partial is not None:
                    known = partial.finish(number, known)
            layers |= known.layers
            uses |= known.record["uses"]
            record |= {key: known.record[key] for key in ("batches", "samples", "gradient")}
            for group in block:
                for seen, shape in zip(group.layers, group.outputs, strict=True):
                    name = seen.layer.tensor
                    lists["diagonal"] += [name] * (group.inputs == "diagonal")
                    lists["trace"] += [name] * (shape == "trace")
        record |= {key: names for key, names in lists.items() if names}
        if uses:
            record["uses"] = uses
        return Moments(layers, {}, record)

    def _measure(self, block: list[Group], number: int, blocks: int, partial: Partial | None) -> Moments:
        sums: dict[str, LayerSums] = {}
        for group in block:
            sums |= group.sums(self.device)
        reached = (partial and partial.resume(number, sums)) or {"batches": 0, "samples": 0, "gradient": None}
        adder = Adder(sums, self.seed, self.positions, weighted=self.weighted, elsewhere=self.elsewhere)
        before = reached["batches"]
        with self.shares.together():
            for place, inputs in enumerate(self.data.once_over()):
                if place >= before and self.shares.has(place):
                    adder.start(place, inputs)
                    scalar = self._gradients(adder, inputs, place)
                    adder.finish()
                    reached["batches"] += 1
                    if scalar is not None:
                        reached |= {"samples": reached["samples"] + scalar.samples, "gradient": scalar.kind}
                    if partial is not None:
                        partial.keep(number, sums, reached)
                if self.progress is not None:
                    count = self.data.count or place + 1
                    self.progress(number * count + place + 1, blocks * count, f"batch {place + 1}")
        reached = self.shares.added_up(states(sums), reached)
        uses = {
            name: [round(count) for count in own.inputs.count.tolist()]
            for name, own in sums.items()
            if own.inputs.count.dim() == 1
        }
        return Moments(finished(sums, reached["samples"]), {}, {**reached, "uses": uses})

    def _gradients(self, adder: Adder, inputs: Any, place: int) -> Scalar | None:
        if not self.runner.gradients:
            with torch.no_grad():
                self.runner.run(inputs, adder)
            return None
        with torch.enable_grad():
            outputs = self.runner.run(inputs, adder)
            scalar = self._scalar(outputs, inputs, place)
            if scalar is not None:
                scalar.value.backward()
        return scalar

    def _scalar(self, outputs: Any, inputs: Any, place: int) -> Scalar | None:
        generator = torch.Generator().manual_seed(seed_of(self.seed, "scalar", place))
        if self.scalar is not None:
            return of_user(self.scalar, outputs, generator)
        return label_free(outputs, generator, Padding(inputs).of_output())


def finished(sums: dict[str, LayerSums], samples: int) -> dict[str, LayerMoments]:
    """The moments out of the sums, on the CPU, of layers that have run; the sums are used up."""
    found: dict[str, LayerMoments] = {}
    inputs: dict[str, tuple[torch.Tensor, torch.Tensor, int]] = {}
    for name, own in sums.items():
        if not bool(own.inputs.count.any()):
            continue
        if own.leader not in inputs:
            counted = own.inputs.count.clamp(min=1)
            total = own.inputs.total
            assert total is not None
            C = own.inputs.symmetric()
            C.div_(counted.reshape(counted.shape + (1,) * (C.dim() - counted.dim())))
            mean = total.div_(counted[..., None])
            inputs[own.leader] = C.cpu(), mean.cpu(), round(float(own.inputs.count.mean()))
        C, mean, count = inputs[own.leader]
        found[name] = LayerMoments(C, mean, _outputs(own, samples), count)
    return found


def _outputs(own: LayerSums, samples: int) -> torch.Tensor | None:
    if not samples or not bool(own.outputs.count.any()):
        return None
    G = own.outputs.symmetric()
    if own.outputs.shape == "trace":
        return (G / (samples * own.outputs.width)).cpu()
    return G.div_(samples).cpu()
