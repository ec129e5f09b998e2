"""Asking a network every sample of a task, with one clear error where it cannot answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rmt_compress.errors import EvaluationError
from rmt_compress.networks.calling import call, first_axis, main_output, placed, sizes, without_cache
from rmt_compress.wording import listed, one_line

if TYPE_CHECKING:
    import torch
    from torch import nn

    from rmt_compress.data.samples import Batch, Samples
    from rmt_compress.networks.tasks.task import Task


def answers(
    model: nn.Module,
    task: Task,
    batch_size: int | None,
    progress: Callable[[int], None] | None,
    name: str,
) -> Iterator[tuple[Batch, torch.Tensor]]:
    """Every batch of a task's samples and the network's answer to it, in evaluation mode and without gradients.

    The batch's targets are where the model is. Raises what `Task.score` raises.
    """
    import torch

    from rmt_compress.data.samples import Batch
    from rmt_compress.networks.measurement import evaluation_mode, placement

    samples = task.samples
    assert samples is not None
    device, dtype = placement(model)
    done = 0
    with evaluation_mode(model), without_cache(model):
        for batch in samples.batches(batch_size or task.batch_size):
            with torch.inference_mode():
                inputs = placed(task.inputs(batch), device, dtype)
                answer = asked(model, inputs, samples, name)
            targets = batch.targets if batch.targets is None else batch.targets.to(device)
            yield Batch(batch.inputs, targets), answer
            done += first_axis(batch.inputs)
            if progress is not None:
                progress(done)
    if not done:
        raise EvaluationError(f"{samples.name}: holds no samples to ask {name}")


def asked(model: nn.Module, inputs: Any, samples: Samples, name: str) -> torch.Tensor:
    """The answer to one batch, or the error that says why there is none."""
    count = first_axis(inputs)
    try:
        outputs = call(model, inputs)
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError, KeyError) as error:
        hint = _advice(inputs, samples)
        raise EvaluationError(
            f"{name} cannot take inputs of {sizes(inputs)} from {samples.name}, {count} at once: "
            f"{one_line(error)}{hint}"
        ) from error
    answer = main_output(outputs)
    if answer is None:
        raise EvaluationError(f"{name} returns a {type(outputs).__name__} without a tensor in it")
    if answer.is_floating_point() and answer.isnan().any():
        bad = int(answer.isnan().flatten(1).any(1).sum()) if answer.ndim > 1 else int(answer.isnan().sum())
        raise EvaluationError(
            f"{name} returns NaN for {bad} of {count} inputs of {samples.name}; look at its weights with "
            "rmt-compress analyze"
        )
    return answer


def _advice(inputs: Any, samples: Samples) -> str:
    """What to do about inputs that are of another kind than the network's."""
    if samples.targets == "tokens":
        return "; text is for networks that take tokens: give the --data it was trained on"
    if isinstance(inputs, Mapping):
        names = listed(list(inputs))
        return f"; inputs are given by name here, {names}: call them as its forward does, or a single one x"
    whole = not isinstance(inputs, tuple | list) and not inputs.is_floating_point()
    return "" if whole else "; give --data of the kind it was trained on"
