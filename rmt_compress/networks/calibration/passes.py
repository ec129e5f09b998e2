"""Going over the calibration inputs, block of layers after block of layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from rmt_compress.decomposition.moments import LayerMoments
from rmt_compress.networks.calibration.batches import Padding
from rmt_compress.networks.calibration.blocks import fitted, in_blocks
from rmt_compress.networks.calibration.scalars import label_free, of_user
from rmt_compress.networks.calibration.watchers import Adder, LayerSums, seed_of
from rmt_compress.networks.calibration.watching import Watch

if TYPE_CHECKING:
    from rmt_compress.networks.calibration.applied import Weights
    from rmt_compress.networks.calibration.batches import Batches
    from rmt_compress.networks.calibration.scalars import Scalar, UserScalar
    from rmt_compress.networks.calibration.watchers import Seen
    from rmt_compress.progress import Progress


class Passes:
    """How inputs are gone over; see `calibrate`."""

    def __init__(
        self,
        data: Batches,
        weights: Weights,
        scalar: UserScalar | None,
        seed: int,
        positions: int | None,
        memory: int,
        device: torch.device,
        progress: Progress | None,
    ) -> None:
        self._data = data
        self._weights = weights
        self._scalar = scalar
        self._seed = seed
        self._positions = positions
        self._memory = memory
        self._device = device
        self._progress = progress

    def run(self, groups: list[list[Seen]]) -> tuple[dict[str, LayerMoments], dict[str, Any]]:
        """Moments by name, and what there is to record.

        Raises:
            NotShared: two layers of a group are not applied to the same.
        """
        blocks = in_blocks([fitted(group, self._memory) for group in groups], self._memory)
        measured: dict[str, LayerMoments] = {}
        record: dict[str, Any] = {"seed": self._seed, "positions": self._positions}
        for number, block in enumerate(blocks):
            sums: dict[str, LayerSums] = {}
            for group in block:
                sums |= group.sums(self._device)
            totals = self._once_over(sums, number, len(blocks))
            record |= totals
            measured |= finished(sums, totals["samples"])
            record.setdefault("uses", {}).update(_uses_of_experts(sums))
            record.setdefault("inputs_first", []).extend(
                seen.layer.tensor for group in block for seen in group.layers if seen.inputs_first
            )
            record.setdefault("diagonal", []).extend(
                seen.layer.tensor for group in block for seen in group.layers if group.inputs == "diagonal"
            )
        return measured, record

    def _once_over(self, sums: dict[str, LayerSums], block: int, blocks: int) -> dict[str, Any]:
        adder = Adder(sums, self._seed, self._positions)
        samples, batches, kind = 0, 0, None
        for number, inputs in enumerate(self._data.once_over()):
            adder.start(number, inputs)
            scalar = self._gradients(adder, inputs, number)
            adder.finish()
            if scalar is not None:
                samples, kind = samples + scalar.samples, scalar.kind
            batches += 1
            if self._progress is not None:
                count = self._data.count or batches
                self._progress(block * count + batches, blocks * count, f"batch {batches}")
        return {"batches": batches, "samples": samples, "gradient": kind}

    def _gradients(self, adder: Adder, inputs: Any, number: int) -> Scalar | None:
        generator = torch.Generator().manual_seed(seed_of(self._seed, "scalar", number))
        with torch.enable_grad():
            with Watch(self._weights, adder):
                outputs = self._data.ask(inputs)
            if self._scalar is not None:
                scalar = of_user(self._scalar, outputs, generator)
            else:
                scalar = label_free(outputs, generator, Padding(inputs).of_output())
            if scalar is not None:
                scalar.value.backward()  # type: ignore[no-untyped-call]
        return scalar


def finished(sums: dict[str, LayerSums], samples: int) -> dict[str, LayerMoments]:
    """The moments out of the sums, on the CPU; the sums are used up."""
    found: dict[str, LayerMoments] = {}
    inputs: dict[str, tuple[torch.Tensor, torch.Tensor, int]] = {}
    for name, own in sums.items():
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
        return (G / (samples * own.outputs.width)).mean().cpu()
    return G.div_(samples).cpu()


def _uses_of_experts(sums: dict[str, LayerSums]) -> dict[str, list[int]]:
    return {
        name: [round(count) for count in own.inputs.count.tolist()]
        for name, own in sums.items()
        if own.inputs.count.dim() == 1
    }
