"""A rank that is given."""

from __future__ import annotations

from rmt_compress.planning.rank_rule import COUNT, RankRule

RULE = RankRule(
    name="rank",
    source="chosen by hand",
    caption="the same rank everywhere",
    rank=lambda layer, count: int(count),
    number=COUNT,
)
