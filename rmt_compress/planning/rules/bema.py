"""BEMA's edge: the spikes, and a share of the bulk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rmt_compress.planning.rank_rule import RankRule

if TYPE_CHECKING:
    from rmt_compress.analysis.records import AnalyzedLayer


def rank(layer: AnalyzedLayer, share: float) -> int:
    """k* + ⌊f·(p − k*)⌋ for k* spikes among p singular values and the share f."""
    p, spikes = layer.fit.p, layer.fit.spikes
    # The slack undoes rounding: ⌊0.1·(150 − 50)⌋ is 10, not 9.
    return spikes + int(share * (p - spikes) + 1e-9)


def grid(points: int) -> list[float]:
    """The spikes alone, then shares up to 0.4."""
    import numpy as np

    return [0.0, *np.geomspace(0.01, 0.4, points - 1).tolist()]


RULE = RankRule(
    name="bema",
    source="SJK23 §4.2, BSSZ24 §4.1.2",
    caption="BEMA: spikes and a share f of the bulk",
    rank=rank,
    from_spikes=True,
    grid=grid,
)
