"""How many singular values of a layer to keep; which ones is another question (the largest).

Every rule maps the spectrum of one layer to a rank. BEMA's edge is the default; the others are here to be
compared with it, each named by its source.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from rmt_compress.spectrum import marchenko_pastur

if TYPE_CHECKING:
    from rmt_compress.analysis import LayerAnalysis

RankRule = Literal["bema", "energy", "gd14", "ratio", "rank"]
RANK_RULES: tuple[RankRule, ...] = get_args(RankRule)


def rank_to_keep(analysis: LayerAnalysis, rule: RankRule, amount: float) -> int:
    """Number of singular values the rule keeps, between 1 and p.

    Args:
        analysis: an analysed layer with p singular values s₁ ≥ … ≥ s_p and k* spikes.
        rule: ``bema`` keeps k* + ⌊f·(p − k*)⌋ with f = `amount` (SJK23 §4.2, BSSZ24 §4.1.2);
            ``energy`` the fewest whose Σs² reaches the share `amount` of ‖W‖_F²;
            ``gd14`` those above Gavish and Donoho's optimal hard threshold for unknown noise (GD14 §III),
            `amount` has no meaning;
            ``ratio`` the share `amount` of the ranks, rounded;
            ``rank`` exactly `amount`.
        amount: see above.

    Raises:
        ValueError: the layer was skipped.
    """
    if analysis.fit is None:
        raise ValueError(f"{analysis.layer.name} was skipped and has no spectrum")
    p, values = analysis.fit.p, analysis.singular_values
    match rule:
        case "bema":
            spikes = analysis.fit.spikes
            # The slack undoes rounding: ⌊0.1·(150 − 50)⌋ is 10, not 9.
            rank = spikes + int(amount * (p - spikes) + 1e-9)
        case "energy":
            energy = np.cumsum(values**2)
            rank = int(np.searchsorted(energy, amount * energy[-1] * (1 - 1e-12))) + 1
        case "gd14":
            rank = int(np.sum(values > hard_threshold(p / analysis.fit.n) * np.median(values)))
        case "ratio":
            rank = round(amount * p)
        case "rank":
            rank = int(amount)
    return max(1, min(rank, p))


def hard_threshold(c: float) -> float:
    """GD14's ω(c): the threshold on singular values in units of their median, noise level unknown.

    λ*(c)/√μ_c with λ*(c) = √(2(c+1) + 8c/((c+1) + √(c²+14c+1))) and μ_c the Marchenko–Pastur median; 2.858 at
    c = 1, where λ* = 4/√3.
    """
    optimum = np.sqrt(2 * (c + 1) + 8 * c / ((c + 1) + np.sqrt(c**2 + 14 * c + 1)))
    return float(optimum / np.sqrt(marchenko_pastur.quantile(0.5, c)))
