"""Times of layers that no clock has measured."""

from collections.abc import Mapping

from torch import nn

from rmt_compress.planning.times import LatencyTable, ShapeTimes

PER_WEIGHT, PER_LAYER = 1e-6, 2e-4


def table_of(layers: Mapping[str, tuple[float, Mapping[int, float]]], whole: float, **more) -> LatencyTable:
    """Tensor of a layer -> seconds whole, and by rank."""
    shapes = []
    for tensor, (dense, seconds) in layers.items():
        ranks = tuple(sorted(seconds))
        shapes.append(ShapeTimes(f"Linear {tensor}", (tensor,), dense, ranks, tuple(seconds[r] for r in ranks)))
    return LatencyTable(whole, tuple(shapes), **more)


def by_weights(networks) -> list[float]:
    """A timer: a microsecond for each entry, and what a layer takes however small it is."""
    return [seconds_by_weights(network) for network, _ in networks]


def seconds_by_weights(network: nn.Module) -> float:
    """What `by_weights` says of one network."""
    leaves = [module for module in network.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    return sum(PER_LAYER + PER_WEIGHT * sum(each.numel() for each in leaf.parameters()) for leaf in leaves)
