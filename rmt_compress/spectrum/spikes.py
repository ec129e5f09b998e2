"""What a singular value above the noise says of the signal below it, and what of a signal is worth keeping.

For W = S + R (p × n, p ≤ n, c = p/n), R of independent entries of variance σ², everything is said in units of
σ√n: a direction of strength θ > c^¼ in S shows as a singular value y of W, and the singular vectors of W and S
have these expected squared cosines (Benaych-Georges and Nadakuditi, J. Multivar. Anal. 111, 2012; BGN12 in
method.md §10):

    y² = (1 + θ²)(c + θ²)/θ²,   short side 1 − c(1 + θ²)/(θ²(θ² + c)),   long side 1 − (c + θ²)/(θ²(θ² + 1)).

y therefore overstates θ, and its directions are only partly right. Which multiple of them comes nearest to S
depends on what *near* means (Gavish and Donoho, IEEE Trans. Inf. Theory 63, 2017; GD17), 0 up to the bulk's end
y = 1 + √c:

    frobenius   √((y² − c − 1)² − 4c)/y         ‖W′ − S‖_F
    operator    θ·√(lesser/greater cosine²)     the largest singular value of W′ − S
    nuclear     (θ⁴ − c − √c·θ·y)₊/(θ²y)        the sum of the singular values of W′ − S

For the operator norm GD17 has θ itself, which is best for square matrices, where both cosines are the same; the
factor for others is Leeb's (Stat. Probab. Lett. 186, 2022).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from rmt_compress.spectrum.marchenko_pastur import FloatArray

Loss = Literal["frobenius", "operator", "nuclear"]
LOSSES: tuple[Loss, ...] = get_args(Loss)


@dataclass(frozen=True)
class Spikes:
    """Signals behind observed singular values, one entry for each; 0 where a value is within the noise.

    Attributes:
        strength: singular values θσ√n of the signal, on the scale of the matrix.
        left: expected squared cosines of the left singular vectors (of length rows) with those of the signal.
        right: of the right ones (of length columns).
    """

    strength: FloatArray
    left: FloatArray
    right: FloatArray


def spikes_behind(values: ArrayLike, sigma: float, shape: tuple[int, int]) -> Spikes:
    """The signals that show as these singular values among noise.

    Args:
        values: singular values of the matrix.
        sigma: standard deviation of an entry of the noise.
        shape: (rows, columns) of the matrix.

    Raises:
        ValueError: as `shrunk`.
    """
    y, c, unit = _normalized(values, sigma, shape)
    above = y > 1 + np.sqrt(c)
    square = _strength(np.where(above, y, 3.0), c) ** 2
    short, long = (np.where(above, cosines, 0.0) for cosines in _cosines(square, c))
    left, right = (short, long) if shape[0] <= shape[1] else (long, short)
    return Spikes(np.where(above, np.sqrt(square) * unit, 0.0), left, right)


def shrunk(values: ArrayLike, sigma: float, shape: tuple[int, int], loss: Loss) -> FloatArray:
    """The singular values that bring a matrix, its singular vectors kept, nearest to its signal.

    Args:
        values: singular values of the matrix.
        sigma: standard deviation of an entry of the noise.
        shape: (rows, columns) of the matrix.
        loss: how the distance is measured.

    Returns:
        one for each, none greater than it was, 0 within the noise.

    Raises:
        ValueError: the noise is not positive and finite, a side is empty, or there is no such loss.
    """
    if loss not in LOSSES:
        raise ValueError(f"the loss is one of {', '.join(LOSSES)}, got {loss!r}")
    y, c, unit = _normalized(values, sigma, shape)
    above = y > 1 + np.sqrt(c)
    y = np.where(above, y, 3.0)  # any place above, for values that are not used
    if loss == "frobenius":
        kept = np.sqrt((y**2 - c - 1) ** 2 - 4 * c) / y
    else:
        kept = _strength(y, c)
        if loss == "operator":
            short, long = _cosines(kept**2, c)
            kept = kept * np.sqrt(np.minimum(short, long) / np.maximum(short, long))
        else:
            kept = np.maximum(kept**4 - c - np.sqrt(c) * kept * y, 0.0) / (kept**2 * y)
    return np.asarray(np.where(above, kept * unit, 0.0))


def _normalized(values: ArrayLike, sigma: float, shape: tuple[int, int]) -> tuple[FloatArray, float, float]:
    """The values in units of σ√n, c, and that unit."""
    if not (np.isfinite(sigma) and sigma > 0):
        raise ValueError(f"the noise has a positive standard deviation, got {sigma}")
    p, n = min(shape), max(shape)
    if p < 1:
        raise ValueError(f"a matrix has rows and columns, got {shape}")
    unit = float(sigma * np.sqrt(n))
    return np.asarray(values, dtype=np.float64) / unit, p / n, unit


def _strength(y: FloatArray, c: float) -> FloatArray:
    """θ of y ≥ 1 + √c."""
    excess = y**2 - c - 1
    return np.asarray(np.sqrt((excess + np.sqrt(np.maximum(excess**2 - 4 * c, 0.0))) / 2))


def _cosines(square: FloatArray, c: float) -> tuple[FloatArray, FloatArray]:
    """Squared cosines of the short and the long side, of θ² > √c."""
    short = 1 - c * (1 + square) / (square * (square + c))
    return short, 1 - (c + square) / (square * (square + 1))
