"""The same share of the ranks in every layer."""

from __future__ import annotations

from rmt_compress.planning.rank_rule import SHARE, RankRule


def grid(points: int) -> list[float]:
    """Shares from 0.01 to 0.45, evenly spaced in their logarithm."""
    import numpy as np

    return [float(share) for share in np.geomspace(0.01, 0.45, points)]


RULE = RankRule(
    name="ratio",
    source="the plainest there is",
    caption="equal share of ranks",
    rank=lambda layer, share: round(share * layer.fit.p),
    number=SHARE,
    grid=grid,
)
