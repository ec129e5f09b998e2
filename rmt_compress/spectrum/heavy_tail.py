"""The heavy tail of a spectrum: the exponent α of a power law, where it begins, and how well it fits.

Martin and Mahoney (JMLR 22, 2021) read the quality of a layer from the exponent of its eigenvalues' density, λ^(−α)
above some λ_min; near 2 they call it well trained, above 6 no power law. The exponent is Hill's maximum-likelihood
estimate, and λ_min the eigenvalue above which the law fits best (Clauset, Shalizi and Newman, SIAM Review 51, 2009,
§3.1 and §3.3):

    α̂ = 1 + k / Σ ln(λᵢ/λ_min) over the k eigenvalues λᵢ ≥ λ_min,   standard error (α̂ − 1)/√k,

with λ_min the one of the smallest Kolmogorov distance between the k eigenvalues and the fitted law.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from rmt_compress.spectrum.bulk import DegenerateSpectrumError


@dataclass(frozen=True)
class HeavyTail:
    """A power law fitted to the upper end of a spectrum.

    Attributes:
        alpha: the exponent of the density of eigenvalues.
        error: its standard error.
        start: λ_min, the least eigenvalue of the tail, on the scale of the spectrum.
        size: eigenvalues in the tail.
        distance: the Kolmogorov distance between tail and law.
    """

    alpha: float
    error: float
    start: float
    size: int
    distance: float


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
            best = HeavyTail(float(1 + exponent), float(error), float(values[first]), size, distance)
    assert best is not None  # the first place always has an excess
    return best
