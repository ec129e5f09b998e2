"""The Dyson equalizer: scales of rows and columns taken out of a matrix, so that its noise has one variance.

Noise whose variances are a product x_i·y_j of one number per row and one per column (dead units, scales taken over
from norms) is no Marchenko–Pastur noise, and the fit error of such a layer is large though there is no structure in
it. Landa and Kluger (The Dyson equalizer, Information and Inference 2025; method.md §15) read x and y off the
matrix itself, spikes and all, by the diagonals of two resolvents at η, the median singular value of W (m × n):

    g¹ = diag η(η² + WWᵀ)⁻¹,   g² = diag η(η² + WᵀW)⁻¹
    x = (1/g¹ − η)/√(m − ηΣg¹),   y = (1/g² − η)/√(n − ηΣg²),   Ŵ = W/√(x yᵀ)

The bulk of Ŵ is then nearly that of noise of variance 1; what is left of the scales is taken out in the same way,
with the median that such noise has for η, until hardly any is. At the end of that, where x = y = 1, scales that a
matrix is given leave no trace in Ŵ: one law holds for noise of any scales, and its largest eigenvalue passes an
edge as often as that of noise without any (`experiments/equalized_edge.py`).

The two diagonals follow from one Cholesky factor L of η² + WWᵀ, of the smaller side's size, without singular
vectors: the second is (1 − ‖L⁻¹wⱼ‖²)/η, wⱼ the columns of W. A float32 matrix is worked on in float32 where the
rounding of its largest eigenvalue is small beside η², else in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rmt_compress.spectrum import marchenko_pastur
from rmt_compress.spectrum.bulk import DegenerateSpectrumError
from rmt_compress.spectrum.marchenko_pastur import FloatArray
from rmt_compress.spectrum.singular_values import NonFiniteError

Floats = NDArray[np.float32] | NDArray[np.float64]

# Steps until what is left is below this, in units of n^(−1/3): the edge then stands within a small part of the
# largest eigenvalue's own spread, n^(−2/3), of where it would stand in the end.
_LEFT = 0.04
# What a step leaves of what it found, in units of m^(−1/2), at most: 0.6 to 1.6 on noise and on trained layers, as
# scales are exact up to what the entries of a row or column tell of them. Where the last two steps left more, that.
_LEAVES = 1.6
# Rounding of the largest eigenvalue beside η², up to which float32 does.
_ROUNDING = 2e-4
# One to three do for noise; where zeros form blocks there is no end.
_MOST_TIMES = 12


@dataclass(frozen=True)
class Equalized:
    """A matrix W with its scales apart: W = diag(rows)·Ŵ·diag(columns), with zero rows and columns around Ŵ.

    Attributes:
        matrix: Ŵ, of as many rows and columns as W has that are not zero; float32 where W is, else float64.
        rows: √x, one positive number for each row of W; 1 for a row of zeros.
        columns: √y likewise.
        used_rows: which rows of W are not zero, one truth value each.
        used_columns: which columns.
    """

    matrix: Floats
    rows: FloatArray
    columns: FloatArray
    used_rows: np.ndarray[tuple[int], np.dtype[np.bool_]]
    used_columns: np.ndarray[tuple[int], np.dtype[np.bool_]]

    def scaled_back(self, matrix: ArrayLike) -> FloatArray:
        """A matrix of Ŵ's shape, such as a cut of it, in the scales and the shape of W; its rank stays."""
        whole = np.zeros((self.rows.size, self.columns.size))
        rows, columns = self.rows[self.used_rows, None], self.columns[self.used_columns]
        whole[np.ix_(self.used_rows, self.used_columns)] = rows * np.asarray(matrix, dtype=np.float64) * columns
        return whole


