"""How risky a cut is that nobody measures, by the singular values alone.

A cut to rank r takes Σ_{i>r} s_i² away. In units of the largest singular value's square, over the number p of all,
that is one number between 0 and 1, the *removed share of the top*: small where few directions tower over the rest,
near 1 where all count the same. experiments/harm.py cut every layer of many networks by itself, plain, and measured
the rise of the loss as a share of what the network had learned; of what the weights alone can tell, this was the
simplest that foretold it in networks that it was not made on. The two limits are what all of them gave, and
docs/when-the-edge-lies.md says how often each grade was wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from rmt_compress.analysis.records import AnalyzedLayer

Risk = Literal["low", "medium", "high"]
RISKS: tuple[Risk, ...] = get_args(Risk)
"""From the least to the greatest."""

LIMITS = (0.0287, 0.0715)
"""Above the first a cut is no longer low, above the second it is high; see `grade_limits` of that experiment."""


def removed_share(values: NDArray[np.float64], rank: int) -> float:
    """Σ_{i>r} s_i² / (p·s₁²), which does not depend on the scale of the weight.

    Args:
        values: the p singular values, descending, the largest of them not zero.
        rank: how many are kept.
    """
    relative = values / values[0]
    return float((relative[rank:] ** 2).sum() / len(values))


def risk_of(analysis: AnalyzedLayer, rank: int) -> Risk:
    """The risk of a plain cut of this layer alone to a rank; of a stack that of the expert with the greatest."""
    share = max(removed_share(each.singular_values, rank) for each in analysis.matrices)
    return RISKS[sum(share > limit for limit in LIMITS)]
