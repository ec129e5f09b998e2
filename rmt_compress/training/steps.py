"""One pass over the training samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from rmt_compress.data.batches import length
from rmt_compress.errors import TrainingError
from rmt_compress.networks.calling import call, main_output, placed, sizes
from rmt_compress.networks.measurement import placement
from rmt_compress.networks.tasks.language import MaskedLanguage
from rmt_compress.training.augmentation import flip_and_shift
from rmt_compress.training.feeding import Feed
from rmt_compress.wording import one_line

if TYPE_CHECKING:
    from torch import nn

    from rmt_compress.data import Batch
    from rmt_compress.networks.tasks.task import Task
    from rmt_compress.training.held_masks import HeldMasks
    from rmt_compress.training.reallocation import FreeEntries
    from rmt_compress.training.recent_inputs import RecentInputs
    from rmt_compress.training.settings import TrainingSettings
    from rmt_compress.training.workers import Workers

StepProgress = Callable[[int, int | None], None]

# Steps between two looks at the loss on a GPU.
_ASKED_EVERY = 100


@dataclass(frozen=True, eq=False)
class Course:
    """What all epochs have in common.

    Attributes:
        task: the training samples, and what the network is asked of them.
        settings: how it is trained.
        workers: the processes.
    """

    task: Task
    settings: TrainingSettings
    workers: Workers

    def epoch(self, number: int) -> tuple[Task, Feed]:
        """What an epoch asks, and its steps."""
        task, settings = self.task, self.settings
        samples = task.samples
        assert samples is not None
        text = samples.targets == "tokens"
        if isinstance(task, MaskedLanguage):
            task = replace(task, seed=_mix(settings.seed, number))
        return task, Feed(samples, settings.at_once(text=text), _mix(settings.seed, number), self.workers)


def train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    course: Course,
    epoch: int,
    *,
    held: HeldMasks | FreeEntries | None = None,
    recent: RecentInputs | None = None,
    most: int | None = None,
    progress: StepProgress | None = None,
) -> float:
    """Train `model` on every sample of a course once.

    Order, augmentation, dropout and which tokens are masked depend on the seed, the epoch and the process alone;
    see `Feed`.

    Args:
        model: as `Workers.prepare` gave it.
        optimizer: likewise.
        course: what is trained on, and how.
        epoch: from 1.
        held: weights that stay zero, or all that stays as it is.
        recent: is handed the inputs of every step of this process.
        most: steps after which it ends; None for every sample.
        progress: called with (steps done, steps in all, or None where that is not known).

    Returns:
        the mean loss per sample over the epoch, the terms in |w| and w² left out.

    Raises:
        TrainingError: the loss or a weight is no finite number any more, the network does not take the samples, or
            they are too few for one step.
        EvaluationError: its outputs are not what the task is about.
        DataError: the data end in something that is none.
    """
    settings, workers = course.settings, course.workers
    torch.manual_seed(_mix(settings.seed, epoch, workers.rank))
    augmentation = torch.Generator().manual_seed(_mix(settings.seed, epoch, workers.rank))
    task, feed = course.epoch(epoch)
    rate = settings.rate(epoch)
    for group in optimizer.param_groups:
        group["lr"] = rate
    model.train()
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad and parameter.dim() > 1]
    total = torch.zeros((), dtype=torch.float64 if workers.device.type != "mps" else torch.float32)
    total = total.to(workers.device)
    seen = 0
    dtype = placement(model)[1]
    for done, (own, count) in enumerate(feed, start=1):
        mine, batch = length(own), own
        if settings.augment == "flip-shift":
            batch = own._replace(inputs=flip_and_shift(own.inputs, augmentation))
        inputs = task.inputs(batch)
        if recent is not None:
            recent.add(inputs)
        loss = _loss(model, task, batch, placed(inputs, workers.device, dtype), course)
        total += loss.detach() * mine
        seen += count
        # A GPU that is asked has to finish first all that it was given: there the sum tells, now and then.
        asked_now = workers.device.type == "cpu" or done % _ASKED_EVERY == 0
        if workers.count == 1 and asked_now and not math.isfinite(total.item()):
            raise _no_number(epoch, rate)
        optimizer.zero_grad()
        # Parts of unequal size: gradients are averaged over processes, and are to be those of the whole batch.
        workers.backward(loss * (mine * workers.count / count))
        if settings.l1 or settings.l2:
            workers.unscale(optimizer)
            _add_terms(weights, settings)
        optimizer.step()
        if held is not None:
            held.enforce()
        if progress is not None:
            progress(done, feed.steps)
        if done == most:
            break
    if not seen:
        assert task.samples is not None
        raise TrainingError(
            f"{task.samples.name}: its training samples are too few for one step of {workers.count * 2} at least; "
            "take more, or a larger --batch-size"
        )
    mean = workers.total(total) / seen
    if not math.isfinite(mean) or not all(bool(weight.isfinite().all()) for weight in model.parameters()):
        raise _no_number(epoch, rate)
    return mean


def first_inputs(course: Course, epoch: int, recent: RecentInputs) -> None:
    """Hand on the inputs of the first steps of an epoch that is to come, as many as are kept.

    They are those of this process, as `train_epoch` reads them but for augmentation.
    """
    task, feed = course.epoch(epoch)
    for step in feed:
        recent.add(task.inputs(step.mine))
        if recent.full:
            return


def _loss(model: nn.Module, task: Task, batch: Batch, inputs: Any, course: Course) -> torch.Tensor:
    try:
        outputs = course.workers.computed(lambda: call(model, inputs))
        if course.settings.loss == "mse" and task.kind == "classification":
            return _against_one_hot(outputs, batch)
        return task.loss(outputs, batch)
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError, KeyError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise TrainingError("not enough memory on the device: take a smaller --batch-size") from error
        assert task.samples is not None
        raise TrainingError(
            f"the network cannot be trained on {task.samples.name} (samples of {sizes(inputs)}): "
            f"{one_line(error)}; take a data set or an --arch that suits"
        ) from error


def _add_terms(weights: Sequence[nn.Parameter], settings: TrainingSettings) -> None:
    """Add the gradients of μ₁·Σ|w| and μ₂·Σw², μ₁·sign(w) and 2μ₂·w.

    Autograd would go through all weights three times as often for them.
    """
    for weight in weights:
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    values = [weight.detach() for weight in weights]
    if settings.l1:
        torch._foreach_add_(gradients, torch._foreach_sign(values), alpha=settings.l1)
    if settings.l2:
        torch._foreach_add_(gradients, values, alpha=2 * settings.l2)


def _against_one_hot(outputs: Any, batch: Batch) -> torch.Tensor:
    answer = main_output(outputs)
    assert answer is not None
    assert batch.targets is not None
    wanted = functional.one_hot(batch.targets.to(answer.device), answer.shape[1])
    return functional.mse_loss(answer, wanted.to(answer.dtype))


def _no_number(epoch: int, rate: float) -> TrainingError:
    return TrainingError(
        f"the loss is no finite number any more in epoch {epoch}, at learning rate {rate:g}; the state of the "
        "epoch before is kept: go on from there with a smaller --learning-rate and --resume"
    )


def _mix(seed: int, epoch: int, rank: int = 0) -> int:
    """One seed from three numbers; what two runs draw has nothing to do with each other."""
    return (seed * 1_000_003 + epoch * 7_919 + rank * 104_729) % 2**63
