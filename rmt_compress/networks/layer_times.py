"""Seconds of every layer on this device, whole and in two factors at some ranks: what a budget of time is made of.

Each layer runs alone, with random inputs of the shape that it meets in the network, in turns with its splits. Alone
it finds its inputs in the caches, where in the network it may not; so the network as it is and one whose layers are
all split are timed too, and what separates these two says by how much the times of the layers are to be scaled.
"""

from __future__ import annotations

import copy
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmt_compress.errors import SettingsError
from rmt_compress.layers.library_modules import is_library_model, with_attributes
from rmt_compress.layers.low_rank import module_refusal, split_module_empty
from rmt_compress.networks.calling import call, first_axis, without_cache
from rmt_compress.networks.latency import Timer, seconds_in_turns
from rmt_compress.networks.measurement import evaluation_mode, placement
from rmt_compress.planning.times import LatencyTable, ShapeTimes
from rmt_compress.wording import times

if TYPE_CHECKING:
    import torch
    from torch import nn

    from rmt_compress.layers.layer import Layer
    from rmt_compress.progress import Progress

_RANKS = 8
"""Ranks that are measured of each shape, at most."""
_SPENT = 0.15
"""Seconds for each layer and each of its ranks."""
_MOST_SCALE = 4.0
_Call = tuple[str, tuple[int, ...]]


def measure_times(
    model: nn.Module,
    inputs: Any,
    layers: Sequence[Layer],
    *,
    timer: Timer | None = None,
    step: int | None = None,
    progress: Progress | None = None,
) -> LatencyTable:
    """The times of a network's layers on the device where it is.

    Args:
        model: the network; stays as it is.
        inputs: a batch, as it is called with it.
        layers: those that may be split; of others, and of those that are applied without a module of their own,
            nothing is measured.
        timer: what times networks; None for the clock, `latency.seconds_in_turns`.
        step: multiples of this are measured; None for as many numbers as the device computes with at once.
        progress: called with (shapes timed, all of them, what they are).

    Raises:
        SettingsError: none of the layers can be timed.
    """
    clock = timer or partial(seconds_in_turns, spent=_SPENT, faster_half=True)
    step = step or vector_length(placement(model)[0])
    modules = _modules(model)
    wanted = {
        layer.tensor: (layer, ranks)
        for layer in layers
        if layer.tensor in modules
        and module_refusal(modules[layer.tensor]) is None
        and (ranks := measured_ranks(layer, step))
    }
    calls = _calls(model, inputs, {tensor: modules[tensor] for tensor in wanted})
    groups: dict[tuple[str, frozenset[tuple[_Call, int]]], list[str]] = {}
    for tensor, counts in calls.items():
        key = _described(modules[tensor], wanted[tensor][0]), frozenset(counts.items())
        groups.setdefault(key, []).append(tensor)
    if not groups:
        raise SettingsError(
            ["latency: no layer of this network can be timed in two factors; use --macs or --keep instead"]
        )
    shapes = []
    for number, ((what, seen), tensors) in enumerate(groups.items()):
        if progress is not None:
            progress(number, len(groups), what)
        ranks = wanted[tensors[0]][1]
        pieces = [modules[tensors[0]], *(_random_split(modules[tensors[0]], rank) for rank in ranks)]
        total = [0.0] * len(pieces)
        for (_, shape), count in seen:
            given = _random(shape, pieces[0])
            total = [
                before + count * found
                for before, found in zip(total, clock([(piece, given) for piece in pieces]), strict=True)
            ]
        met = ", ".join(sorted({times(shape) for (_, shape), _ in seen}))
        shapes.append(ShapeTimes(f"{what} on {met}", tuple(tensors), total[0], ranks, _rising(total[1:])))
    whole, scale = _in_the_network(model, inputs, shapes, clock)
    return LatencyTable(whole, tuple(shapes), scale, step, first_axis(inputs), device_name(model))


def _rising(seconds: Sequence[float]) -> tuple[float, ...]:
    """Times that do not fall from rank to rank, by the least squares nearest to those measured.

    A larger rank that seems faster is noise, and a plan would pick just such a one.
    """
    pools: list[tuple[float, int]] = []
    for time in seconds:
        total, count = time, 1
        while pools and pools[-1][0] / pools[-1][1] > total / count:
            total, count = total + pools[-1][0], count + pools[-1][1]
            pools.pop()
        pools.append((total, count))
    return tuple(total / count for total, count in pools for _ in range(count))


def measured_ranks(layer: Layer, step: int) -> tuple[int, ...]:
    """Multiples of `step` at which two factors are smaller: all, or `_RANKS` evenly in their logarithm.

    Below `step` a factor is no faster; a layer that has no such rank has none.
    """
    import numpy as np

    most = (layer.parameters - 1) // layer.factor_parameters(1) // step
    if most <= _RANKS:
        return tuple(step * number for number in range(1, most + 1))
    return tuple(step * int(number) for number in np.unique(np.geomspace(1, most, _RANKS).round()))


