"""Training what may change of one block until what comes out of it is what came out of the original."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import nn

Errors = Callable[[int], tuple["torch.Tensor", "torch.Tensor"]]
"""Of a piece of the inputs: squared error of what comes out, and squared size of what should."""
_WARM_UP = 0.15
"""Share of the steps in which the learning rate rises."""


@dataclass(frozen=True)
class Trained:
    """How training went.

    Attributes:
        before: relative error on the held-out pieces as the block came.
        after: as it is left.
        kept: whether anything has changed: else no state was better than the one it came in.
    """

    before: float
    after: float
    kept: bool


def train_block(
    parameters: Sequence[nn.Parameter],
    errors: Errors,
    training: Sequence[int],
    held: Sequence[int],
    *,
    passes: int,
    rate: float,
    seed: int,
) -> Trained:
    """Train parameters in place by Adam with one cycle of the learning rate (Smith 2018), and keep the best state.

    Args:
        parameters: what may change.
        errors: of a piece, with gradients where they are asked for.
        training: numbers of the pieces to train on, one step each.
        held: of those that judge, after every pass.
        passes: how often all are gone over.
        rate: the highest learning rate.
        seed: of the order of the steps.
    """
    before = best = relative_error(errors, held)
    kept = False
    state = [parameter.detach().clone() for parameter in parameters]
    gradients = [parameter.grad for parameter in parameters]
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(parameters, lr=rate)
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=passes * len(training), pct_start=_WARM_UP, cycle_momentum=False
    )
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
        for _ in range(passes):
            for index in torch.randperm(len(training), generator=generator).tolist():
                error, size = errors(training[index])
                _step(optimizer, parameters, error / size.clamp(min=torch.finfo(size.dtype).tiny))
                cycle.step()
            now = relative_error(errors, held)
            if now < best:
                best, kept = now, True
                state = [parameter.detach().clone() for parameter in parameters]
            elif not now < torch.inf:
                break
    finally:
        with torch.no_grad():
            for parameter, values, gradient in zip(parameters, state, gradients, strict=True):
                parameter.requires_grad_(False)
                parameter.copy_(values)
                parameter.grad = gradient
    return Trained(before, best, kept)


def _step(optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], loss: torch.Tensor) -> None:
    found = torch.autograd.grad(loss, list(parameters), allow_unused=True)
    for parameter, gradient in zip(parameters, found, strict=True):
        parameter.grad = gradient
    optimizer.step()


def relative_error(errors: Errors, pieces: Sequence[int]) -> float:
    """‖what comes out − what should‖ / ‖what should‖ over all of these pieces."""
    error = size = 0.0
    with torch.no_grad():
        for piece in pieces:
            parts = errors(piece)
            error, size = error + float(parts[0]), size + float(parts[1])
    return (error / size) ** 0.5 if size else (0.0 if error == 0 else torch.inf)
