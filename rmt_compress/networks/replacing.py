"""Tensors of a live network that come and go: how a cut is tried without making another network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn

    from rmt_compress.planning.searching import Score, Trial


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


def scored(model: nn.Module, judge: Callable[[nn.Module], float]) -> Score:
    """The score of a search over cuts of a live network: what `judge` says of it with the cut in place.

    Args:
        model: the network; between two trials it is as it was.
        judge: how good a network is, higher is better; runs it as it stands.
    """

    def score(trial: Trial) -> float:
        with replaced(model, trial.tensors) as cut:
            return judge(cut)

    return score
