"""Asking a network every sample of a task, with one clear error where it cannot answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rmt_compress.errors import EvaluationError
from rmt_compress.networks.calling import call, first_axis, main_output, placed, sizes, tensors_in, without_cache
from rmt_compress.wording import listed, one_line

if TYPE_CHECKING:
    import torch
    from torch import nn

    from rmt_compress.data.samples import Batch, Samples
    from rmt_compress.networks.tasks.task import Task


# On a GPU, where a batch of a few small images keeps it waiting.
_MOST_AT_ONCE, _BYTES_AT_ONCE = 4096, 2**24


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
        for batch in samples.batches(batch_size or _at_once(task, device)):
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


def _at_once(task: Task, device: torch.device) -> int:
    """Samples at once: more than suit a CPU where there is a GPU to fill, as long as their inputs are small."""
    if device.type == "cpu" or task.kind not in ("classification", "regression"):
        return task.batch_size
    assert task.samples is not None
    first = next(iter(task.samples.batches(1)), None)
    if first is None:
        return task.batch_size
    bytes_each = sum(each.numel() * each.element_size() for each in tensors_in(task.inputs(first)))
    return max(task.batch_size, min(_MOST_AT_ONCE, _BYTES_AT_ONCE // max(1, bytes_each)))


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
