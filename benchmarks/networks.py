"""The networks both programs analyse, as live modules: seeded, so that every process builds the same weights.

Needs torch alone: the environment of the peer builds them too. The weights are torch's own initialisation plus
eight planted spikes a layer, from just above the noise edge to six times it, as a trained layer would have.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import nn

SPIKES = torch.linspace(1.2, 6.0, 8)
SEED = 20240229


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers from width to width."""
    return nn.Sequential(*(nn.Linear(before, after) for before, after in pairwise(widths)))


def cnn(channels: list[int], widths: list[int]) -> nn.Sequential:
    """3 × 3 convolutions over the channels, then Linear layers over the widths."""
    convolutions = (nn.Conv2d(before, after, 3, padding=1) for before, after in pairwise(channels))
    return nn.Sequential(*convolutions, *mlp(*widths))


VGG16 = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]

_NETWORKS: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "large-mlp": ("MLP 784,3000,3000,2000,500,10", lambda: mlp(784, 3000, 3000, 2000, 500, 10)),
    # A full-size head (25088 × 4096) would keep the peer busy for minutes; this is the head in use on CIFAR.
    "vgg16": ("VGG-16 convolutions, head 512,2048,2048,10", lambda: cnn(VGG16, [512, 2048, 2048, 10])),
    "200-layers": ("200 Linear layers of 128 × 256", lambda: mlp(*([128, 256] * 100), 128)),
    "tiny": ("MLP 64,96,64,10", lambda: mlp(64, 96, 64, 10)),
}


def describe(name: str) -> str:
    """What the network `name` is, in a few words."""
    return _NETWORKS[name][0]


def build(name: str) -> nn.Module:
    """The network `name`, with the same weights whenever it is built."""
    torch.manual_seed(SEED)
    network = _NETWORKS[name][1]()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() > 1:
                plant_spikes(parameter)
    return network


def plant_spikes(weight: torch.Tensor) -> None:
    """Add the spikes to a random weight in place, in multiples of its noise edge σ(√n + √p).

    Args:
        weight: (rows, ...), flattened behind the first dimension as the analysis does.
    """
    matrix = weight.flatten(1)
    rows, columns = matrix.shape
    count = min(len(SPIKES), rows, columns)
    edge = matrix.std() * (rows**0.5 + columns**0.5)
    left = nn.functional.normalize(torch.randn(rows, count, dtype=torch.float32), dim=0)
    right = nn.functional.normalize(torch.randn(count, columns, dtype=torch.float32), dim=1)
    weight += ((left * (edge.float() * SPIKES[:count])) @ right).view_as(weight).to(weight.dtype)
