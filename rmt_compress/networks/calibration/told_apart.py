"""Whether a network tells the inputs apart that it has made itself.

Noise is nothing that it was trained on. Where it gives nearly all of it one answer, a cut can harm every other
answer without a sign of it: of a ResNet at a quarter of its weights all of 256 such answers were as before, and .47
of those about images.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rmt_compress.networks.calibration.scalars import are_logits
from rmt_compress.networks.calling import call as plainly
from rmt_compress.networks.calling import main_output, placed
from rmt_compress.networks.measurement import evaluation_mode, placement

if TYPE_CHECKING:
    from torch import nn

    from rmt_compress.networks.calibration.made_up import MadeUp

_MOST = 0.9
"""Share of inputs with one answer from which they are said to tell nothing of the others."""


def not_told_apart(model: nn.Module, made: MadeUp) -> str | None:
    """What is to be said where nearly all inputs get one answer; None where not, or where answers are no classes.

    Args:
        model: the network that has made them.
        made: the inputs.
    """
    import torch

    if "shape" not in made.record:
        return None
    found = []
    with evaluation_mode(model), torch.inference_mode():
        for inputs in made.batches:
            answer = main_output(plainly(model, placed(inputs, *placement(model))))
            if answer is None or answer.dim() != 2 or not are_logits(answer):
                return None
            found.append(answer.argmax(1).cpu())
    answers = torch.cat(found)
    most = int(answers.bincount().max())
    if most < _MOST * len(answers):
        return None
    return (
        f"the network gives {most} of the {len(answers)} inputs that it made one and the same answer, so that what "
        "a cut does to its other answers is not seen: add --data, or cut little"
    )
