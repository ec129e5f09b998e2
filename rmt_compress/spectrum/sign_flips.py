"""Sign-flip parallel analysis: which singular values stand out of the same matrix with random signs.

Flipping the signs of a matrix's entries at random destroys what its rows have in common and keeps the size of every
entry: R∘W is as much noise as W can hold, whatever the variance of each entry (Hong, Sheng and Dobriban, Selecting
the number of components in PCA via random signflips, 2020). Under the null, entries symmetric and independent, W
and its flips are exchangeable, so that with T flips the largest singular value of W passes the k-th largest of
theirs with probability k/(T + 1) exactly, at any size and for any variances. T is chosen so that this is β. It is
blind to correlated noise.

`upper`: spikes are the singular values above that quantile of the largest of a flip; `pairwise`: σ_i is compared
with the i-th of the flips, and the spikes end at the first that does not pass.

What a flip of a large matrix costs is its largest singular value, some forty products of it with a vector, and two
things keep their number down, neither of which changes the probability. `upper` stops once k flips are above all of
W: there is no spike then, whatever the others are. And of large matrices, whose largest singular value hardly
differs from flip to flip, the smallest T that makes the rate exact is drawn, with k = 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from rmt_compress.spectrum.marchenko_pastur import FloatArray
from rmt_compress.spectrum.singular_values import NumpyKernels, singular_values

FlipRule = Literal["upper", "pairwise"]
FLIP_RULES: tuple[FlipRule, ...] = get_args(FlipRule)

# Of more flips than this nothing is gained but time.
_MOST_FLIPS = 199
# From this smaller side on k = 1: the edge's place between flips then spreads by half a per cent of itself or less.
_LARGE = 384
# Of the spread of the largest eigenvalue of noise, in the Tracy–Widom law's unit, an eigenvalue may be wrong by so
# much. Below what was asked it converges fast: it was wrong by a fifth of this at most, on sides of 500 to 3000.
_TOLERANCE = 0.1
_MOST_STEPS = 500
# Bytes of the rows that are multiplied and, still in the cache, multiplied again by what came out.
_ROWS_TOGETHER = 3 * 2**18
_BITS_TOGETHER = 2**16
# The sign bits of eight float32 numbers, for each byte.
_SIGNS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).astype(np.uint32) << 31


@dataclass(frozen=True)
class SignFlips:
    """What the flips of one matrix say.

    Attributes:
        edge: the 1 − β quantile of the largest singular value of a flip; where no singular value passes it, the
            k-th largest of the flips that were drawn until that was certain.
        spikes: singular values of the matrix that count as signal.
        flips: how many were drawn.
    """

    edge: float
    spikes: int
    flips: int


def flips_for(beta: float, p: int = 0) -> tuple[int, int]:
    """T and k with k/(T + 1) nearest to β from below.

    Args:
        beta: the chance that noise shows a spike.
        p: smaller side of the matrix; k = 2 where it is small and that takes few enough draws, else 1.

    Raises:
        ValueError: β is not in [0.005, 1).
    """
    if not 1 / (_MOST_FLIPS + 1) <= beta < 1:
        raise ValueError(f"sign flips resolve a beta in [{1 / (_MOST_FLIPS + 1):g}, 1), got {beta:g}")
    least, first = (9, 1) if p >= _LARGE else (19, 2)
    for k in range(first if first / beta <= _MOST_FLIPS + 1 else 1, _MOST_FLIPS):
        draws = int(np.ceil(k / beta - 1e-9)) - 1
        if draws >= max(least, k):
            return draws, k
    return _MOST_FLIPS, max(1, int(beta * (_MOST_FLIPS + 1)))


def sign_flips(
    matrix: NDArray[Any], values: FloatArray, *, beta: float = 0.1, rule: FlipRule = "upper", seed: int = 0
) -> SignFlips:
    """Compare the singular values of a matrix with those of its sign flips.

    Args:
        matrix: (rows, columns), finite entries.
        values: its singular values, descending.
        beta: the chance that noise shows a spike.
        rule: see the module.
        seed: of the signs.

    Raises:
        ValueError: `beta` is out of reach, or the rule is unknown.
    """
    if rule not in FLIP_RULES:
        raise ValueError(f"the rule is one of {', '.join(FLIP_RULES)}, got {rule!r}")
    draws, k = flips_for(beta, min(matrix.shape))
    generator = np.random.default_rng(seed)
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    scale = float(np.abs(wide).max()) or 1.0
    # Divided in its own precision, in which the scale is no 0 and no infinity.
    entries = np.array(wide / wide.dtype.type(scale), dtype=np.float32, order="C")
    if rule == "upper":
        return _upper(entries, np.asarray(values) / scale, scale, (draws, k), generator)
    flips = []
    for _ in range(draws):
        _flip(entries, generator)
        flips.append(singular_values(entries, NumpyKernels()))
    limits = np.sort(np.array(flips), axis=0)[-k] * scale
    passes = np.asarray(values) > limits
    return SignFlips(float(limits[0]), int(np.argmin(passes)) if not passes.all() else passes.size, draws)


def _upper(
    entries: NDArray[np.float32],
    values: FloatArray,
    scale: float,
    flips: tuple[int, int],
    generator: np.random.Generator,
) -> SignFlips:
    """`sign_flips` by the first rule, of entries and values in units of `scale`."""
    draws, k = flips
    tops: list[float] = []
    largest = float(values[0])
    while len(tops) < draws and sum(top >= largest for top in tops) < k:
        _flip(entries, generator)
        tops.append(_largest(entries, generator))
    edge = sorted(tops)[-k]
    return SignFlips(edge * scale, int(np.sum(values > edge)), len(tops))


def _flip(entries: NDArray[np.float32], generator: np.random.Generator) -> None:
    """Give the entries, in place, independent random signs.

    A flip of a flip is as independent of it as of the matrix, so that no copy is kept.
    """
    words = entries.view(np.uint32).reshape(-1)
    for start in range(0, words.size, 8 * _BITS_TOGETHER):
        some = words[start : start + 8 * _BITS_TOGETHER]
        bits = np.frombuffer(generator.bytes(-(-some.size // 8)), dtype=np.uint8)
        some ^= _SIGNS[bits].reshape(-1)[: some.size]


def _largest(a: NDArray[np.float32], generator: np.random.Generator) -> float:
    """The largest singular value of a matrix (m, n), m ≤ n, exact to `_TOLERANCE`.

    Lanczos' iteration on AᵀA without making its vectors orthogonal again: what is lost by that are copies of values
    that have converged, and only the largest is asked.
    """
    m, n = a.shape
    if m == 1:
        return float(np.linalg.norm(a))
    long, short = float(np.sqrt(n)), float(np.sqrt(m))
    tolerance = _TOLERANCE * (1 / long + 1 / short) ** (1 / 3) / (long + short)
    rows = max(1, _ROWS_TOGETHER // (4 * n))
    start = generator.standard_normal(n, dtype=np.float32)
    vector = np.asarray(start / np.linalg.norm(start), dtype=np.float32)
    before = np.zeros_like(vector)
    diagonal: list[float] = []
    beside: list[float] = [0.0]
    while True:
        after = -np.float32(beside[-1]) * before
        for row in range(0, m, rows):
            some = a[row : row + rows]
            after += (some @ vector) @ some
        diagonal.append(float(vector @ after))
        after -= np.float32(diagonal[-1]) * vector
        left = float(np.linalg.norm(after))
        steps = len(diagonal)
        if steps % 4 == 0 or left <= 1e-5 * diagonal[0] or steps == m:
            value, error = _largest_ritz(np.array(diagonal), np.array(beside[1:]), left)
            if error <= tolerance * value or steps >= min(m, _MOST_STEPS):
                return float(np.sqrt(max(value, 0.0)))
        before = vector
        vector = after / np.float32(left)
        beside.append(left)


def _largest_ritz(diagonal: FloatArray, beside: FloatArray, left: float) -> tuple[float, float]:
    """The largest eigenvalue of a tridiagonal matrix, and how far it is from the whole matrix' own.

    The error is the residual at most, and its square over the gap to the next eigenvalue where that is less.
    """
    from scipy.linalg import eigh_tridiagonal

    last = diagonal.size - 1
    values, vectors = eigh_tridiagonal(diagonal, beside, select="i", select_range=(max(last - 1, 0), last))
    residual, gap = left * abs(float(vectors[-1, -1])), float(values[-1] - values[0])
    return float(values[-1]), residual * min(1.0, residual / gap) if gap > 0 else residual
