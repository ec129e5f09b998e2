"""The bulk of a spectrum: its variance, its upper edge, the spikes above it, and how well it fits.

BEMA (KML21; SJK23 §3.3; BSSZ24 §9.1) matches the middle eigenvalues λ₍k₎, αp ≤ k ≤ (1−α)p, to the
Marchenko–Pastur quantiles q_k by least squares, σ̂² = Σ q_k λ₍k₎ / Σ q_k², and puts the edge where the largest
eigenvalue of pure noise of that variance stays with probability 1 − β.

Two rules share that outline (`quantiles=`):

``paper``
    The published one: q_k at k/p, λ₊ = σ̂²·[(1+√c)² + t·n^(−2/3)·c^(−1/6)·(1+√c)^(4/3)], t the (1−β) quantile of
    Tracy–Widom. On noise of layer size its error rate is up to twice β, or more (docs/statistics.md).

``midpoint`` (default)
    q_k at (k−½)/p, and an edge that knows three things the published one leaves out, each in closed form:

    1. Ma's second-order centring and scaling of the largest eigenvalue (Bernoulli 18, 2012),
       μ = (√(n−½) + √(p−½))², τ = √μ·(1/√(n−½) + 1/√(p−½))^(1/3);
    2. σ̂² is biased by a known amount b: it is a linear statistic Σφ(λᵢ), φ(x) = x²/2 stopped at the two ends of
       the window, whose mean is off by (φ(a)+φ(b))/4 − ½·avg_θ φ for real Gaussian noise (Bai and Silverstein,
       Ann. Probab. 32, 2004);
    3. σ̂² is itself random. With φ = Σ a_k cos kθ its variance is ½Σ k·a_k² (same source), and its covariance with
       the largest eigenvalue follows from how the edge of the equilibrium measure moves when the weight
       exp(−εΣφ) tilts the ensemble, (2b/n)·(1/π)∫φ′(x)(1−cos θ)dθ. The ratio λ_max/σ̂² therefore spreads more
       than Tracy–Widom by a factor ω, and

           λ₊ = σ̂²/(1+b) · (μ + [m + ω·(t−m)]·τ) / n,   m the Tracy–Widom mean.

    The measured error rate stays within ±0.02 of β (docs/statistics.md).

``spiked``
    `midpoint` with the spikes left out of the ranks. Spikes sit at the upper end and shift every rank of the noise
    below them, so that σ̂² comes out high: by a tenth where one direction of ten is a spike, a third at three of
    ten. k spikes removed, the other singular values are those of noise of a size smaller by k on both sides; so the
    fit is repeated for p − k eigenvalues of a (p − k) × (n − k) matrix until no more spikes are found. On pure
    noise nothing changes but the size of what is found beside a false spike. Where more than half of the directions
    come out as spikes there is no bulk to count in, and the first fit stands.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from rmt_compress.spectrum import marchenko_pastur, tracy_widom
from rmt_compress.spectrum.marchenko_pastur import FloatArray

QuantileRule = Literal["spiked", "midpoint", "paper"]
QUANTILE_RULES: tuple[QuantileRule, ...] = get_args(QuantileRule)


# With more spikes than this share of the directions the rest is no bulk.
MOST_SPIKES = 0.5


# Of the terms p^(−1/3)·(1, √c, c, p^(−1/3)), see `equalized_law`.
_EQUALIZED_SHIFT = np.array([0.842, 0.037, 4.783, -6.745])
_EQUALIZED_SPREAD = np.array([-0.550, -0.091, 0.774, 1.594])


class DegenerateSpectrumError(ValueError):
    """The bulk of a spectrum is exactly or numerically zero: there is no noise to fit."""


@dataclass(frozen=True)
class BulkFit:
    """The fitted bulk of one spectrum of p eigenvalues λ = s²/n.

    Attributes:
        p: number of eigenvalues, the smaller side of the matrix.
        n: the larger side of the matrix.
        window: first and last rank of the window, from 1, ascending eigenvalues, both included.
        sigma2: the noise variance σ̂², in squared units of a matrix entry.
        sigma2_error: relative standard error of σ̂² on pure noise.
        lambda_plus: the edge λ₊ on the scale of λ.
        edge: the edge s₊ = √(n·λ₊) on the scale of singular values.
        spikes: number of eigenvalues above λ₊.
        gof: Kolmogorov distance to the fitted law over the window (SJK23 §4.3, BSSZ24 §9.4).
        left_out: the largest eigenvalues that the ranks were counted without, because they are spikes.
    """

    p: int
    n: int
    window: tuple[int, int]
    sigma2: float
    sigma2_error: float
    lambda_plus: float
    edge: float
    spikes: int
    gof: float
    left_out: int = 0


@dataclass(frozen=True)
class _Asked:
    """The arguments of `fit_bulk` beside the spectrum."""

    n: int
    alpha: float
    beta: float
    quantiles: QuantileRule
    equalized: bool


@dataclass(frozen=True)
class _Window:
    """All that the fit needs and that depends on the size alone."""

    first: int
    last: int
    mp_quantiles: FloatArray
    bias: float
    error: float
    edge_covariance: float


def fit_bulk(
    eigenvalues: ArrayLike,
    n: int,
    *,
    alpha: float = 0.25,
    beta: float = 0.1,
    quantiles: QuantileRule = "midpoint",
    equalized: bool = False,
) -> BulkFit:
    """Fit the Marchenko–Pastur law to the middle of a spectrum and find the spikes above its edge.

    Args:
        eigenvalues: the p eigenvalues s²/n of one layer, any order, p ≤ n.
        n: the larger side of the matrix.
        alpha: share of the ranks left out at either end, in (0, ½).
        beta: the chance that the largest noise eigenvalue passes the edge, in (0, 1).
        quantiles: the rule, see the module.
        equalized: whether it is of a matrix whose scales were taken out, see `rmt_compress.spectrum.equalize`; the
            edge of every rule but ``paper`` is another then.

    Raises:
        DegenerateSpectrumError: the bulk is zero (a matrix of low rank).
        ValueError: p > n, an empty window, a NaN, or a parameter out of range.
    """
    spectrum = np.sort(np.asarray(eigenvalues, dtype=np.float64))
    p = spectrum.size
    if quantiles not in QUANTILE_RULES:
        raise ValueError(f"quantiles is one of {', '.join(QUANTILE_RULES)}, got {quantiles!r}")
    if not 0.0 < beta < 1.0:
        raise ValueError(f"beta lies in (0, 1), got {beta}")
    if not np.isfinite(spectrum).all():
        raise ValueError("the spectrum holds NaN or Inf")
    # Singular values below this are rounding of zeros (float64 SVD of a matrix of low rank).
    zero = spectrum[-1] * (p * np.finfo(np.float64).eps) ** 2 if p else 0.0
    asked = _Asked(int(n), float(alpha), float(beta), quantiles, equalized)
    first = fit = _fit_ranks(spectrum, 0, asked, zero)
    while quantiles == "spiked" and fit.spikes > fit.left_out:
        if fit.spikes > MOST_SPIKES * p:
            return first
        try:
            fit = _fit_ranks(spectrum, fit.spikes, asked, zero)
        except ValueError:  # too few are left, or all of them are zero
            return first
    return fit


def _fit_ranks(spectrum: FloatArray, left_out: int, asked: _Asked, zero: float) -> BulkFit:
    """The fit of an ascending spectrum less its `left_out` largest, as noise of a size smaller by so many."""
    p, n = spectrum.size, asked.n
    window = _window(p - left_out, n - left_out, asked.alpha, asked.quantiles)
    q = window.mp_quantiles
    middle = spectrum[window.first - 1 : window.last]
    if middle[0] <= zero:
        rank = int(np.sum(spectrum > zero))
        raise DegenerateSpectrumError(f"the matrix has rank {rank} of {p}: its bulk is zero, there is no noise")
    # Eigenvalues are s²/n of the whole matrix, and quantiles those of s²/(n − left_out).
    scale = (n - left_out) / n
    sigma2 = float(q @ middle / (q @ q)) / scale
    lambda_plus = scale * sigma2 * _edge_of_unit_noise(p - left_out, n - left_out, asked, window)
    return BulkFit(
        p=p,
        n=n,
        window=(window.first, window.last),
        sigma2=sigma2,
        sigma2_error=window.error,
        lambda_plus=lambda_plus,
        edge=float(np.sqrt(n * lambda_plus)),
        spikes=int(p - np.searchsorted(spectrum, lambda_plus, side="right")),
        gof=_fit_error(middle / (sigma2 * scale), window.first, p - left_out, n - left_out),
        left_out=left_out,
    )


def _fit_error(middle: FloatArray, first: int, p: int, n: int) -> float:
    law = marchenko_pastur.cdf(middle, p / n)
    rank = np.arange(first, first + middle.size)
    return float(np.maximum(np.abs(law - rank / p), np.abs(law - (rank - 1) / p)).max())


def _edge_of_unit_noise(p: int, n: int, asked: _Asked, window: _Window) -> float:
    """λ₊/σ̂²."""
    root = np.sqrt(p / n)
    t = tracy_widom.quantile(1.0 - asked.beta)
    if asked.quantiles == "paper":
        # The exponent is 4/3; the published notebook computes (·)⁴/3.
        return float((1 + root) ** 2 + t * n ** (-2 / 3) * root ** (-1 / 3) * (1 + root) ** (4 / 3))
    long, short = np.sqrt(n - 0.5), np.sqrt(p - 0.5)
    centre = (long + short) ** 2
    scale = (long + short) * (1 / long + 1 / short) ** (1 / 3)
    extra = (window.error**2 - 2 * window.edge_covariance) * (centre / scale) ** 2 / tracy_widom.VARIANCE
    spread = np.sqrt(max(1.0 + extra, 0.0))
    shift, wider = equalized_law(p, n) if asked.equalized else (0.0, 1.0)
    t = tracy_widom.MEAN + shift + wider * spread * (t - tracy_widom.MEAN)
    return float((centre + t * scale) / n / (1.0 + window.bias))


def equalized_law(p: int, n: int) -> tuple[float, float]:
    """How the largest eigenvalue of equalized noise differs from that of noise that had one variance all along.

    Scales are read off the entries themselves, and what is read too much or too little of them spreads the spectrum
    of small matrices. Simulated and fitted by `experiments/equalized_edge.py` at α = ¼, for sizes of 32 to 400 and
    ratios up to 30: within .06 of what was simulated where that is known so well, .12 where few draws say it.

    Returns:
        The shift of λ_max/σ̂² in units of the Tracy–Widom law, and the factor by which it spreads more.
    """
    size, c = p ** (-1 / 3), p / n
    terms = size * np.array([1.0, np.sqrt(c), c, size])
    return float(terms @ _EQUALIZED_SHIFT), float(1.0 + terms @ _EQUALIZED_SPREAD)


@lru_cache(maxsize=512)
def _window(p: int, n: int, alpha: float, quantiles: QuantileRule) -> _Window:
    if not 0.0 < alpha < 0.5:
        raise ValueError(f"alpha lies in (0, 1/2), got {alpha}")
    if not 0 < p <= n:
        raise ValueError(f"a spectrum of a p × n matrix has p ≤ n eigenvalues, got p = {p}, n = {n}")
    # The slack keeps αp from being pushed past a whole number by rounding (0.05·60 = 3.0000000000000004).
    first = max(1, int(np.ceil(alpha * p - 1e-9)))
    last = int(np.floor((1 - alpha) * p + 1e-9))
    if last - first < 1:
        raise ValueError(f"with alpha = {alpha} and {p} eigenvalues fewer than two are left to fit")
    rank = np.arange(first, last + 1)
    q = marchenko_pastur.quantile((rank if quantiles == "paper" else rank - 0.5) / p, p / n)
    bias, variance, covariance = _moments_of_sigma2(p, n, (first - 1) / p, last / p)
    weight = float(q @ q)
    return _Window(first, last, q, bias / weight, float(np.sqrt(variance)) / weight, covariance / weight)


def _moments_of_sigma2(p: int, n: int, low: float, high: float) -> tuple[float, float, float]:
    """Bias and variance of Σq_kλ₍k₎, and its covariance with λ_max over b, on noise of unit variance.

    All of them belong to the linear statistic φ(x) = x²/2 stopped outside the window [x_low, x_high]; with
    x = m − h·cos θ, m = 1 + c, h = 2√c, its Chebyshev coefficients and integrals are elementary.
    """
    c = p / n
    middle, half = 1 + c, 2 * np.sqrt(c)
    ends = marchenko_pastur.quantile(np.array([low, high]), c)
    start, stop = np.arccos(np.clip((middle - ends) / half, -1.0, 1.0))

    def sines(j: int, k: FloatArray) -> FloatArray:
        """∫ sin jθ·sin kθ dθ over the window; the difference term tends to its width at k = j."""
        width = 0.5 * (stop - start)
        difference = width * np.sinc((k - j) * width / np.pi) * np.cos((k - j) * 0.5 * (start + stop))
        total = (np.sin((k + j) * stop) - np.sin((k + j) * start)) / (2 * (k + j))
        return np.asarray(difference - total)

    k = np.arange(1.0, 1001.0)  # the terms fall as k⁻³: the rest is below 1e-6 of the sum
    coefficients = -2 / (np.pi * k) * (middle * half * sines(1, k) - half**2 / 2 * sines(2, k))
    variance = 0.5 * float(np.sum(k * coefficients**2))

    def integral(f: tuple[float, float, float]) -> float:
        """∫ (f₀ + f₁·cos θ + f₂·cos²θ) dθ over the window."""
        constant, first, second = f
        return float(
            (constant + second / 2) * (stop - start)
            + first * (np.sin(stop) - np.sin(start))
            + second / 4 * (np.sin(2 * stop) - np.sin(2 * start))
        )

    below, above = 0.5 * ends**2
    average = (below * start + above * (np.pi - stop)) / np.pi
    average += integral((middle**2 / 2, -middle * half, half**2 / 2)) / np.pi
    bias = (below + above) / 4 - average / 2
    # φ′(x)(1 − cos θ) with φ′ = x = m − h·cos θ inside the window.
    shift = integral((middle, -(middle + half), half)) / np.pi
    return float(bias), variance, 2 / n * shift
