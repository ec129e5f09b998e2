"""Gavish and Donoho's optimal hard threshold for an unknown noise level."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rmt_compress.planning.rank_rule import RankRule

if TYPE_CHECKING:
    from rmt_compress.analysis.records import AnalyzedLayer


def hard_threshold(c: float) -> float:
    """GD14's ω(c): the threshold on singular values in units of their median, noise level unknown.

    λ*(c)/√μ_c with λ*(c) = √(2(c+1) + 8c/((c+1) + √(c²+14c+1))) and μ_c the Marchenko–Pastur median; 2.858 at
    c = 1, where λ* = 4/√3.
    """
    import numpy as np

    from rmt_compress.spectrum import marchenko_pastur

    optimum = np.sqrt(2 * (c + 1) + 8 * c / ((c + 1) + np.sqrt(c**2 + 14 * c + 1)))
    return float(optimum / np.sqrt(marchenko_pastur.quantile(0.5, c)))


def rank(layer: AnalyzedLayer, _: float) -> int:
    """How many singular values are above the threshold."""
    import numpy as np

    values = layer.singular_values
    return int(np.sum(values > hard_threshold(layer.fit.p / layer.fit.n) * np.median(values)))


RULE = RankRule(
    name="gd14", source="GD14 §III", caption="GD14 hard threshold", rank=rank, grid=lambda points: [0.0]
)
