r"""The edge of noise with gamma-distributed variances: what its largest eigenvalue passes with probability β.

K variances t_j of the law σ²·gamma (mean 1, variance s = 1/θ), N samples of each. The largest eigenvalue λ is
random in three ways, and so is what it is compared with, σ̂²·E(ŝ), as both estimates are read off the same spectrum:

1. The largest variance, whose law is known: everything below is said for some values of it, and averaged.
2. The other variances. Each of them moves the centre of λ by t/(N(1 − tx)), x = −m at the edge, and the k-th
   eigenvalue by arg(1 + t·m(x_k))/(πν_k), ν_k the eigenvalues per unit at x_k: z is stationary in x at the edge,
   and the closed form of the distribution function is so in m everywhere (`rmt_compress.spectrum.silverstein`).
3. The entries. λ follows the Tracy–Widom law for given variances, as long as the largest does not stand out of the
   others. Where it does, D = 1 − Σ t_j²/(t − t_j)²/N > 0 over the others, λ has the mean t(1 + Σ t_j/(t − t_j)/N)
   and the variance 2t²D/N (Bai and Yao, Ann. Inst. H. Poincaré 44, 2008); D near 0 is neither, and means and
   variances are mixed by D. The counts of eigenvalues below two points
   have the covariance ½π⁻²·log(1 + 4·Im m·Im m′/|m − m′|²) (Bai and Silverstein, Ann. Probab. 32, 2004), so that

       Cov(λ_k, λ_l) = log(…)/(2π²ν_kν_l),   Cov(λ, λ_k) = 2·Im m_k/(πN·ν_k·|m_k + x|²).

   The diagonal is the average over the eigenvalue's own place: the log of the distance has −3/2 there.

σ̂² and ŝ are linear in the eigenvalues of the window to first order, (δσ̂², δŝ) = (JᵀJ)⁻¹Jᵀδλ with J = [q, ∂q/∂s].
ŝ does not fall below 0; then σ̂² moves by as much as the best fit without it does. To first order λ passes when
log λ − δ log σ̂² − E′/E·δŝ passes log E, which gives E. Nothing of this is fitted to simulations; how often noise
passes it, and that the variances and covariances are those of simulated fits, is in docs/statistics.md and
`tests/spectrum/test_gamma_edge.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from rmt_compress.spectrum import silverstein, tracy_widom
from rmt_compress.spectrum.marchenko_pastur import FloatArray

# A gamma law is given to the Silverstein equation by so many of its quantiles.
_VARIANCES = 128
# More quantiles than this are read off a table of so many, to nine digits.
_TABLED = 400
# Nodes of the average over the largest variance, and over the chance in ŝ.
_NODES, _CHANCES = 8, 12
# Below this the gamma law is equal variances to all digits, and its quantiles are not computed any more.
LEAST_SPREAD = 2e-3
# E′/E is a difference of edges between spreads so far apart.
_APART = 0.02


@dataclass(frozen=True)
class Size:
    """Of which noise: p and n its sides, and which of them the variances belong to.

    Attributes:
        p: smaller side.
        n: larger side.
        long_side: whether the variances are those of the larger side.
    """

    p: int
    n: int
    long_side: bool = False

    @property
    def count(self) -> int:
        """K, the number of variances."""
        return self.n if self.long_side else self.p

    @property
    def samples(self) -> int:
        """N, the entries of each variance."""
        return self.p if self.long_side else self.n

    @property
    def unit(self) -> float:
        """What an eigenvalue of XᵀX/N is multiplied by to be s²/n."""
        return self.samples / self.n


@dataclass(frozen=True)
class Window:
    """How the model's quantiles in the window depend on its parameters, at ranks spread evenly over it.

    Attributes:
        quantiles: q of mean variance 1, as s²/n, ascending.
        slopes: ∂q/∂s.
        ranks: of the window for each of these.
    """

    quantiles: FloatArray
    slopes: FloatArray
    ranks: float


@dataclass(frozen=True)
class Estimates:
    """What (log σ̂², ŝ) owe to the entries and to each variance, to first order, mean variance 1.

    Attributes:
        entries: their covariance that is due to the entries, (2, 2).
        per_count: (2, M): what a move of the counts below M points, against it, moves them by.
        u: −1/m at these points.
        given_none: ∂ log σ̂²/∂ŝ as the fit would have it where ŝ is held.
    """

    entries: FloatArray
    per_count: FloatArray
    u: NDArray[np.complex128]
    given_none: float

    def of_variances(self, t: FloatArray) -> FloatArray:
        """What a variance of the size t (…,) adds, (2, …)."""
        angles = np.angle(self.u - t[..., None]) - np.angle(self.u)
        return np.moveaxis(angles @ self.per_count.T / np.pi, -1, 0)

    def with_edge(self, x: float, samples: int) -> FloatArray:
        """Their covariance with the largest eigenvalue of XᵀX/N that is due to the entries, (2,)."""
        m = -1 / self.u
        return np.asarray(self.per_count @ (m.imag / np.abs(m + x) ** 2) * 2 / (np.pi * samples))


@dataclass(frozen=True)
class _Edges:
    """The law of λ of XᵀX/N for some values of the largest variance.

    Attributes:
        weights: of these values, sum 1.
        largest: the values, (nodes,).
        others: some of the other variances for all of them, (nodes, few).
        count: of the other variances.
        middle: mean of λ.
        entries: its variance by the entries.
        x: −m at the edge.
        moved: λ, by each of `others`.
    """

    weights: FloatArray
    largest: FloatArray
    others: FloatArray
    count: int
    middle: FloatArray
    entries: FloatArray
    x: FloatArray
    moved: FloatArray

    @property
    def variance(self) -> FloatArray:
        """Of λ, by entries and by the other variances, (nodes,)."""
        return np.asarray(self.entries + self.count * self.moved.var(axis=1))

    def quantile(self, probability: float, shift: FloatArray, variance: FloatArray) -> float:
        """Of λ·exp(shift), the shifts (chances, nodes) averaged, and with another variance (nodes,)."""
        wide = np.sqrt(variance / tracy_widom.VARIANCE)
        middle = self.middle * np.exp(shift)
        chances = _chances()[1] if len(shift) > 1 else np.ones(1)

        def excess(point: float) -> float:
            law = tracy_widom.near_cdf((point - middle) / wide + tracy_widom.MEAN)
            return float(chances @ law @ self.weights) - probability

        from scipy.optimize import brentq

        low, high = float((middle - 12 * wide).min()), float((middle + 16 * wide).max())
        return float(brentq(excess, low, high, xtol=1e-6 * high))


def gamma_variances(spread: float, levels: FloatArray) -> FloatArray:
    """Quantiles of the gamma law of mean 1 and variance `spread` > 0."""
    from scipy.special import gammaincinv, logit

    if levels.size <= _TABLED:
        return np.asarray(gammaincinv(1 / spread, levels) * spread)
    from scipy.interpolate import CubicSpline
    from scipy.special import expit

    # Their logarithm is nearly straight at both ends of this scale, and bends evenly between.
    places = logit(levels)
    tabled = np.linspace(places.min(), places.max(), _TABLED)
    return np.asarray(np.exp(CubicSpline(tabled, np.log(gammaincinv(1 / spread, expit(tabled)) * spread))(places)))


def gamma_law(spread: float) -> FloatArray:
    """That law as so many variances of equal weight."""
    return gamma_variances(spread, (np.arange(_VARIANCES) + 0.5) / _VARIANCES)


def gamma_edge(spread: float, size: Size, beta: float, window: Window | None = None) -> float:
    """The λ that the largest eigenvalue s²/n of noise of mean variance 1 stays below with probability 1 − β.

    Args:
        spread: 1/θ.
        size: of the noise.
        beta: the probability above.
        window: what the mean variance and the spread are estimated from; None where both are known.
    """
    spread = max(spread, LEAST_SPREAD)
    edges = _edges(spread, size)
    if window is None:
        return edges.quantile(1 - beta, np.zeros((1, _NODES)), edges.variance) * size.unit
    lower, upper = max(spread - _APART - 0.1 * spread, LEAST_SPREAD), spread + _APART + 0.1 * spread
    slope = np.log(gamma_edge(upper, size, beta) / gamma_edge(lower, size, beta)) / (upper - lower)
    shift, variance = _compared(edges, estimates(spread, size, window), spread, slope, size.samples)
    return edges.quantile(1 - beta, shift, variance) * size.unit


def estimates(spread: float, size: Size, window: Window) -> Estimates:
    """What the estimates from a window are made of, at a spread of `LEAST_SPREAD` or more."""
    q, d = window.quantiles, window.slopes
    law = gamma_law(spread)
    x, _, u = silverstein.curve(law, size.count / size.samples)
    at = np.interp(q / size.unit, x, u.real) + 1j * np.interp(q / size.unit, x, u.imag)
    m = -1 / at
    height = 4 * m.imag[:, None] * m.imag
    apart = np.abs(m[:, None] - m) ** 2
    place = np.abs(np.gradient(m)) ** 2
    np.fill_diagonal(apart, place)
    logs = np.log1p(height / apart)
    logs[np.diag_indices_from(logs)] = np.log(m.imag**2 * 4 / place) + 3
    # The k-th eigenvalue moves against the count below it, by the distance of neighbours for one.
    per_count = np.linalg.pinv(np.stack([q, d], axis=1)) * np.gradient(q) / window.ranks
    return Estimates(per_count @ logs @ per_count.T / (2 * np.pi**2), per_count, at, -float(q @ d / (q @ q)))


def _compared(
    edges: _Edges, told: Estimates, spread: float, slope: float, samples: int
) -> tuple[FloatArray, FloatArray]:
    """Of λ compared with the estimates: the shift of its log (chances, nodes), and its variance (nodes,)."""
    each = told.of_variances(edges.others)
    means = edges.count * each.mean(axis=2) + told.of_variances(edges.largest)
    # Over all values of the largest variance the estimates are right.
    means -= (means @ edges.weights)[:, None]
    each = each - each.mean(axis=2, keepdims=True)
    moved = edges.moved - edges.moved.mean(axis=1, keepdims=True)
    z, _ = _chances()
    shift, variance = np.empty((z.size, _NODES)), np.empty(_NODES)
    for node in range(_NODES):
        middle = float(edges.middle[node])
        # Covariances of (log σ̂², ŝ) with each other, and with log λ.
        some = each[:, node] * edges.count / each.shape[2]
        own = some @ each[:, node].T + told.entries
        both = (some @ moved[node] + told.with_edge(float(edges.x[node]), samples)) / middle
        error = float(np.sqrt(own[1, 1]))
        # log λ − log σ̂² is a multiple of the chance in ŝ, and a rest.
        along = (both[1] - own[0, 1]) / error
        rest = float(edges.variance[node]) / middle**2 + own[0, 0] - 2 * both[0] - along**2
        free = means[1, node] + error * z
        held = np.maximum(free, -spread)
        shift[:, node] = along * z - means[0, node] - told.given_none * (held - free) - slope * held
        variance[node] = max(rest, 0.0) * middle**2
    return shift, variance


def _edges(spread: float, size: Size) -> _Edges:
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    count = size.count
    # The largest of K uniform numbers is at most u with probability u^K; the rest are spread evenly below it.
    largest = ((nodes + 1) / 2) ** (1 / count)
    below = (np.arange(count - 1) + 0.5) / (count - 1)
    levels = np.concatenate([largest[:, None] * below, largest[:, None]], axis=1)
    variances = gamma_variances(spread, levels)
    centre, scale, x = silverstein.edge(variances, size.samples)
    few = min(count - 1, _VARIANCES)
    others = variances[:, np.asarray((np.arange(few) + 0.5) / few * (count - 1), dtype=np.intp)]
    moved = others / (1 - others * x[:, None]) / size.samples
    top, below_it = variances[:, -1], variances[:, :-1]
    pole = below_it / (top[:, None] - below_it)
    alone = np.maximum(1 - np.square(pole).sum(axis=1) / size.samples, 0.0)
    middle = (1 - alone) * (centre + tracy_widom.MEAN * scale) + alone * top * (1 + pole.sum(axis=1) / size.samples)
    entries = (1 - alone) * scale**2 * tracy_widom.VARIANCE + alone * 2 * top**2 * alone / size.samples
    return _Edges(weights / 2, top, others, count - 1, middle, entries, x, moved)


@cache
def _chances() -> tuple[FloatArray, FloatArray]:
    """Nodes and weights of a standard normal number."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(_CHANCES)
    return nodes, weights / weights.sum()
