"""How much worse a network may be than it looked: a bound on a drop that a few samples have shown.

Both networks are asked the same samples, so that what counts is the difference on each: of two accuracies of .90 on
1,000 samples the difference has a standard error of 1.3 points, of the paired differences, where one answer in
fifty changes, of .45 (McNemar 1947). The bound is the upper end of a one-sided prediction interval for the mean of
`fresh` further samples from the mean of n (Hahn and Meeker 1991, ch. 4): mean + t·s·√(1/n + 1/fresh). It is exact
for normal differences and right for many samples of others; of few samples, where no answer has changed, it is too
narrow. That several networks are asked the same samples, and the best is taken, is not accounted for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Judgement:
    """How good a network is.

    Attributes:
        value: higher is better.
        each: (n,), what each sample says, higher is better, with the mean `value`; None where that is not known.
    """

    value: float
    each: NDArray[np.float64] | None = None


def margin(before: Judgement, after: Judgement, confidence: float, fresh: int | None) -> float:
    """What is to be added to a drop that was seen, so that it holds for others with this confidence; 0 at least.

    Args:
        before: of the network as it was.
        after: of the other, asked the same samples.
        confidence: that the drop on fresh samples is no larger, in (0, 1); .5 for no margin.
        fresh: how many these are; None for infinitely many, the population.
    """
    from scipy.stats import t

    if before.each is None or after.each is None or len(before.each) != len(after.each):
        return 0.0
    lost = before.each - after.each
    n = len(lost)
    if n < 2 or confidence <= 0.5 or not np.isfinite(lost).all():
        return 0.0
    further = 0.0 if fresh is None else 1 / fresh
    return float(t.ppf(confidence, n - 1) * lost.std(ddof=1) * np.sqrt(1 / n + further))
