"""A share of the energy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rmt_compress.planning.rank_rule import SHARE, RankRule

if TYPE_CHECKING:
    from rmt_compress.analysis.records import AnalyzedLayer


def rank(layer: AnalyzedLayer, share: float) -> int:
    """The fewest singular values whose Σs² reaches the share of ‖W‖_F²."""
    energy = (layer.singular_values**2).cumsum()
    return int(energy.searchsorted(share * energy[-1] * (1 - 1e-12))) + 1


def grid(points: int) -> list[float]:
    """Shares from 0.3 to 0.85."""
    import numpy as np

    return [float(share) for share in np.linspace(0.3, 0.85, points)]


RULE = RankRule(
    name="energy",
    source="common practice, as in principal component analysis",
    caption="energy share",
    rank=rank,
    number=SHARE,
    grid=grid,
)
