r"""Eigenvalues of noise whose rows have variances of their own: the Silverstein equation.

Let X = D^½Z, Z (K × N) of independent standard normal entries and D = diag(t), and look at the N × N matrix XᵀX/N.
Its Stieltjes transform m(z) solves (Silverstein, J. Multivar. Anal. 55, 1995)

    z = −1/m + c·avg_j t_j / (1 + t_j m),   c = K/N,

Written for u = −1/m it gives z without solving anything, z = u·(1 + c·avg t_j/(u − t_j)), and the spectrum where z
is real. With u = ξ + iy that is where y = 0 or

    c·avg t_j²/((ξ − t_j)² + y²) = 1,

which has one solution y² for each ξ of the support: the spectrum is a curve over ξ, along which z rises (so Ledoit
and Wolf compute it, J. Multivar. Anal. 139, 2015). The distribution function has a closed form there, since z(m)
has an antiderivative: π·F = z·Im m + arg m − c·avg arg(1 + t_j m).

The largest eigenvalue follows, on the scale N^(−2/3), the Tracy–Widom law of centre and scale (El Karoui, Ann.
Probab. 35, 2007)

    μ = 1/x·(1 + c·avg t_j x/(1 − t_j x)),   σ³ = 1/x³·(1 + c·avg (t_j x/(1 − t_j x))³),

x in (0, 1/max t) the solution of c·avg (t_j x/(1 − t_j x))² = 1. A variance that stands out takes the edge with it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rmt_compress.spectrum.marchenko_pastur import FloatArray

# Newton steps for y²; ten do.
_MOST_STEPS = 60


def distribution(variances: FloatArray, ratio: float, *, points: int = 192) -> tuple[FloatArray, FloatArray]:
    """Distribution function of the eigenvalues of XᵀX/N, N of them, of which max(0, N − K) are zero.

    Args:
        variances: t (K,), positive; a law is given by so many of its quantiles.
        ratio: c = K/N.
        points: of the curve, beside some at and between variances that lie apart.

    Returns:
        Rising points of the spectrum above 0, and the share of the eigenvalues up to each.
    """
    x, level, _ = curve(variances, ratio, points=points)
    return x, level


def curve(
    variances: FloatArray, ratio: float, *, points: int = 192
) -> tuple[FloatArray, FloatArray, NDArray[np.complex128]]:
    """`distribution`, and u = −1/m just above each of its points.

    Returns:
        Rising points of the spectrum above 0, the share of the eigenvalues up to each, and u there.
    """
    t = np.unique(variances)
    weight = ratio * np.bincount(np.searchsorted(t, variances)) / variances.size
    low, high = _ends(t, weight)
    angles = (np.arange(points) + 0.5) * np.pi / points
    over = 0.5 * (low + high) - 0.5 * (high - low) * np.cos(angles)
    # Where variances lie so far apart that each may have a bulk of its own a grid would miss it.
    apart = np.diff(t) > t[1:] * np.sqrt(weight[1:])
    xi = np.unique(np.concatenate([over, t[1:][apart], t[:-1][apart], 0.5 * (t[1:] + t[:-1])[apart]]))
    gap = xi[:, None] - t
    y2 = _heights(gap**2, weight * t**2)
    # Re z of z = u + c·avg(t + t²/(u − t)).
    x = xi + weight @ t + (gap / (gap**2 + y2[:, None])) @ (weight * t**2)
    y = np.sqrt(y2)
    angle = np.arctan2(y, xi)
    # arg m = π − arg u and arg(1 + t·m) = arg(u − t) − arg u.
    level = 1 + (x * y / (xi**2 + y2) - angle - (np.arctan2(y[:, None], gap) - angle[:, None]) @ weight) / np.pi
    return x, level, xi + 1j * y


def _ends(t: FloatArray, weight: FloatArray) -> tuple[float, float]:
    """Between which ξ the spectrum lies: where c·avg t²/(ξ − t)² falls to 1 outside of the variances."""
    reach = np.sqrt(weight.sum()) * t[-1]

    def end(inner: float, outer: float) -> float:
        for _ in range(60):
            middle = 0.5 * (inner + outer)
            if float(weight @ (t / (middle - t)) ** 2) > 1:
                inner = middle
            else:
                outer = middle
        return outer

    return end(t[0] - 1e-12 * t[0], t[0] - reach), end(t[-1] * (1 + 1e-12), t[-1] + reach)


def _heights(squares: FloatArray, weight: FloatArray) -> FloatArray:
    """The y² ≥ 0 with Σ weight/(squares + y²) = 1, one for each row; 0 where the sum is below 1 at 0 already.

    One over the sum rises with y² and is concave: Newton's steps from below a root never pass it.
    """
    # No term alone is above 1.
    y2 = np.maximum((weight - squares).max(1), 0.0)
    # At a variance of no weight the sum has no value at 0.
    tiny = np.finfo(np.float64).tiny
    for _ in range(_MOST_STEPS):
        terms = 1 / np.maximum(squares + y2[:, None], tiny)
        total = terms @ weight
        step = np.maximum((total - 1) * total / ((terms**2) @ weight), 0.0)
        y2 = y2 + step
        if (step <= 1e-10 * y2).all():
            break
    return np.asarray(y2)


def quantiles(u: FloatArray, variances: FloatArray, ratio: float, *, points: int = 192) -> FloatArray:
    """Quantiles of the eigenvalues of XᵀX/N that are not zero by counting, min(K, N) of them.

    Args:
        u: probabilities in (0, 1).
        variances: t (K,), positive.
        ratio: c = K/N.
        points: as of `distribution`.
    """
    x, level = distribution(variances, ratio, points=points)
    zeros = max(0.0, 1 - ratio)
    # Over √x, in which the quantiles of square matrices begin with a straight line.
    return np.asarray(np.interp(u, (level - zeros) / (1 - zeros), np.sqrt(np.maximum(x, 0.0))) ** 2)


def largest_eigenvalue(variances: FloatArray, samples: float) -> tuple[FloatArray, FloatArray]:
    """Centre and scale of the Tracy–Widom law of the largest eigenvalue of XᵀX/N.

    The counts are taken a half smaller, as Ma's second-order correction has them for equal variances (Bernoulli 18,
    2012).

    Args:
        variances: t (…, K), positive; one law for each row.
        samples: N.

    Returns:
        Centre and scale, each (…).
    """
    centre, scale, _ = edge(variances, samples)
    return centre, scale


def edge(variances: FloatArray, samples: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """`largest_eigenvalue`, and the x = −m at the edge that both follow from, each (…)."""
    shorter = samples - 0.5
    ratio = (variances.shape[-1] - 0.5) / shorter
    low, high = np.zeros(variances.shape[:-1]), (1 - 1e-13) / variances.max(-1)
    for _ in range(60):
        x = 0.5 * (low + high)
        filtered = variances * x[..., None]
        above = ratio * ((filtered / (1 - filtered)) ** 2).mean(-1) > 1
        low, high = np.where(above, low, x), np.where(above, x, high)
    filtered = variances * x[..., None]
    filtered = filtered / (1 - filtered)
    centre = (1 + ratio * filtered.mean(-1)) / x * shorter / samples
    scale = np.cbrt(1 + ratio * (filtered**3).mean(-1)) / x * np.cbrt(shorter) / samples
    return centre, scale, x
