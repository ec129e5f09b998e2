"""Inputs on which a network's batch norms see the statistics that they have from training.

Known from DeepInversion (Yin et al. 2020) and ZeroQ (Cai et al. 2020); the weights are those of method.md §14.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from rmt_compress.networks.calibration.statistics import batch_norms
from rmt_compress.networks.calling import main_output
from rmt_compress.progress import counter

if TYPE_CHECKING:
    from torch import nn
    from torch.nn.modules.batchnorm import _BatchNorm

    from rmt_compress.networks.calibration.repeated_batches import Call
    from rmt_compress.progress import Progress

STEPS = 130
RATE = 0.08
CLASSES = 0.3
"""Weight of the cross-entropy to classes that are all asked for alike often."""
VARIATION = 0.02
"""Weight of the mean difference between neighbours."""


def fit_inputs(
    model: nn.Module,
    call: Call,
    shape: Sequence[int],
    *,
    count: int,
    generator: torch.Generator,
    steps: int = STEPS,
    progress: Progress | None = None,
) -> torch.Tensor:
    """Inputs (count, *shape), fitted by Adam from standard normal ones, where the network is.

    What is minimised is, over all batch norms, the squared difference of means in units of the running deviation
    and the squared log ratio of variances, means over channels; and, of what ends in logits, some cross-entropy to
    balanced classes; and, of images, some total variation.

    Args:
        model: in evaluation mode, its weights frozen.
        call: how it is asked.
        shape: of one input.
        count: how many, all at once, since their statistics are those that are fitted.
        generator: on the CPU.
        steps: of Adam.
        progress: told of every step.
    """
    first = next(model.parameters())
    inputs = torch.randn(count, *shape, generator=generator).to(first.device, first.dtype).requires_grad_()
    optimizer = torch.optim.Adam([inputs], lr=RATE)
    advance = counter(steps, progress)
    for step in range(steps):
        loss, outputs = _mismatch(model, call, inputs)
        logits = main_output(outputs)
        if logits is not None and logits.dim() == 2 and logits.shape[1] > 1:
            classes = torch.arange(count, device=logits.device) % logits.shape[1]
            loss = loss + CLASSES * functional.cross_entropy(logits, classes)
        for axis in range(2, inputs.dim()):
            loss = loss + VARIATION * inputs.diff(dim=axis).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        advance(f"step {step + 1}")
    return inputs.detach()


def _mismatch(model: nn.Module, call: Call, inputs: torch.Tensor) -> tuple[torch.Tensor, object]:
    """How far the norms' inputs are from their running statistics, and the network's outputs."""
    losses: list[torch.Tensor] = []

    def compare(norm: _BatchNorm, arguments: tuple[torch.Tensor, ...]) -> None:
        values = arguments[0].transpose(0, 1).flatten(1)
        mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
        floor = norm.eps
        shift = (values.mean(1) - mean).square() / (variance + floor)
        stretch = ((values.var(1, correction=0) + floor) / (variance + floor)).log().square()
        losses.append(shift.mean() + stretch.mean())

    handles = [norm.register_forward_pre_hook(compare) for norm in batch_norms(model).values()]
    try:
        outputs = call(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(losses).sum(), outputs
