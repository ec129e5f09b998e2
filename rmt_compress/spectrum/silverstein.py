r"""Eigenvalues of noise whose rows have variances of their own: the Silverstein equation.

Let X = D^½Z, Z (K × N) of independent standard normal entries and D = diag(t), and look at the N × N matrix XᵀX/N.
Its Stieltjes transform m(z) solves (Silverstein, J. Multivar. Anal. 55, 1995)

    z = −1/m + c·avg_j t_j / (1 + t_j m),   c = K/N,

and its largest eigenvalue follows, on the scale N^(−2/3), the Tracy–Widom law of centre and scale (El Karoui, Ann.
Probab. 35, 2007)

    μ = 1/x·(1 + c·avg t_j x/(1 − t_j x)),   σ³ = 1/x³·(1 + c·avg (t_j x/(1 − t_j x))³),

x in (0, 1/max t) the solution of c·avg (t_j x/(1 − t_j x))² = 1. A variance that stands out takes the edge with it.
"""

from __future__ import annotations

import numpy as np

from rmt_compress.spectrum.marchenko_pastur import FloatArray

# The imaginary part at which a density is read off, as a share of the spectrum's upper end.
_HEIGHT = 1e-6


def density(x: FloatArray, variances: FloatArray, ratio: float) -> FloatArray:
    """Density of the eigenvalues of XᵀX/N at `x` > 0; where N > K it integrates to K/N.

    Args:
        x: points (g,), positive.
        variances: t (K,), positive; a law is given by so many of its quantiles.
        ratio: c = K/N.
    """
    top = float(variances.max()) * (1 + np.sqrt(ratio)) ** 2
    m: np.ndarray[tuple[int], np.dtype[np.complex128]] = -1 / (x + 1j * top)
    for height in top * np.geomspace(1.0, _HEIGHT, 14):
        for _ in range(12):
            filtered = variances / (1 + m[:, None] * variances)
            gap = -1 / m + ratio * filtered.mean(1) - (x + 1j * height)
            step = gap / (1 / m**2 - ratio * (filtered**2).mean(1))
            # The solution is the one in the upper half plane: a step that would leave it goes half of the way
            # there.
            low = m.imag - step.imag <= 0
            m = m - np.where(low, step * np.minimum(1.0, 0.5 * m.imag / np.where(low, step.imag, 1.0)), step)
            if np.abs(step).max() <= 1e-7 * np.abs(m).max():
                break
    # Where N > K the transform has a pole at 0, whose foot is no part of the density.
    foot = max(1 - ratio, 0.0) * height / (x**2 + height**2)
    return np.asarray(np.maximum(m.imag - foot, 0.0) / np.pi)


def quantiles(u: FloatArray, variances: FloatArray, ratio: float, *, points: int = 192) -> FloatArray:
    """Quantiles of the eigenvalues of XᵀX/N that are not zero by counting, min(K, N) of them.

    Args:
        u: probabilities in (0, 1).
        variances: t (K,), positive.
        ratio: c = K/N.
        points: of the grid on which the density is integrated.
    """
    top, root = float(variances.max()) * (1 + np.sqrt(ratio)) ** 2, np.sqrt(ratio)
    least = float(variances.min()) * (1 - root) ** 2
    # Half of the points where the eigenvalues of equal variances are, more towards zero, half up to the upper end.
    usual = float(variances.mean()) * (1 + root) ** 2
    near = usual * np.sin(np.linspace(0.0, np.pi / 2, points // 2 + 1)[1:]) ** 2
    x = np.unique(np.concatenate([near, np.geomspace(max(0.9 * least, 1e-5 * top), top, points // 2)]))
    # Integrated over √x, where a density like 1/√x at 0, that of square matrices, has no pole.
    s = np.sqrt(x)
    mass = density(x, variances, ratio) * s
    steps = np.concatenate([[mass[0] * s[0]], 0.5 * (mass[1:] + mass[:-1]) * np.diff(s)])
    total = np.cumsum(steps) if least < x[0] else np.cumsum(steps) - steps[0]
    return np.asarray(np.interp(u, total / total[-1], s) ** 2)


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
    return centre, scale
