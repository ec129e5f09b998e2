"""Running a network without changing it: multiply-adds by hooks, milliseconds by the clock."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn

    from rmt_compress.data import Dataset

LATENCY_BATCHES = (1, 128)
LATENCY_SECONDS = 0.7
"""Time spent per model and batch size; at least `_LEAST_RUNS` runs whatever they take."""
_LEAST_RUNS, _MOST_RUNS, _WARM_UP = 5, 300, 3


def count_macs(model: nn.Module, inputs: torch.Tensor) -> int:
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
        elif isinstance(module, _ConvTransposeNd):
            total += arguments[0].numel() * module.weight[0].numel()
        elif isinstance(module, _ConvNd):
            total += output.numel() * module.weight[0].numel()

    handles = [
        module.register_forward_hook(hook) for module in model.modules() if isinstance(module, nn.Linear | _ConvNd)
    ]
    try:
        with evaluation_mode(model), torch.inference_mode():
            model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return total


def measure_latency(models: Sequence[nn.Module], dataset: Dataset) -> list[dict[str, float]]:
    """Median milliseconds of one forward pass per model and batch size, the models' runs alternating."""
    import torch

    result: list[dict[str, float]] = [{} for _ in models]
    with torch.inference_mode():
        for size in LATENCY_BATCHES:
            batches = [first_inputs(model, dataset, size) for model in models]
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


def _time_one(model: nn.Module, inputs: torch.Tensor) -> float:
    import torch

    wait: Callable[[], object] = getattr(torch, inputs.device.type).synchronize
    with evaluation_mode(model):
        wait()
        start = time.perf_counter()
        model(inputs)
        wait()
        return time.perf_counter() - start


def first_inputs(model: nn.Module, dataset: Dataset, count: int) -> torch.Tensor:
    """`count` inputs where the model is, from the front of the data set and over again if it has fewer."""
    import torch

    device, dtype = placement(model)
    return as_inputs(dataset.images[torch.arange(count) % len(dataset)], device, dtype)


def as_inputs(batch: torch.Tensor, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """A batch on the device of a model and in its float type; whole numbers, which name things, stay such."""
    return batch.to(device, dtype) if batch.is_floating_point() else batch.to(device)


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
