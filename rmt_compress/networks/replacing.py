"""Tensors of a live network that come and go: how a cut is tried without making another network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn

    from rmt_compress.planning.searching import Score, Trial


_LESS_WORK = 0.8
"""Two layers of at most this share of the weights of one take less time than it."""


@contextmanager
def replaced(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> Iterator[nn.Module]:
    """The network with other values in some of its parameters and buffers; behind it they are as they were.

    Every name of a shared parameter sees the change, and no value is copied. What is done to the values inside is
    lost with them.

    Args:
        model: the network.
        tensors: name of a parameter or buffer -> what stands there meanwhile, of its shape.

    Raises:
        KeyError: there is no parameter or buffer of such a name.
    """
    places = dict(model.named_parameters(remove_duplicate=False)) | dict(
        model.named_buffers(remove_duplicate=False)
    )
    originals = {name: places[name].data for name in tensors}
    try:
        for name, tensor in tensors.items():
            places[name].data = tensor
        yield model
    finally:
        for name, tensor in originals.items():
            places[name].data = tensor


@contextmanager
def tried(model: nn.Module, trial: Trial) -> Iterator[nn.Module]:
    """The network of a trial; behind it `model` is as it was.

    It answers as with the cut weights in place, but for rounding. Where the two thinner layers of a cut are clearly
    less work they run in the place of the one: a network cut to a tenth of its weights is asked in a fraction of
    the time. A layer that more than its parent's call may read keeps its place, with other values.

    Args:
        model: the network.
        trial: what is other in it. Types are those of the network.
    """
    from rmt_compress.compression.live_modules import replace_modules

    pairs = _pairs(model, trial)
    rest = {name: tensor for name, tensor in trial.tensors.items() if name not in pairs}
    with replaced(model, rest):
        network = replace_modules(model, dict(pairs.values()))
        try:
            yield network
        finally:
            replace_modules(network, {pair: whole for whole, pair in pairs.values()})


def _pairs(model: nn.Module, trial: Trial) -> dict[str, tuple[nn.Module, nn.Module]]:
    """Name of a tensor -> the module it is the weight of, and the two layers that run in its place."""
    from rmt_compress.layers.library_modules import is_library_model, with_attributes
    from rmt_compress.layers.low_rank import module_refusal, split_module
    from rmt_compress.layers.splitting import module_path

    modules, of_library = dict(model.named_modules()), is_library_model(model)
    found: dict[str, tuple[nn.Module, nn.Module]] = {}
    for name, factors in trial.factors.items():
        whole = modules.get(module_path(name))
        if whole is None or module_refusal(whole) is not None:
            continue
        weight = whole.get_parameter("weight")
        if sum(factor.numel() for factor in factors) > _LESS_WORK * weight.numel():
            continue
        pair = split_module(whole, *(factor.to(weight.device, weight.dtype) for factor in factors), name=name)
        found[name] = whole, with_attributes(pair, whole) if of_library else pair
    return found


def scored(model: nn.Module, judge: Callable[[nn.Module], float]) -> Score:
    """The score of a search over cuts of a live network: what `judge` says of it with the cut in place.

    Args:
        model: the network; between two trials it is as it was.
        judge: how good a network is, higher is better; runs it as it stands.
    """

    def score(trial: Trial) -> float:
        with tried(model, trial) as cut:
            return judge(cut)

    return score