def vector_length(device: torch.device) -> int:
    """Multiples of this are what a device computes best with: 8, or 16 on processors with wider registers.

    oneDNN, which runs torch's convolutions on processors, pads channels to the length of a register.
    """
    import torch

    wide = device.type == "cpu" and "AVX512" in torch.backends.cpu.get_cpu_capability()
    return 16 if wide else 8


def device_name(model: nn.Module) -> str:
    """What a network runs on, in words, with the threads of a processor."""
    import torch

    device = placement(model)[0]
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    if device.type != "cpu":
        return device.type
    threads = torch.get_num_threads()
    return f"{_processor()}, {threads} thread{'s' * (threads > 1)}"


def _processor() -> str:
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text(encoding="utf-8").splitlines() if listing.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def _calls(model: nn.Module, inputs: Any, modules: Mapping[str, nn.Module]) -> dict[str, Counter[_Call]]:
    """Tensor of a layer -> how often it is called with inputs of which type and shape."""
    import torch

    found: dict[str, Counter[_Call]] = {}

    def watch(tensor: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def hook(_: nn.Module, arguments: tuple[Any, ...]) -> None:
            if arguments and isinstance(arguments[0], torch.Tensor):
                key = (str(arguments[0].dtype), tuple(arguments[0].shape))
                found.setdefault(tensor, Counter())[key] += 1

        return module.register_forward_pre_hook(hook)

    handles = [watch(tensor, module) for tensor, module in modules.items()]
    try:
        with evaluation_mode(model), without_cache(model), torch.inference_mode():
            call(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _described(module: nn.Module, layer: Layer) -> str:
    """All that tells a layer's work from another's, but its inputs."""
    settings = [
        f"{name} {value}"
        for name in ("stride", "padding", "dilation", "output_padding")
        if (value := getattr(module, name, None)) is not None
    ]
    bias = "" if module._parameters["bias"] is not None else ", no bias"
    return f"{type(module).__name__} {times(layer.shape)} {layer.dtype}{bias}" + "".join(
        f", {each}" for each in settings
    )


def _random_split(module: nn.Module, rank: int) -> nn.Module:
    """Two layers of this rank in the place of one, of random values, where it is."""
    import torch

    split = split_module_empty(module, rank).to_empty(device=module.get_parameter("weight").device).eval()
    generator = torch.Generator().manual_seed(rank)
    with torch.no_grad():
        for parameter in split.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter[0].numel() ** 0.5)
    return split


def _random(shape: tuple[int, ...], module: nn.Module) -> torch.Tensor:
    import torch

    weight = module.get_parameter("weight")
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(weight.device, weight.dtype)


def _in_the_network(
    model: nn.Module, inputs: Any, shapes: Sequence[ShapeTimes], clock: Timer
) -> tuple[float, float]:
    """Seconds of the whole network, and the scale of the times of its layers."""
    fastest = {shape: min(zip(shape.seconds, shape.ranks, strict=True)) for shape in shapes}
    faster = [shape for shape in shapes if fastest[shape][0] < shape.dense]
    alone = sum(len(shape.layers) * shape.dense for shape in shapes)
    won = sum(len(shape.layers) * (shape.dense - fastest[shape][0]) for shape in faster)
    if not faster:
        (whole,) = clock([(model, inputs)])
        return whole, min(1.0, whole / alone)
    ranks = {tensor: fastest[shape][1] for shape in faster for tensor in shape.layers}
    whole, least = clock([(model, inputs), (random_factors(model, ranks), inputs)])
    # However a clock errs, a layer saves something, and all of them together do not take longer than the network.
    scale = min(max((whole - least) / won, 1 / _MOST_SCALE), _MOST_SCALE, whole / alone)
    return whole, scale


def random_factors(model: nn.Module, ranks: Mapping[str, int]) -> nn.Module:
    """A network with two layers of random values in the place of some: as fast as with the right ones.

    All other tensors are those of `model` itself.

    Args:
        model: the network.
        ranks: tensor of a layer -> the rank of its factors.
    """
    modules = _modules(model)
    # What is known to have been copied is not copied.
    known: dict[int, Any] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    of_library = is_library_model(model)
    for tensor, rank in ranks.items():
        whole = modules[tensor]
        pair: Any = _random_split(whole, rank)
        known[id(whole)] = with_attributes(pair, whole) if of_library else pair
    return copy.deepcopy(model, known)


def _modules(model: nn.Module) -> dict[str, nn.Module]:
    """The modules by the names that their weights have."""
    return {f"{name}.weight" if name else "weight": module for name, module in model.named_modules()}
