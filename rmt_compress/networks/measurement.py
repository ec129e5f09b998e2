"""Running a network without changing it: multiply-adds by hooks, milliseconds by the clock."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rmt_compress.networks.calling import call, placed, without_cache

if TYPE_CHECKING:
    import torch
    from torch import nn

    from rmt_compress.networks.tasks.task import Task

LATENCY_BATCHES = (1, 128)
TEXT_BATCHES = (1, 8)
"""Of windows of text, each of which holds hundreds of tokens."""
LATENCY_SECONDS = 0.7
"""Time spent per model and batch size; at least `_LEAST_RUNS` runs whatever they take."""
_LEAST_RUNS, _MOST_RUNS, _WARM_UP = 5, 300, 3


def count_macs(model: nn.Module, inputs: Any) -> int:
    """Multiply-adds of all Linear and convolution layers in one forward pass of the whole batch `inputs`.

    Products outside such layers (attention scores, recurrent cells) are not counted. Both must be on one device.
    """
    import torch
    from torch import nn
    from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

    from rmt_compress.checkpoints.graph_network import GraphNetwork

    if isinstance(model, GraphNetwork):
        return model.multiply_adds(inputs)
    total = 0

    def hook(module: nn.Module, arguments: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Linear):
            total += output.numel() * module.in_features
        elif type(module).__name__ == "Conv1D":
            # transformers' Linear with its weight stored (in, out)
            total += output.numel() * len(module.get_parameter("weight"))
        elif isinstance(module, _ConvTransposeNd):
            total += arguments[0].numel() * module.weight[0].numel()
        elif isinstance(module, _ConvNd):
            total += output.numel() * module.weight[0].numel()

    handles = [
        module.register_forward_hook(hook)
        for module in model.modules()
        if isinstance(module, nn.Linear | _ConvNd) or type(module).__name__ == "Conv1D"
    ]
    try:
        with evaluation_mode(model), without_cache(model), torch.inference_mode():
            call(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return total


def measure_latency(models: Sequence[nn.Module], task: Task) -> list[dict[str, float]]:
    """Median milliseconds of one forward pass per model and batch size, the models' runs alternating."""
    import torch

    result: list[dict[str, float]] = [{} for _ in models]
    text = task.samples is not None and task.samples.targets == "tokens"
    with torch.inference_mode():
        for size in TEXT_BATCHES if text else LATENCY_BATCHES:
            batches = [example_inputs(model, task, size) for model in models]
            times: list[list[float]] = [[] for _ in models]
            deadline = time.perf_counter() + LATENCY_SECONDS * len(models)
            for run in range(-_WARM_UP, _MOST_RUNS):
                if run >= _LEAST_RUNS and time.perf_counter() > deadline:
                    break
                # Now one first, now the other.
                for index in range(len(models))[:: 1 if run % 2 else -1]:
                    seconds = _time_one(models[index], batches[index])
                    if run >= 0:
                        times[index].append(seconds)
            for index, seconds_of_runs in enumerate(times):
                result[index][str(size)] = 1000 * statistics.median(seconds_of_runs)
    return result


def _time_one(model: nn.Module, inputs: Any) -> float:
    import torch

    wait: Callable[[], object] = getattr(torch, placement(model)[0].type).synchronize
    with evaluation_mode(model), without_cache(model):
        wait()
        start = time.perf_counter()
        call(model, inputs)
        wait()
        return time.perf_counter() - start


def example_inputs(model: nn.Module, task: Task, count: int) -> Any:
    """`count` samples as the network is called with them, where it is: the first, over again if there are fewer."""
    samples = task.samples
    assert samples is not None
    batch = next(iter(samples.batches(count)))
    device, dtype = placement(model)
    return placed(_repeated(task.inputs(batch), count), device, dtype)


def _repeated(inputs: Any, count: int) -> Any:
    """`count` samples from those that there are, in their order and over again."""
    import torch

    if isinstance(inputs, Mapping):
        return {key: _repeated(value, count) for key, value in inputs.items()}
    if isinstance(inputs, tuple | list):
        return tuple(_repeated(value, count) for value in inputs)
    return inputs if len(inputs) == count else inputs[torch.arange(count) % len(inputs)]


def placement(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Device and float type of a model's first parameter; CPU and float32 where it has none."""
    import torch

    for parameter in model.parameters():
        if parameter.is_floating_point():
            return parameter.device, parameter.dtype
    return torch.device("cpu"), torch.float32


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """`model` in evaluation mode; every submodule's mode is put back afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
