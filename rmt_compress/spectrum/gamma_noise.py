"""General BEMA: noise whose rows, or columns, have gamma-distributed variances (KML21, the general spiked model).

The variances are σ²·g, g gamma-distributed of mean 1 and variance 1/θ; at θ = ∞ the noise is Marchenko–Pastur. As
in BEMA the middle eigenvalues are matched to the law's quantiles by least squares, σ² in closed form and θ by
search. KML21 simulate the quantiles and the edge; here both follow from the Silverstein equation
(`rmt_compress.spectrum.silverstein`): quantiles from its density, and the edge with the chance that is in σ̂² and θ̂
(`rmt_compress.spectrum.gamma_edge`). Where the edge takes both for known, as the published one does, twice as many
draws of 50 × 50 pass it as should.

The variances may be those of the shorter or of the longer side. The eigenvalues hardly tell which, as long as 1/θ
is small: of draws of 100 × 1000 at 1/θ = 0.1 four in ten fit better as the wrong one. The entries do: the lengths
of the rows, or of the columns, differ by more than chance (`uneven_side`); where neither do there is nothing to
fit, and the noise is Marchenko–Pastur. Without the matrix, or where strong spikes make both sides uneven, the one
that fits better is taken. How often noise of this kind passes the edge is measured in docs/statistics.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rmt_compress.spectrum import marchenko_pastur, silverstein
from rmt_compress.spectrum.bulk import BulkFit, fit_bulk
from rmt_compress.spectrum.gamma_edge import LEAST_SPREAD, Size, Window, gamma_edge, gamma_law
from rmt_compress.spectrum.marchenko_pastur import FloatArray

if TYPE_CHECKING:
    from scipy.interpolate import CubicSpline

Side = Literal["short", "long", "none", "either"]
"""Whose variances differ, as far as that can be told."""

# 1/θ, the squared coefficient of variation of the variances, up to beyond the exponential law's 1.
LARGEST_SPREAD = 1.5
_SPREADS = LARGEST_SPREAD * np.linspace(0.0, 1.0, 13) ** 2
# Lengths of rows or columns that chance makes as uneven once in so many matrices do not count.
_BY_CHANCE = 0.01
# Entries that are squared at a time.
_ENTRIES_TOGETHER = 2**15
# Ranks of the window that stand for all of them where the chance in the fit is computed.
_RANKS = 96


@dataclass(frozen=True)
class GammaNoise:
    """Noise fitted to one spectrum.

    Attributes:
        fit: bulk, edge and spikes as of the Marchenko–Pastur law; `sigma2` is the mean of the variances.
        spread: 1/θ, the variance of the variances in units of their squared mean; 0 is Marchenko–Pastur noise.
        side: whose variances they are, short or long; ``none`` where none differ.
    """

    fit: BulkFit
    spread: float
    side: Side

    @property
    def long_side(self) -> bool:
        """Whether the variances are those of the longer side."""
        return self.side == "long"


@dataclass(frozen=True)
class _Table:
    """Quantiles of the ranks of a window for noise of mean variance 1, over 1/θ."""

    at: CubicSpline
    side: Side

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

    def window(self, spread: float) -> Window:
        """How the quantiles depend on σ² and 1/θ, at some ranks for all."""
        q, slopes = self.at(spread), self.at(spread, 1)
        kept = min(q.size, _RANKS)
        places, ranks = (np.arange(kept) + 0.5) / kept * q.size - 0.5, np.arange(q.size)
        return Window(np.interp(places, ranks, q), np.interp(places, ranks, slopes), q.size / kept)


def uneven_side(matrix: NDArray[Any]) -> Side:
    """Whether the entries of a matrix have another variance from row to row, or from column to column.

    The squared lengths of the rows of even noise have n times the variance of a squared entry, whatever the law of
    the entries; the sum of their squared deviations in that unit is nearly χ². Rows of gamma variances exceed it by
    n/(θ(2 + 3/θ)), and leave the columns within it. Strong spikes make both uneven, and then it is ``either``.

    Args:
        matrix: (rows, columns), finite.
    """
    from scipy.special import chdtrc

    rows, columns, variance = _squares(matrix)
    found: list[Side] = []
    for lengths in (columns, rows):
        if lengths.size > 1 and variance > 0:
            entries = matrix.size // lengths.size
            total = float(np.square(lengths - lengths.mean()).sum()) / (entries * variance)
            if chdtrc(lengths.size - 1, total) < _BY_CHANCE / 2:
                found.append("long" if lengths.size > min(matrix.shape) else "short")
    if len(found) == 2:
        return "either"
    return found[0] if found else "none"


def _squares(matrix: NDArray[Any]) -> tuple[FloatArray, FloatArray, float]:
    """Sums of the squared entries in each row and column, up to one number for all, and their variance.

    In units of the largest entry, and as differences from the first square, so that no digit is lost to their mean;
    some rows at a time, which stay in the cache.
    """
    if matrix.strides[0] < matrix.strides[1]:
        columns, rows, variance = _squares(matrix.T)
        return rows, columns, variance
    m, n = matrix.shape
    largest = max(float(matrix.max()), -float(matrix.min())) or 1.0
    first = (float(matrix[0, 0]) / largest) ** 2
    together = max(1, _ENTRIES_TOGETHER // n)
    buffer, ones = np.empty((together, n)), np.ones(max(n, together))
    rows, columns, squared = np.empty(m), np.zeros(n), 0.0
    for start in range(0, m, together):
        some = buffer[: min(together, m - start)]
        np.divide(matrix[start : start + together], largest, out=some, dtype=np.float64)
        np.square(some, out=some)
        some -= first
        rows[start : start + together] = some @ ones[:n]
        columns += ones[: len(some)] @ some
        squared += float(np.vdot(some, some))
    return rows, columns, max(0.0, squared / matrix.size - (rows.sum() / matrix.size) ** 2)


def fit_gamma_noise(
    eigenvalues: ArrayLike, n: int, *, alpha: float = 0.25, beta: float = 0.1, side: Side = "either"
) -> GammaNoise:
    """Fit noise of gamma-distributed variances to the middle of a spectrum and find the spikes above its edge.

    Args:
        eigenvalues: the p eigenvalues s²/n of one layer, any order, p ≤ n.
        n: the larger side of the matrix.
        alpha: share of the ranks left out at either end, in (0, ½).
        beta: the chance that the largest noise eigenvalue passes the edge, in (0, 1).
        side: whose variances differ, as `uneven_side` tells; of ``either`` the one that fits better is taken.

    Raises:
        DegenerateSpectrumError: the bulk is zero (a matrix of low rank).
        ValueError: as `fit_bulk`.
    """
    spectrum = np.sort(np.asarray(eigenvalues, dtype=np.float64))
    plain = fit_bulk(spectrum, n, alpha=alpha, beta=beta)
    p, first, last = plain.p, *plain.window
    middle = spectrum[first - 1 : last]
    if side == "none":
        return GammaNoise(plain, 0.0, side)
    tables = [table for table in _tables(p, n, first, last) if side in ("either", table.side) or p == n]
    (_, sigma2, spread), table = min(((each.best(middle), each) for each in tables), key=lambda one: one[0])
    size, told = Size(p, n, table.side == "long"), max(spread, LEAST_SPREAD)
    lambda_plus = sigma2 * gamma_edge(told, size, beta, table.window(told))
    law = _law(told, size)
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
    return GammaNoise(fit, spread, table.side)


@lru_cache(maxsize=64)
def _tables(p: int, n: int, first: int, last: int) -> tuple[_Table, ...]:
    from scipy.interpolate import CubicSpline

    u = (np.arange(first, last + 1) - 0.5) / p
    equal = marchenko_pastur.quantile(u, p / n)
    tables = []
    sides: tuple[Side, ...] = ("short", "long") if p < n else ("short",)
    for side in sides:
        rows = [equal]
        for spread in _SPREADS[1:]:
            levels, points = _law(float(spread), Size(p, n, side == "long"))
            rows.append(np.interp(u, levels, points))
        tables.append(_Table(CubicSpline(_SPREADS, np.array(rows)), side))
    return tuple(tables)


@lru_cache(maxsize=1024)
def _law(spread: float, size: Size) -> tuple[FloatArray, FloatArray]:
    """The distribution of s²/n as two rising arrays: probabilities, and the points that have them."""
    levels = np.linspace(0.002, 0.998, 499)
    points = silverstein.quantiles(levels, gamma_law(spread), size.count / size.samples)
    return levels, points * size.unit
