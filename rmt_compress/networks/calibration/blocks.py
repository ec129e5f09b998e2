"""Which layers are measured in one pass, so that the sums of each pass fit the memory there is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rmt_compress.networks.calibration.sums import SecondMoment
from rmt_compress.networks.calibration.watchers import LayerSums, Seen

if TYPE_CHECKING:
    import torch

    from rmt_compress.networks.calibration.sums import Shape


@dataclass(frozen=True)
class Group:
    """Layers that read the same tensor, and what is kept of them.

    Attributes:
        layers: the first leads.
        inputs: shape of the sum of the inputs.
        outputs: shapes of the sums of the gradients, one per layer.
    """

    layers: tuple[Seen, ...]
    inputs: Shape
    outputs: tuple[Shape, ...]

    @property
    def bytes(self) -> int:
        """What the sums take."""
        first = self.layers[0]
        inputs = SecondMoment.bytes(first.inputs, first.experts, self.inputs, mean=True)
        return inputs + sum(
            SecondMoment.bytes(seen.outputs, seen.experts, shape, mean=False)
            for seen, shape in zip(self.layers, self.outputs, strict=True)
        )

    def sums(self, device: torch.device | str) -> dict[str, LayerSums]:
        """Fresh sums, by the names of the layers."""
        first = self.layers[0]
        inputs = SecondMoment(first.inputs, first.experts, self.inputs, mean=True, device=device)
        return {
            seen.layer.tensor: LayerSums(
                first.layer.tensor,
                inputs,
                SecondMoment(seen.outputs, seen.experts, shape, mean=False, device=device),
            )
            for seen, shape in zip(self.layers, self.outputs, strict=True)
        }


def fitted(layers: Sequence[Seen], memory: int) -> Group:
    """The group of these layers, with as much as fits `memory` bytes.

    The matrix that takes most is given up first: C for its diagonal, G for the trace.
    """
    whole: list[Shape] = ["matrix"] * len(layers)
    group = Group(tuple(layers), "matrix", tuple(whole))
    while group.bytes > memory:
        widths = [
            seen.outputs if shape == "matrix" else 0 for seen, shape in zip(layers, group.outputs, strict=True)
        ]
        widest = max(range(len(widths)), key=widths.__getitem__)
        if group.inputs == "matrix" and layers[0].inputs >= widths[widest]:
            group = Group(group.layers, "diagonal", group.outputs)
        elif widths[widest]:
            outputs = [*group.outputs]
            outputs[widest] = "trace"
            group = Group(group.layers, group.inputs, tuple(outputs))
        else:
            break
    return group


def in_blocks(groups: Sequence[Group], memory: int) -> list[list[Group]]:
    """The groups in as few blocks as hold `memory` bytes each, in their order."""
    blocks: list[list[Group]] = []
    room = 0
    for group in groups:
        if not blocks or group.bytes > room:
            blocks.append([])
            room = memory
        blocks[-1].append(group)
        room -= group.bytes
    return blocks