def equalize(matrix: ArrayLike, values: FloatArray | None = None) -> Equalized:
    """Take the scales of rows and columns out of a matrix.

    Ŵ does not change where W is multiplied by a number, and follows permutations of its rows and columns, changes
    of their signs and a transposition.

    Args:
        matrix: (rows, columns), finite entries.
        values: its singular values, descending, where they are known: a third of the work is to find their median.

    Raises:
        NonFiniteError: an entry is NaN or Inf.
        DegenerateSpectrumError: half of the singular values are zero, so that nothing says what the noise is.
    """
    whole = np.asarray(matrix)
    if whole.dtype != np.float32:
        whole = whole.astype(np.float64, copy=False)
    if not np.isfinite(whole).all():
        raise NonFiniteError("the matrix holds NaN or Inf")
    used_rows, used_columns = (whole != 0).any(axis=1), (whole != 0).any(axis=0)
    w = whole if used_rows.all() and used_columns.all() else whole[np.ix_(used_rows, used_columns)]
    turned = w.shape[0] > w.shape[1]
    a = w.T if turned else w
    x, y = _all_variances(a, None if values is None else values[: a.shape[0]])
    if turned:
        x, y = y, x
    rows, columns = np.ones(whole.shape[0]), np.ones(whole.shape[1])
    rows[used_rows], columns[used_columns] = np.sqrt(x), np.sqrt(y)
    scaled = _scaled(w, rows[used_rows], columns[used_columns])
    return Equalized(scaled, rows, columns, used_rows, used_columns)


def _all_variances(w: Floats, values: FloatArray | None) -> tuple[FloatArray, FloatArray]:
    """The variances x and y of a matrix with no more rows than columns and no zero ones, its values if known."""
    m, n = w.shape
    if not m:
        raise DegenerateSpectrumError("all of its entries are zero: there is no noise")
    # Squares neither overflow nor vanish then.
    largest = float(np.abs(w).max())
    x, y = np.full(m, largest), np.full(n, largest)
    scaled = _scaled(w, np.sqrt(x), np.sqrt(y))
    if values is None:
        double = scaled.astype(np.float64, copy=False)
        squares = np.linalg.eigvalsh(double @ double.T)[::-1]
        values = np.asarray(np.sqrt(np.maximum(squares, 0.0)))
    else:
        values = values / largest
    eta2 = float(np.median(values)) ** 2
    # A zero of the Gram matrix comes out as rounding of its largest eigenvalue.
    if eta2 <= values[0] ** 2 * m * np.finfo(np.float64).eps:
        raise DegenerateSpectrumError("half of its singular values are zero: there is no noise to equalize")
    if values[0] ** 2 * np.finfo(w.dtype).eps > _ROUNDING * eta2:
        scaled, w = scaled.astype(np.float64, copy=False), w.astype(np.float64, copy=False)
    leaves, before = _LEAVES / np.sqrt(m), np.inf
    for _ in range(_MOST_TIMES):
        more_x, more_y = _variances(scaled, eta2)
        x, y = x * more_x, y * more_y
        found = float(np.hypot(np.log(more_x).std(), np.log(more_y).std()))
        # A law is changed by the square of what is left.
        if found * max(leaves, found / before) < _LEFT * n ** (-1 / 3):
            break
        before = found
        scaled = _scaled(w, np.sqrt(x), np.sqrt(y))
        eta2 = n * float(marchenko_pastur.quantile(np.array([0.5]), m / n)[0])
    return x, y


def _scaled(w: Floats, rows: FloatArray, columns: FloatArray) -> Floats:
    """The matrix with its rows and columns divided, in its own precision."""
    scaled = np.multiply(w, (1 / columns).astype(w.dtype))
    scaled *= (1 / rows[:, None]).astype(w.dtype)
    return np.asarray(scaled)


def _variances(w: Floats, eta2: float) -> tuple[FloatArray, FloatArray]:
    """One step: x and y at η²."""
    from scipy.linalg import blas, lapack

    m, n = w.shape
    eta = np.sqrt(eta2)
    gram = w @ w.T
    gram[np.diag_indices(m)] += w.dtype.type(eta2)
    potrf, trtri = lapack.get_lapack_funcs(("potrf", "trtri"), (gram,))
    (trsm,) = blas.get_blas_funcs(("trsm",), (gram,))
    # LAPACK's matrices lie by columns: gram.T is one without a copy, and (Wᵀ)U⁻¹ is that of L⁻¹W, U = Lᵀ.
    upper, _ = potrf(gram.T, lower=0, clean=1, overwrite_a=1)
    solved = trsm(1.0, upper, np.array(w.T, order="F"), side=1, lower=0, overwrite_b=1).T
    g2 = (1.0 - np.einsum("ij,ij->j", solved, solved).astype(np.float64)) / eta
    inverse, _ = trtri(upper, lower=0, overwrite_c=1)
    g1 = eta * np.einsum("ij,ij->j", inverse.T, inverse.T).astype(np.float64)
    return (1 / g1 - eta) / np.sqrt(m - eta * g1.sum()), (1 / g2 - eta) / np.sqrt(n - eta * g2.sum())
