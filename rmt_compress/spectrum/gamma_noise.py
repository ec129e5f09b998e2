"""General BEMA: noise whose rows, or columns, have gamma-distributed variances (KML21, the general spiked model).

The variances are σ²·g, g gamma-distributed of mean 1 and variance 1/θ; at θ = ∞ the noise is Marchenko–Pastur. As
in BEMA the middle eigenvalues are matched to the law's quantiles by least squares, σ² in closed form and θ by
search. KML21 simulate the quantiles and the edge; here both follow from the Silverstein equation
(`rmt_compress.spectrum.silverstein`): quantiles from its density; the edge from the Tracy–Widom law for given
variances, averaged over the largest of them, whose own law is known, with the others at their quantiles below it.

The variances may be those of the shorter or of the longer side, and the side that fits better is taken, so that a
transposed matrix gives the same. How often noise of this kind passes the edge is measured in docs/statistics.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from rmt_compress.spectrum import marchenko_pastur, silverstein, tracy_widom
from rmt_compress.spectrum.bulk import BulkFit, fit_bulk
from rmt_compress.spectrum.marchenko_pastur import FloatArray

if TYPE_CHECKING:
    from scipy.interpolate import CubicSpline

# 1/θ, the squared coefficient of variation of the variances, up to beyond the exponential law's 1.
LARGEST_SPREAD = 1.5
_SPREADS = LARGEST_SPREAD * np.linspace(0.0, 1.0, 13) ** 2
# A gamma law is given to the Silverstein equation by so many of its quantiles.
_VARIANCES = 128
# Nodes of the average over the largest variance.
_NODES = 8


@dataclass(frozen=True)
class GammaNoise:
    """Noise fitted to one spectrum.

    Attributes:
        fit: bulk, edge and spikes as of the Marchenko–Pastur law; `sigma2` is the mean of the variances.
        spread: 1/θ, the variance of the variances in units of their squared mean; 0 is Marchenko–Pastur noise.
        long_side: whether the variances are those of the longer side.
    """

    fit: BulkFit
    spread: float
    long_side: bool


@dataclass(frozen=True)
class _Table:
    """Quantiles of the ranks of a window for noise of mean variance 1, over 1/θ."""

    at: CubicSpline
    long_side: bool

    def loss(self, spread: float, middle: FloatArray) -> tuple[float, float]:
        """Sum of squares that the best variance leaves, and that variance."""
        q = self.at(spread)
        sigma2 = float(q @ middle / (q @ q))
        return float(np.square(middle - sigma2 * q).sum()), sigma2

    def best(self, middle: FloatArray) -> tuple[float, float, float]:
        """The least loss, its variance and its 1/θ."""
        from scipy.optimize import minimize_scalar

        coarse = np.linspace(0.0, LARGEST_SPREAD, 61)
        place = int(np.argmin([self.loss(spread, middle)[0] for spread in coarse]))
        around = coarse[max(place - 1, 0)], coarse[min(place + 1, coarse.size - 1)]
        refined = minimize_scalar(lambda spread: self.loss(spread, middle)[0], bounds=around, method="bounded")
        return min((*self.loss(spread, middle), spread) for spread in (float(coarse[place]), float(refined.x)))


def fit_gamma_noise(eigenvalues: ArrayLike, n: int, *, alpha: float = 0.25, beta: float = 0.1) -> GammaNoise:
    """Fit noise of gamma-distributed variances to the middle of a spectrum and find the spikes above its edge.

    Args:
        eigenvalues: the p eigenvalues s²/n of one layer, any order, p ≤ n.
        n: the larger side of the matrix.
        alpha: share of the ranks left out at either end, in (0, ½).
        beta: the chance that the largest noise eigenvalue passes the edge, in (0, 1).

    Raises:
        DegenerateSpectrumError: the bulk is zero (a matrix of low rank).
        ValueError: as `fit_bulk`.
    """
    spectrum = np.sort(np.asarray(eigenvalues, dtype=np.float64))
    plain = fit_bulk(spectrum, n, alpha=alpha, beta=beta)
    p, first, last = plain.p, *plain.window
    middle = spectrum[first - 1 : last]
    found = [(*table.best(middle), table.long_side) for table in _tables(p, n, first, last)]
    _, sigma2, spread, long_side = min(found)
    if spread == 0.0:
        return GammaNoise(plain, 0.0, long_side)
    lambda_plus = sigma2 * gamma_edge(spread, p, n, beta, long_side=long_side)
    law = _law(spread, p, n, long_side)
    rank = np.arange(first, last + 1)
    level = np.interp(middle / sigma2, law[1], law[0])
    fit = replace(
        plain,
        sigma2=sigma2,
        lambda_plus=lambda_plus,
        edge=float(np.sqrt(n * lambda_plus)),
        spikes=int(p - np.searchsorted(spectrum, lambda_plus, side="right")),
        gof=float(np.maximum(np.abs(level - rank / p), np.abs(level - (rank - 1) / p)).max()),
    )
    return GammaNoise(fit, spread, long_side)


def gamma_edge(spread: float, p: int, n: int, beta: float, *, long_side: bool = False) -> float:
    """The λ that the largest eigenvalue s²/n of noise of mean variance 1 stays below with probability 1 − β.

    Args:
        spread: 1/θ > 0.
        p: smaller side.
        n: larger side.
        beta: the probability above.
        long_side: whether the variances are those of the larger side.
    """
    count, samples = (n, p) if long_side else (p, n)
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    # The largest of K uniform numbers is at most u with probability u^K; the rest are spread evenly below it.
    largest = ((nodes + 1) / 2) ** (1 / count)
    below = (np.arange(count - 1) + 0.5) / (count - 1)
    levels = np.concatenate([largest[:, None] * below, largest[:, None]], axis=1)
    centre, scale = silverstein.largest_eigenvalue(_variances(spread, levels), samples)

    def excess(point: float) -> float:
        return float(weights @ tracy_widom.near_cdf((point - centre) / scale)) / 2 - (1 - beta)

    low, high = float((centre - 8 * scale).min()), float((centre + 12 * scale).max())
    from scipy.optimize import brentq

    # Eigenvalues of XᵀX/N with N = p for the longer side: s²/n is smaller by p/n.
    return float(brentq(excess, low, high, xtol=1e-5)) * samples / n


def _variances(spread: float, levels: FloatArray) -> FloatArray:
    from scipy.special import gammaincinv

    return np.asarray(gammaincinv(1 / spread, levels) * spread)


@lru_cache(maxsize=64)
def _tables(p: int, n: int, first: int, last: int) -> tuple[_Table, ...]:
    from scipy.interpolate import CubicSpline

    u = (np.arange(first, last + 1) - 0.5) / p
    equal = marchenko_pastur.quantile(u, p / n)
    tables = []
    for long_side in (False, True) if p < n else (False,):
        rows = [equal]
        for spread in _SPREADS[1:]:
            levels, points = _law(float(spread), p, n, long_side)
            rows.append(np.interp(u, levels, points))
        tables.append(_Table(CubicSpline(_SPREADS, np.array(rows)), long_side))
    return tuple(tables)


@lru_cache(maxsize=1024)
def _law(spread: float, p: int, n: int, long_side: bool) -> tuple[FloatArray, FloatArray]:
    """The distribution of s²/n as two rising arrays: probabilities, and the points that have them."""
    variances = _variances(spread, (np.arange(_VARIANCES) + 0.5) / _VARIANCES)
    levels = np.linspace(0.002, 0.998, 499)
    count, samples = (n, p) if long_side else (p, n)
    return levels, silverstein.quantiles(levels, variances, count / samples) * samples / n
