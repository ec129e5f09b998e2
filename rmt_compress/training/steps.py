"""One pass over the training samples."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from rmt_compress.errors import TrainingError
from rmt_compress.training.augmentation import flip_and_shift
from rmt_compress.wording import one_line, times

if TYPE_CHECKING:
    from torch import nn

    from rmt_compress.data import Dataset
    from rmt_compress.training.held_masks import HeldMasks
    from rmt_compress.training.settings import TrainingSettings
    from rmt_compress.training.workers import Workers

StepProgress = Callable[[int, int], None]


def train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: Dataset,
    settings: TrainingSettings,
    workers: Workers,
    epoch: int,
    *,
    held: HeldMasks | None = None,
    progress: StepProgress | None = None,
) -> float:
    """Train `model` on every sample once.

    Order, augmentation and dropout depend on the seed, the epoch and the process alone. A last batch of fewer than
    two samples per process is left out: batch norm has no variance of one sample.

    Args:
        model: as `Workers.prepare` gave it.
        optimizer: likewise.
        data: the training samples.
        settings: how.
        workers: the processes.
        epoch: from 1.
        held: weights that stay zero.
        progress: called with (steps done, steps in all).

    Returns:
        the mean loss per sample over the epoch, the terms in |w| and w² left out.

    Raises:
        TrainingError: the loss or a weight is no finite number any more, or the network does not take the samples.
    """
    torch.manual_seed(_mix(settings.seed, epoch, workers.rank))
    augmentation = torch.Generator().manual_seed(_mix(settings.seed, epoch, workers.rank))
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(_mix(settings.seed, epoch)))
    batches = [batch for batch in torch.split(order, settings.batch_size) if len(batch) >= 2 * workers.count]
    rate = settings.rate(epoch)
    for group in optimizer.param_groups:
        group["lr"] = rate
    model.train()
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad and parameter.dim() > 1]
    total = torch.zeros((), dtype=torch.float64 if workers.device.type != "mps" else torch.float32)
    total = total.to(workers.device)
    seen = 0
    for done, batch in enumerate(batches, start=1):
        mine = workers.share(batch)
        images = data.images[mine]
        if settings.augment == "flip-shift":
            images = flip_and_shift(images, augmentation)
        loss = _loss(model, images.to(workers.device), data.labels[mine].to(workers.device), data, settings)
        total += loss.detach() * len(mine)
        seen += len(batch)
        if workers.count == 1 and not math.isfinite(loss.item()):
            raise _no_number(epoch, rate)
        # Parts of unequal size: gradients are averaged over processes, and are to be those of the whole batch.
        objective = loss * (len(mine) * workers.count / len(batch))
        if settings.l1:
            objective = objective + settings.l1 * sum(weight.abs().sum() for weight in weights)
        if settings.l2:
            objective = objective + settings.l2 * sum(weight.square().sum() for weight in weights)
        optimizer.zero_grad()
        workers.backward(objective)
        optimizer.step()
        if held is not None:
            held.enforce()
        if progress is not None:
            progress(done, len(batches))
    mean = workers.total(total) / seen
    if not math.isfinite(mean) or not all(bool(weight.isfinite().all()) for weight in model.parameters()):
        raise _no_number(epoch, rate)
    return mean


def _loss(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, data: Dataset, settings: TrainingSettings
) -> torch.Tensor:
    try:
        outputs = model(images)
        if settings.loss == "mse":
            return functional.mse_loss(outputs, functional.one_hot(labels, outputs.shape[1]).to(outputs.dtype))
        return functional.cross_entropy(outputs, labels)
    except (RuntimeError, ValueError, IndexError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise TrainingError("not enough memory on the device: take a smaller --batch-size") from error
        shape = times(images.shape[1:], scalar="")
        raise TrainingError(
            f"the network cannot be trained on {data.name} (samples of {shape}): {one_line(error)}; take a data "
            "set or an --arch that suits"
        ) from error


def _no_number(epoch: int, rate: float) -> TrainingError:
    return TrainingError(
        f"the loss is no finite number any more in epoch {epoch}, at learning rate {rate:g}; the state of the "
        "epoch before is kept: go on from there with a smaller --learning-rate and --resume"
    )


def _mix(seed: int, epoch: int, rank: int = 0) -> int:
    """One seed from three numbers; what two runs draw has nothing to do with each other."""
    return (seed * 1_000_003 + epoch * 7_919 + rank * 104_729) % 2**63
