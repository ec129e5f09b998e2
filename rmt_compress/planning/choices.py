"""From singular values to what may become of a layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rmt_compress.layers.splitting import split_refusal
from rmt_compress.planning.allocation import Choices

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rmt_compress.layers.layer import Layer
    from rmt_compress.planning.costs import Cost


@dataclass(frozen=True)
class Bounds:
    """What a layer may be cut to beside what its shape allows.

    Attributes:
        multiple: ranks are multiples of this, or all singular values.
        least: the smallest rank.
        most: the largest rank; None for no bound. A layer that has one is not left dense where a cut within it
            costs less.
        share: the largest share of its own cost that it keeps, 1 for no bound; as `most`.
    """

    multiple: int = 1
    least: int = 1
    most: int | None = None
    share: float = 1.0


def cut_refusal(layer: Layer) -> str | None:
    """Why a cut of a layer would save nothing; None if it would."""
    return layer.skip_reason() or split_refusal(layer) or layer.why_in_place


def choices(
    layer: Layer, values: Sequence[NDArray[np.float64]], cost: Cost, bounds: Bounds, *, scale: float = 1.0
) -> Choices:
    """The ranks of a layer that cost less than it and have fewer entries, with the loss ½Σ_{i>r} σ_i² of each.

    Losses are rounded to float32, in which a plan keeps them.

    Args:
        layer: the layer, which can be cut (see `cut_refusal`).
        values: the singular values of each of its matrices, in the metric of its basis, descending.
        cost: what counts.
        bounds: what it may be cut to.
        scale: what the losses are multiplied with.
    """
    energies = np.sum([np.square(each) for each in values], axis=0)
    tails = np.append(np.cumsum(energies[::-1])[::-1], 0.0) * (0.5 * scale)
    tails = tails.astype(np.float32).astype(np.float64)
    dense, p = cost.dense(layer), len(energies)
    first = -(-max(bounds.least, 1) // bounds.multiple) * bounds.multiple
    ranks = np.arange(first, p + 1, bounds.multiple, dtype=np.int64)
    costs = cost.factors(layer, ranks)
    cheaper = (costs < dense) & (layer.factor_parameters(1) * ranks < layer.parameters)
    bounded = cheaper.copy()
    if bounds.most is not None:
        bounded &= ranks <= max(bounds.most, first)
    if bounds.share < 1:
        bounded &= costs <= bounds.share * dense
    must = bool(bounded.any()) and (bounds.most is not None or bounds.share < 1)
    chosen = bounded if bounded.any() else cheaper & False
    ranks, costs = ranks[chosen], costs[chosen]
    return Choices(layer.tensor, ranks, costs, tails[ranks], None if must else dense, float(tails[0]), dense)
