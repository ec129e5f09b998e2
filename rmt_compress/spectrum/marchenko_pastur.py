r"""The Marchenko–Pastur law (MP67): density, distribution function and quantiles.

An n × p matrix with independent entries of variance σ² has Gram eigenvalues λ = s²/n that, for large sizes, fill
σ²·[(1−√c)², (1+√c)²] with c = p/n ≤ 1. Everything here is for σ² = 1; other variances scale the argument.

We work with the angle θ ∈ [0, π] of x = 1 + c − 2√c·cos θ instead of x itself. There the law is smooth,

    dF/dθ = 2 sin²θ / (π·(1 + c − 2√c·cos θ)),

    F(θ) = [ 2√c·sin θ + (1+c)·θ − 2(1−c)·atan2((1+√c)·sin(θ/2), (1−√c)·cos(θ/2)) ] / (2πc),

which is the textbook formula with arcsines (shared method, §2) without their loss of digits near the two edges,
and valid at c = 1. Dividing by c loses digits when c is small; there the Fourier series of the same density,

    F(θ) = [ θ − sin(2θ)/2 + Σ_{k≥1} c^{k/2}·(sin kθ / k − sin (k+2)θ / (k+2)) ] / π,

converges within a few terms and loses none.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]

# At and below this ratio the Fourier series is used: 17 terms reach 1e-17 there, where the closed form would
# lose log10(1/c) ≥ 2 of its 16 digits.
_SERIES_RATIO = 0.01


def support(c: float) -> tuple[float, float]:
    """Edges (a, b) = ((1−√c)², (1+√c)²) of the law with ratio `c` and variance 1.

    Raises:
        ValueError: `c` is not in (0, 1].
    """
    root = np.sqrt(_checked_ratio(c))
    return float((1 - root) ** 2), float((1 + root) ** 2)


def pdf(x: ArrayLike, c: float) -> FloatArray:
    """Density √((b−x)(x−a)) / (2πcx) at `x` (any shape), 0 outside the support.

    Raises:
        ValueError: `c` is not in (0, 1].
    """
    a, b = support(c)
    x = np.asarray(x, dtype=np.float64)
    inside = (x > a) & (x < b)
    safe = np.where(inside, x, 1.0)
    density = np.sqrt(np.maximum((b - safe) * (safe - a), 0.0)) / (2 * np.pi * c * safe)
    return np.asarray(np.where(inside, density, 0.0))


def cdf(x: ArrayLike, c: float) -> FloatArray:
    """Distribution function at `x` (any shape): 0 below the support, 1 above it.

    Agrees with adaptive quadrature of the density to 1e-9 or better for every c in (0, 1].

    Raises:
        ValueError: `c` is not in (0, 1].
    """
    return _cdf_of_angle(_angle(np.asarray(x, dtype=np.float64), c), c)


def quantile(u: ArrayLike, c: float) -> FloatArray:
    """Inverse of `cdf` for a whole array of probabilities at once.

    A table of F brackets each root; Newton steps in the angle finish it, with bisection whenever a step would
    leave its bracket.

    Args:
        u: probabilities in [0, 1], any shape.
        c: ratio p/n in (0, 1].

    Returns:
        Points of the support, the shape of `u`.

    Raises:
        ValueError: `c` is not in (0, 1] or a probability is outside [0, 1].
    """
    probabilities = np.asarray(u, dtype=np.float64)
    _checked_ratio(c)
    if probabilities.size and not (probabilities.min() >= 0.0 and probabilities.max() <= 1.0):
        raise ValueError("probabilities lie in [0, 1]")
    level = probabilities.ravel()
    angles, levels = _table(float(c))
    upper = np.clip(np.searchsorted(levels, level, side="left"), 1, len(levels) - 1)
    low, high = angles[upper - 1], angles[upper]
    theta = np.interp(level, levels, angles)
    # The residual cannot fall below the rounding of F itself.
    tolerance = 1e-15 if c <= _SERIES_RATIO else 4e-16 / c + 4e-16
    active = np.arange(level.size)
    for _ in range(60):
        at = theta[active]
        error = _cdf_of_angle(at, c) - level[active]
        low[active] = np.where(error <= 0, at, low[active])
        high[active] = np.where(error >= 0, at, high[active])
        open_ = (np.abs(error) > tolerance) & (high[active] - low[active] > 1e-15)
        active, at, error = active[open_], at[open_], error[open_]
        if not active.size:
            break
        slope = 2 * np.sin(at) ** 2 / (np.pi * _point(at, c))
        newton = at - np.divide(error, slope, out=np.full_like(at, np.inf), where=slope > 0)
        inside = (newton > low[active]) & (newton < high[active])
        theta[active] = np.where(inside, newton, 0.5 * (low[active] + high[active]))
    return _point(theta, c).reshape(probabilities.shape)


def _checked_ratio(c: float) -> float:
    if not 0.0 < c <= 1.0:
        raise ValueError(f"the ratio c = p/n lies in (0, 1], got {c}")
    return c


def _angle(x: FloatArray, c: float) -> FloatArray:
    a, b = support(c)
    inside = np.clip(x, a, b)
    return 2.0 * np.arctan2(np.sqrt(inside - a), np.sqrt(b - inside))


def _point(theta: FloatArray, c: float) -> FloatArray:
    # (1−√c)² + 4√c·sin²(θ/2) keeps the digits that 1 + c − 2√c·cos θ loses at a lower edge near 0.
    root = np.sqrt(c)
    return np.asarray((1 - root) ** 2 + 4 * root * np.sin(theta / 2) ** 2)


def _cdf_of_angle(theta: FloatArray, c: float) -> FloatArray:
    root = float(np.sqrt(c))
    if c <= _SERIES_RATIO:
        total = theta - np.sin(2 * theta) / 2
        power = root
        k = 1
        while power > 1e-18:
            total = total + power * (np.sin(k * theta) / k - np.sin((k + 2) * theta) / (k + 2))
            power *= root
            k += 1
        return np.clip(total / np.pi, 0.0, 1.0)
    turn = np.arctan2((1 + root) * np.sin(theta / 2), (1 - root) * np.cos(theta / 2))
    value = (2 * root * np.sin(theta) + (1 + c) * theta - 2 * (1 - c) * turn) / (2 * np.pi * c)
    return np.clip(value, 0.0, 1.0)


@lru_cache(maxsize=256)
def _table(c: float) -> tuple[FloatArray, FloatArray]:
    # The density in θ has a feature of width 1−√c at θ = 0 as c → 1: half of the nodes are spaced evenly, half
    # geometrically towards 0.
    angles = np.sort(np.concatenate([np.linspace(0.0, np.pi, 257), np.geomspace(1e-8, np.pi, 128)[:-1]]))
    levels = np.maximum.accumulate(_cdf_of_angle(angles, c))
    levels[0], levels[-1] = 0.0, 1.0
    return angles, levels
