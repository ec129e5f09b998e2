"""Sign-flip parallel analysis: which singular values stand out of the same matrix with random signs.

Flipping the signs of a matrix's entries at random destroys what its rows have in common and keeps the size of every
entry: R∘W is as much noise as W can hold, whatever the variance of each entry (Hong, Sheng and Dobriban, Selecting
the number of components in PCA via random signflips, 2020). Under the null, entries symmetric and independent, W
and its flips are exchangeable, so that with T flips the largest singular value of W passes the k-th largest of
theirs with probability k/(T + 1) exactly, at any size and for any variances. T is chosen so that this is β. It is
blind to correlated noise.

`upper`: spikes are the singular values above that quantile of the largest of a flip; `pairwise`: σ_i is compared
with the i-th of the flips, and the spikes end at the first that does not pass.
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
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class SignFlips:
    """What the flips of one matrix say.

    Attributes:
        edge: the 1 − β quantile of the largest singular value of a flip.
        spikes: singular values of the matrix that count as signal.
        flips: how many were drawn.
    """

    edge: float
    spikes: int
    flips: int


def flips_for(beta: float) -> tuple[int, int]:
    """T and k with k/(T + 1) nearest to β from below, k = 2 where that takes few enough draws, else 1.

    Raises:
        ValueError: β is not in [0.005, 1).
    """
    if not 1 / (_MOST_FLIPS + 1) <= beta < 1:
        raise ValueError(f"sign flips resolve a beta in [{1 / (_MOST_FLIPS + 1):g}, 1), got {beta:g}")
    for k in range(2 if 2 / beta <= _MOST_FLIPS + 1 else 1, _MOST_FLIPS):
        draws = int(np.ceil(k / beta - 1e-9)) - 1
        if draws >= max(19, k):
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
    draws, k = flips_for(beta)
    generator = np.random.default_rng(seed)
    entries = np.asarray(matrix, dtype=np.float32)
    if entries.shape[0] > entries.shape[1]:
        entries = entries.T
    scale = float(np.abs(entries).max()) or 1.0
    entries = np.ascontiguousarray(entries / np.float32(scale))
    if rule == "upper":
        tops = np.sort([_largest(_flipped(entries, generator), generator) for _ in range(draws)])
        edge = float(tops[-k]) * scale
        return SignFlips(edge, int(np.sum(values > edge)), draws)
    kernels = NumpyKernels()
    flips = [singular_values(_flipped(entries, generator), kernels) for _ in range(draws)]
    limits = np.sort(np.array(flips), axis=0)[-k] * scale
    passes = np.asarray(values) > limits
    return SignFlips(float(limits[0]), int(np.argmin(passes)) if not passes.all() else passes.size, draws)


def _flipped(entries: NDArray[np.float32], generator: np.random.Generator) -> NDArray[np.float32]:
    """The entries with independent random signs, one random bit each set as their sign bit."""
    bits = np.frombuffer(generator.bytes(-(-entries.size // 8)), dtype=np.uint8)
    signs = np.unpackbits(bits, count=entries.size).reshape(entries.shape).astype(np.uint32) << 31
    return (entries.view(np.uint32) ^ signs).view(np.float32)


def _largest(a: NDArray[np.float32], generator: np.random.Generator) -> float:
    """The largest singular value, to 1e-4."""
    from scipy.sparse.linalg import svds

    if len(a) == 1:
        return float(np.linalg.norm(a))
    start = generator.standard_normal(len(a), dtype=np.float32)
    return float(svds(a, k=1, tol=_TOLERANCE, v0=start, return_singular_vectors=False)[0])
