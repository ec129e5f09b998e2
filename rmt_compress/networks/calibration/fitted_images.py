"""Inputs that are fitted to a network: to the statistics of its batch norms, or else to its classes.

Known from DeepInversion (Yin et al. 2020) and ZeroQ (Cai et al. 2020); the weights of the first are those of
method.md §14. Without norms what is left of it is to ask for every class alike often: noise is given one class by
some networks, and a cut that harms all others then shows nothing (experiments/data/self_calibration.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from rmt_compress.networks.calling import main_output
from rmt_compress.networks.measurement import count_macs, placement
from rmt_compress.progress import counter

if TYPE_CHECKING:
    from torch import nn

    from rmt_compress.networks.calibration.repeated_batches import Call
    from rmt_compress.progress import Progress

STEPS = 130
RATE = 0.08
CLASSES = 0.3
"""Weight of the cross-entropy to classes that are all asked for alike often."""
VARIATION = 0.02
"""Weight of the mean difference between neighbours."""
CLASS_STEPS = 100
CLASS_VARIATION = 0.3
"""That weight beside the cross-entropy alone."""
MOST_WORK = 2e13
"""Multiply-adds up to which inputs are fitted to classes: 3 minutes of one core at a ResNet's 116·10⁹ a second, 27
minutes at the 12·10⁹ of a small transformer."""


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
    inputs = torch.randn(count, *shape, generator=generator).to(first.device, first.dtype)

    def loss_of(inputs: torch.Tensor) -> torch.Tensor:
        mismatch, outputs = _mismatch(model, call, inputs)
        logits = logits_of(outputs)
        loss = mismatch if logits is None else mismatch + CLASSES * _spread_over_classes(logits)
        return loss + VARIATION * _variation(inputs)

    return _descended(inputs, loss_of, steps, progress)


def fit_to_classes(
    model: nn.Module, call: Call, noise: torch.Tensor, *, steps: int = CLASS_STEPS, progress: Progress | None = None
) -> torch.Tensor | None:
    """Noise (count, *shape) that is fitted until a network gives every class alike often.

    None where its outputs are no logits, where no gradient comes back to its inputs, or where it would take more
    than `MOST_WORK`.

    Args:
        model: in evaluation mode, its weights frozen.
        call: how it is asked, with gradients.
        noise: where Adam starts.
        steps: of it.
        progress: told of every step.
    """
    inputs = noise.to(*placement(model))
    with torch.enable_grad():
        logits = logits_of(call(model, inputs[:2].clone().requires_grad_()))
    if logits is None or not logits.requires_grad:
        return None
    # Of every step a pass there is one forward, and of two products each one back.
    if 3 * steps * len(inputs) * count_macs(model, inputs[:1]) > MOST_WORK:
        return None

    def loss_of(inputs: torch.Tensor) -> torch.Tensor:
        logits = logits_of(call(model, inputs))
        assert logits is not None
        return _spread_over_classes(logits) + CLASS_VARIATION * _variation(inputs)

    return _descended(inputs, loss_of, steps, progress)


def _descended(
    inputs: torch.Tensor,
    loss_of: Callable[[torch.Tensor], torch.Tensor],
    steps: int,
    progress: Progress | None,
) -> torch.Tensor:
    """Inputs with less of a loss, by so many steps of Adam."""
    inputs = inputs.clone().requires_grad_()
    optimizer = torch.optim.Adam([inputs], lr=RATE)
    advance = counter(steps, progress)
    for step in range(steps):
        loss = loss_of(inputs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        advance(f"step {step + 1}")
    return inputs.detach()


def logits_of(outputs: object) -> torch.Tensor | None:
    """What a network that names one class for each input returns, (N, classes); None of others."""
    logits = main_output(outputs)
    return logits if logits is not None and logits.dim() == 2 and logits.shape[1] > 1 else None


def _spread_over_classes(logits: torch.Tensor) -> torch.Tensor:
    classes = torch.arange(len(logits), device=logits.device) % logits.shape[1]
    return functional.cross_entropy(logits, classes)


def _variation(inputs: torch.Tensor) -> torch.Tensor:
    """The mean difference between neighbours, summed over the axes of space or time."""
    axes = range(2, inputs.dim())
    return sum((inputs.diff(dim=axis).abs().mean() for axis in axes), torch.zeros((), device=inputs.device))


def _mismatch(model: nn.Module, call: Call, inputs: torch.Tensor) -> tuple[torch.Tensor, object]:
    """How far the norms' inputs are from their running statistics, and the network's outputs."""
    with Norms() as norms:
        outputs = call(model, inputs)
    return torch.stack(norms.losses).sum(), outputs


class Norms(TorchFunctionMode):
    """Sees batch norms, as functions: modules call them, and graphs of torch.export hold them.

    Attributes:
        losses: how far what went into each of them was from its running statistics.
    """

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[torch.Tensor] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run `func`, and note what goes into a norm."""
        if (names := _PARAMETERS.get(func)) is not None:
            given = dict(zip(names, args, strict=False)) | dict(kwargs or {})
            if given.get("running_mean") is not None and not given.get("training", False):
                self.losses.append(_off(given["input"], given["running_mean"], given["running_var"], given["eps"]))
        return func(*args, **(kwargs or {}))


_OF_OPERATOR = ("input", "weight", "bias", "running_mean", "running_var")
_PARAMETERS: dict[Any, tuple[str, ...]] = {
    functional.batch_norm: (
        "input",
        "running_mean",
        "running_var",
        "weight",
        "bias",
        "training",
        "momentum",
        "eps",
    ),
    torch.batch_norm: (*_OF_OPERATOR, "training", "momentum", "eps"),
    torch.ops.aten.batch_norm.default: (*_OF_OPERATOR, "training", "momentum", "eps"),
    torch.ops.aten._native_batch_norm_legit_no_training.default: (*_OF_OPERATOR, "momentum", "eps"),
}


def _off(inputs: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor, eps: float) -> torch.Tensor:
    values = inputs.transpose(0, 1).flatten(1)
    shift = (values.mean(1) - mean).square() / (variance + eps)
    stretch = ((values.var(1, correction=0) + eps) / (variance + eps)).log().square()
    return shift.mean() + stretch.mean()
