"""A sharper bound for the last Linear layers: activations do half of nothing.

An activation whose slope lies between 0 and 1 (ReLU, tanh, softplus …) turns a difference into a multiple of it,
entry by entry: D = ½(1 + E), no entry of E beyond 1. Written out, a chain v·D·T·D′·T′ becomes the mean over all
ways to put 1 or E into each place; where 1 stands the matrices on both sides multiply as they are, and only where E
stands do their norms (Combettes and Pesquet, SIAM J. Math. Data Sci. 2, 2020). With v the difference of two rows of
the last layer and m activations:

    |Δ(X_i − X_j)| ≤ 2^(−m) Σ over the ways of ‖v·T·…‖ · ‖…‖ · … · ‖Δ of what the first layer of the chain reads‖

which the product of all norms, what remains when every place is broken, is never below.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from rmt_compress.certificates.operator_norms import spectral_norm
from rmt_compress.certificates.units import channel_scales

if TYPE_CHECKING:
    import torch
    from torch import nn

    from rmt_compress.certificates.network_graph import NetworkGraph

_MOST = 6
"""Layers of a chain: with each the norms of as many more products are needed."""
_MONOTONE = (
    *("ReLU", "ReLU6", "Hardtanh", "Tanh", "Softsign", "LogSigmoid", "Tanhshrink", "Softshrink", "Sigmoid"),
    *("Hardsigmoid", "Softplus", "CELU", "Dropout", "Identity", "relu", "relu_", "relu6", "tanh", "sigmoid"),
    *("softsign", "identity"),
)


class Link(NamedTuple):
    """A Linear layer from which on the chain to the answer is known.

    Attributes:
        reads: index of the step whose value it takes.
        apart: (classes, classes), how far X_i − X_j can move for a change of that value of Euclidean norm 1.
    """

    reads: int
    apart: torch.Tensor


def last_links(graph: NetworkGraph) -> list[Link]:
    """The last Linear layer, then those before it with nothing but activations behind them; none without a head."""
    weights: list[torch.Tensor] = []
    places: list[int] = []
    unit = graph.head
    while unit is not None and unit.operator is not None and len(weights) < _MOST:
        scales = channel_scales(graph.modules[1][unit.paths[-1]]) if len(unit.paths) > 1 else None
        weight = unit.operator.weight
        weights.append(weight if scales is None else weight * scales[:, None])
        places.append(graph.reads(unit))
        unit = graph.linear_before(unit, _is_monotone)
    apart = averaged_distances(weights)
    return [Link(place, table) for place, table in zip(places, apart, strict=True)]


def averaged_distances(weights: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """(classes, classes) for every layer of a chain: how far X_i − X_j can move for a change of 1 before it.

    Args:
        weights: the last layer first, each with an activation of slopes in [0, 1] between it and the one before.
    """
    import torch

    found: list[torch.Tensor] = []
    # Without the powers of 2: sums over the ways to break the chain.
    sums: list[torch.Tensor] = []
    whole = None
    for last, weight in enumerate(weights):
        whole = weight if whole is None else whole @ weight
        total = torch.cdist(whole, whole, compute_mode="donot_use_mm_for_euclid_dist") * (1 + 1e-9)
        product = None
        for first in range(last, 0, -1):
            product = weights[first] if product is None else weights[first] @ product
            total = total + sums[first - 1] * spectral_norm(product)
        sums.append(total)
        found.append(total / 2**last)
    return found


def _is_monotone(name: str, module: nn.Module | None) -> bool:
    """Whether a step acts on each entry alone, with slopes between 0 and 1."""
    from torch import nn

    if name == "LeakyReLU" and isinstance(module, nn.LeakyReLU):
        return 0 <= module.negative_slope <= 1
    if name == "ELU" and isinstance(module, nn.ELU):
        return 0 <= module.alpha <= 1
    return name in _MONOTONE
