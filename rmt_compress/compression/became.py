"""What becomes of one tensor by the steps of the layers in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rmt_compress.compression.weights import LayerOutcome, Step
from rmt_compress.layers.layer import Layer
from rmt_compress.layers.splitting import Factors

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Became:
    """What became of one tensor of a checkpoint.

    Attributes:
        layer: the tensor as one layer, whatever it packs.
        value: the tensor itself, another one of its shape, or two factors.
        changed: whether it is another than it was.
        outcomes: the record of every layer in it.
        corrections: name of a bias -> what it gains with that, in float64.
    """

    layer: Layer
    value: Factors | torch.Tensor
    changed: bool
    outcomes: tuple[LayerOutcome, ...]
    corrections: Mapping[str, torch.Tensor]


def become(tensor: torch.Tensor, steps: Sequence[Step]) -> Became:
    """What becomes of a tensor by the steps of the layers in it; one with NaN or Inf cannot be cut."""
    import torch

    layer, changed = steps[0].layer, any(step.changes for step in steps)
    pieces = [
        tensor if step.layer.part is None else tensor[step.layer.part.start : step.layer.part.stop]
        for step in steps
    ]
    results = [step.apply(piece) for step, piece in zip(steps, pieces, strict=True)]
    outcomes = tuple(step.outcome(result) for step, result in zip(steps, results, strict=True))
    corrections = _corrections(steps, pieces, results)
    if layer.part is None:
        return Became(layer, results[0], changed, outcomes, corrections)
    whole = replace(layer, tensor=layer.stored, shape=tuple(tensor.shape), part=None)
    # A part of a tensor is never split: what reads the tensor reads all of it at once.
    whole_parts = [result for result in results if not isinstance(result, Factors)]
    return Became(whole, torch.cat(whole_parts) if changed else tensor, changed, outcomes, corrections)


def _corrections(
    steps: Sequence[Step], weights: Sequence[torch.Tensor], results: Sequence[Factors | torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Name of a bias -> what it gains; parts of one tensor have a part of the bias each."""
    import torch

    if not (biases := {step.bias for step in steps if step.bias is not None}):
        return {}
    (bias,) = biases
    gains = [
        step.correction(weight, result) if step.bias is not None else None
        for step, weight, result in zip(steps, weights, results, strict=True)
    ]
    rows = [weight.shape[0] for weight in weights]
    filled = [
        torch.zeros(count, dtype=torch.float64, device=weights[0].device) if gain is None else gain
        for gain, count in zip(gains, rows, strict=True)
    ]
    return {bias: torch.cat(filled)}
