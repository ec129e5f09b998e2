"""The heavy tail of a spectrum: the exponent α of a power law, where it begins, and how well it fits.

Martin and Mahoney (JMLR 22, 2021) read the quality of a layer from the exponent of its eigenvalues' density, λ^(−α)
above some λ_min; near 2 they call it well trained, above 6 no power law. The exponent is Hill's maximum-likelihood
estimate, and λ_min the eigenvalue above which the law fits best (Clauset, Shalizi and Newman, SIAM Review 51, 2009,
§3.1 and §3.3):

    α̂ = 1 + k / Σ ln(λᵢ/λ_min) over the k eigenvalues λᵢ ≥ λ_min,   standard error (α̂ − 1)/√k,

with λ_min the one of the smallest Kolmogorov distance between the k eigenvalues and the fitted law.

Such a fit exists for every spectrum. Whether the tail is heavy is another question, asked as there (§3.3, §5): does
the law pass a test of its own distance, and does it explain the tail better than an exponential one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from rmt_compress.spectrum.bulk import DegenerateSpectrumError
from rmt_compress.spectrum.marchenko_pastur import FloatArray


@dataclass(frozen=True)
class HeavyTail:
    """A power law fitted to the upper end of a spectrum.

    Attributes:
        alpha: the exponent of the density of eigenvalues.
        error: its standard error.
        start: λ_min, the least eigenvalue of the tail, on the scale of the spectrum.
        size: eigenvalues in the tail.
        distance: the Kolmogorov distance between tail and law.
        over_exponential: log-likelihood ratio of the law to the best exponential one from the same start, in its
            own standard deviations (Vuong's statistic); positive where the tail is heavier than exponential.
    """

    alpha: float
    error: float
    start: float
    size: int
    distance: float
    over_exponential: float

    @property
    def passes(self) -> bool:
        """Whether the distance is one that draws from the law show in 19 of 20 cases.

        ln(λ/λ_min) is exponential, of an estimated mean: Stephens' modified statistic (J. Am. Stat. Assoc. 69,
        1974). That λ_min was sought makes the distance smaller still, so that this errs on the side of the law.
        """
        root = math.sqrt(self.size)
        return (self.distance - 0.2 / self.size) * (root + 0.26 + 0.5 / root) <= _PASSES


# Stephens' 5 % point for an exponential law of estimated mean.
_PASSES = 1.094


def fit_heavy_tail(eigenvalues: ArrayLike) -> HeavyTail:
    """The power law that fits the upper end of a spectrum best; α does not depend on the spectrum's scale.

    Costs some p² operations on p eigenvalues.

    Args:
        eigenvalues: squares of singular values, any order; zeros are left out.

    Raises:
        DegenerateSpectrumError: fewer than two different eigenvalues are left.
        ValueError: a NaN, an Inf or a negative number.
    """
    values = np.sort(np.asarray(eigenvalues, dtype=np.float64))
    if not np.isfinite(values).all() or (values < 0).any():
        raise ValueError("eigenvalues are finite and not negative")
    values = values[values > 0]
    if values.size < 2 or values[0] == values[-1]:
        raise DegenerateSpectrumError("fewer than two different eigenvalues are not zero: they have no tail")
    logs = np.log(values)
    # Σ of the logarithms from each place on.
    sums = logs[::-1].cumsum()[::-1]
    best = None
    for first in range(values.size - 1):
        size = values.size - first
        excess = sums[first] - size * logs[first]
        # Equal eigenvalues are one place to begin, the first of them; equal to the largest they are none.
        if excess <= 0 or (first and logs[first] == logs[first - 1]):
            continue
        exponent = size / excess
        law = -np.expm1(-exponent * (logs[first:] - logs[first]))
        distance = float(np.abs(law - np.arange(size) / size).max())
        if best is None or distance < best.distance:
            error = exponent / np.sqrt(size)
            best = HeavyTail(float(1 + exponent), float(error), float(values[first]), size, distance, 0.0)
    assert best is not None  # the first place always has an excess
    return replace(best, over_exponential=_over_exponential(values[values.size - best.size :], best.alpha))


def _over_exponential(tail: FloatArray, alpha: float) -> float:
    """Vuong's statistic of a power law of this exponent against an exponential one, of an ascending tail."""
    relative = tail / tail[0]
    rate = 1 / (relative.mean() - 1)
    gains = np.log((alpha - 1) / rate) - alpha * np.log(relative) + rate * (relative - 1)
    spread = gains.std()
    # Of two eigenvalues both laws say the same up to rounding.
    return float(gains.sum() / (spread * np.sqrt(tail.size))) if spread > 1e-12 else 0.0
