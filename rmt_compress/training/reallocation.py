"""Zeros that a short training divides: spectral edge reallocation and its hybrid (method.md §16).

More entries than asked are removed by the spectral edge budget, all that was zero before among them. The removed
entries alone are then trained for a short while, from 0, with everything else as it is. Those that moved most come
back, with what they have become, until the share of zeros is exact; what moved is compared between layers after
multiplication by w(s), the weight by which the edge budget divides magnitudes (`compression.layer_strengths`), so
that a layer that lost more for its high edge can win it back. From then on the mask is frozen until the share
rises.

*Hybrid*: the smallest entries of all layers together up to a share of 0.2, reallocation above it.

How far past the share, and for how long, is not published: a fifth of what is to stay, and twenty steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal, cast

import torch

from rmt_compress.analysis.analyzing import analyze_with
from rmt_compress.analysis.settings import AnalysisSettings
from rmt_compress.checkpoints.memory import ModuleCheckpoint
from rmt_compress.compression.layer_strengths import edge_weights
from rmt_compress.compression.zero_budget import counts_by_scores
from rmt_compress.planning.making import may_sparsify
from rmt_compress.training.held_masks import HeldMasks, sparsify_to_share

if TYPE_CHECKING:
    from torch import nn

    from rmt_compress.compression.zero_budget import SparsifyBudget
    from rmt_compress.training.workers import Workers

MaskBudget = Literal["uniform", "magnitude", "edge", "alpha", "reallocation", "hybrid"]

STEPS = 20
"""Of the training of removed entries."""

_PAST = 0.2
_HYBRID_FROM = 0.2


def way_at(budget: MaskBudget, share: float, *, rises: bool) -> MaskBudget:
    """What divides the zeros of a share; where it does not rise, what leaves all zeros where they are."""
    if budget not in ("reallocation", "hybrid"):
        return budget
    if budget == "hybrid" and share <= _HYBRID_FROM:
        return "magnitude"
    return "reallocation" if rises else "edge"


class FreeEntries:
    """The entries of a network that were removed, trained while everything else stands still.

    Args:
        model: the network, its removed entries 0.
        kept: masks of the weights by name, True where an entry stands.
    """

    def __init__(self, model: nn.Module, kept: Mapping[str, torch.Tensor]) -> None:
        parameters = dict(model.named_parameters())
        masks = {name: mask.to(parameters[name].device) for name, mask in kept.items()}
        self._all = [(each, each.detach().clone(), masks.get(name)) for name, each in parameters.items()]
        self._buffers = [(each, each.clone()) for each in model.buffers()]
        self.removed = {name: (parameters[name], ~mask) for name, mask in masks.items()}

    def enforce(self) -> None:
        """Take back, after a step of the optimizer, what it did to all other entries."""
        with torch.no_grad():
            for parameter, before, mask in self._all:
                parameter.copy_(before if mask is None else torch.where(mask, before, parameter))
            for buffer, before in self._buffers:
                buffer.copy_(before)


def zeros_of_share(
    model: nn.Module,
    share: float,
    budget: MaskBudget,
    train: Callable[[FreeEntries], object],
    workers: Workers | None = None,
) -> dict[str, torch.Tensor]:
    """Set a share of all entries that may be zero to zero in place; by name, masks, True where not zero.

    Args:
        model: the network as it is.
        share: of the entries, exact to the entry, in [0, 1).
        budget: of `way_at`.
        train: for ``reallocation``: trains what it is given for a short while, and calls its `enforce` after every
            step.
        workers: the processes that train together; the leading one decides. None for one.
    """

    def alike(decide: Callable[[], dict[str, torch.Tensor]]) -> HeldMasks:
        """The masks that the leading process finds, in all of them."""

        def found() -> dict[str, torch.Tensor]:
            return {name: mask.cpu() for name, mask in decide().items()}

        held = HeldMasks(model, found() if workers is None else workers.from_leader(found))
        held.enforce()
        return held

    if budget not in ("reallocation", "hybrid"):
        divides = cast("SparsifyBudget", budget)
        return alike(lambda: sparsify_to_share(model, share, divides)).masks
    past = share + _PAST * (1 - share)
    weights: dict[str, float] = {}

    def removed() -> dict[str, torch.Tensor]:
        analysis = analyze_with(model, AnalysisSettings())
        weights.update(edge_weights(analysis, past))
        return sparsify_to_share(model, past, "edge", analysis)

    free = FreeEntries(model, alike(removed).masks)
    train(free)
    back = _entries(model, past) - _entries(model, share)
    return alike(lambda: _restored(free, weights, back)).masks


def _entries(model: nn.Module, share: float) -> int:
    """How many entries a share is, as `divide_sparsity` counts them."""
    sizes = [layer.parameters for layer in ModuleCheckpoint(model).layers() if may_sparsify(layer)]
    return int(sum(share * size for size in sizes) + 1e-6)


def _restored(free: FreeEntries, weights: Mapping[str, float], back: int) -> dict[str, torch.Tensor]:
    """The masks once so many entries, those of the largest |movement|·w, have come back."""
    scores = [
        parameter.detach()[gone].abs().float() * weights.get(name, 1.0)
        for name, (parameter, gone) in free.removed.items()
    ]
    going = max(0, sum(each.numel() for each in scores) - back)
    counts = counts_by_scores(lambda: iter(scores), going)
    masks = {}
    for (name, (_, gone)), score, count in zip(free.removed.items(), scores, counts, strict=True):
        stays = torch.ones_like(score, dtype=torch.bool)
        # Of equal ones the first go, as everywhere.
        stays[torch.argsort(score, stable=True)[:count]] = False
        masks[name] = ~gone
        masks[name][gone] = stays
    return masks
