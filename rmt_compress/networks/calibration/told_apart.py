"""Whether a network tells the inputs apart that it has made itself.

Noise is nothing that it was trained on. Where it gives nearly all of it one answer, a cut can harm every other
answer without a sign of it: of a ResNet at a quarter of its weights all of 256 such answers were as before, and .47
of those about images.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rmt_compress.networks.calibration.fitted_images import logits_of
from rmt_compress.networks.calling import call as plainly
from rmt_compress.networks.calling import placed
from rmt_compress.networks.measurement import evaluation_mode, placement

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn

    from rmt_compress.networks.calibration.repeated_batches import Call

_MOST = 0.9
"""Share of inputs with one answer from which they are said to tell nothing of the others."""


def one_answer(model: nn.Module, call: Call, batches: Iterable[Any]) -> tuple[int, int] | None:
    """How many inputs get the most common answer, and how many there are; None where answers are no classes."""
    import torch

    found = []
    with evaluation_mode(model), torch.inference_mode():
        for inputs in batches:
            logits = logits_of(call(model, placed(inputs, *placement(model))))
            if logits is None:
                return None
            found.append(logits.argmax(1).cpu())
    answers = torch.cat(found)
    return int(answers.bincount().max()), len(answers)


def not_told_apart(model: nn.Module, batches: Iterable[Any]) -> str | None:
    """What is to be said where nearly all inputs get one answer; None where not, or where answers are no classes.

    Args:
        model: the network that has made them.
        batches: of the inputs.
    """
    counted = one_answer(model, plainly, batches)
    if counted is None or counted[0] < _MOST * counted[1]:
        return None
    return (
        f"the network gives {counted[0]} of the {counted[1]} inputs that it made one and the same answer, so that "
        "what a cut does to its other answers is not seen: add --data, or cut little"
    )
