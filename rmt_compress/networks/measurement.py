"""Running a network without changing it: multiply-adds, bytes and memory of one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rmt_compress.networks.calling import call, placed, without_cache

if TYPE_CHECKING:
    import torch
    from torch import nn

    from rmt_compress.networks.tasks.task import Task


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

    with _watched(model, hook), evaluation_mode(model), without_cache(model), torch.inference_mode():
        call(model, inputs)
    return total


@contextmanager
def _watched(model: nn.Module, hook: Callable[[nn.Module, tuple[Any, ...], Any], None]) -> Iterator[None]:
    """`hook` called after every Linear and convolution layer."""
    from torch import nn
    from torch.nn.modules.conv import _ConvNd

    handles = [
        module.register_forward_hook(hook)
        for module in model.modules()
        if isinstance(module, nn.Linear | _ConvNd) or type(module).__name__ == "Conv1D"
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def bytes_moved(model: nn.Module, inputs: Any) -> int:
    """Bytes that the Linear and convolution layers read and write in one forward pass: weights, inputs, outputs.

    Where a pass waits for memory and not for arithmetic (one sample, one token) they decide its time. Of a graph,
    whose intermediate tensors nobody sees, the weights alone.
    """
    import torch

    from rmt_compress.checkpoints.graph_network import GraphNetwork

    if isinstance(model, GraphNetwork):
        return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    total = 0

    def hook(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        nonlocal total
        tensors = [*module.parameters(recurse=False), *arguments, output]
        total += sum(each.numel() * each.element_size() for each in tensors if isinstance(each, torch.Tensor))

    with _watched(model, hook), evaluation_mode(model), without_cache(model), torch.inference_mode():
        call(model, inputs)
    return total


def peak_memory(model: nn.Module, inputs: Any) -> int:
    """Most bytes alive at once in one forward pass beside weights and inputs: what it makes on the way.

    On CUDA as the allocator counts, elsewhere by the outputs of all operations that are still referred to; 0 of a
    graph that its own runtime runs.
    """
    import torch

    device = placement(model)[0]
    with evaluation_mode(model), without_cache(model), torch.inference_mode():
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
            call(model, inputs)
            return int(torch.cuda.max_memory_allocated(device)) - int(before)
        from rmt_compress.networks.live_tensors import LiveTensors

        with LiveTensors() as live:
            outputs = call(model, inputs)
        del outputs
        return int(live.peak)


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
