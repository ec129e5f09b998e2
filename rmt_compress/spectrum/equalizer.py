"""The Dyson equalizer: scales of rows and columns taken out of a matrix, so that its noise has one variance.

Noise whose variances are a product x_i·y_j of one number per row and one per column (dead units, scales taken over
from norms) is no Marchenko–Pastur noise, and the fit error of such a layer is large though there is no structure in
it. Landa and Kluger (The Dyson equalizer, Information and Inference 2025; method.md §15) read x and y off the
matrix itself, spikes and all, by the diagonals of two resolvents at η, the median singular value of W (m × n):

    g¹ = diag η(η² + WWᵀ)⁻¹,   g² = diag η(η² + WᵀW)⁻¹
    x = (1/g¹ − η)/√(m − ηΣg¹),   y = (1/g² − η)/√(n − ηΣg²),   Ŵ = W/√(x yᵀ)

The bulk of Ŵ is then that of noise of variance 1. The two diagonals follow from one Cholesky factor L of η² + WWᵀ,
of the smaller side's size, without singular vectors: the second is (1 − ‖L⁻¹wⱼ‖²)/η, wⱼ the columns of W.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike

from rmt_compress.spectrum.bulk import DegenerateSpectrumError
from rmt_compress.spectrum.marchenko_pastur import FloatArray
from rmt_compress.spectrum.singular_values import NonFiniteError


@dataclass(frozen=True)
class Equalized:
    """A matrix W with its scales apart: W = diag(rows)·Ŵ·diag(columns), with zero rows and columns around Ŵ.

    Attributes:
        matrix: Ŵ, of as many rows and columns as W has that are not zero.
        rows: √x, one positive number for each row of W; 1 for a row of zeros.
        columns: √y likewise.
        used_rows: which rows of W are not zero, one truth value each.
        used_columns: which columns.
    """

    matrix: FloatArray
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


def equalize(matrix: ArrayLike) -> Equalized:
    """Take the scales of rows and columns out of a matrix.

    Ŵ does not change where W is multiplied by a number, and follows permutations of its rows and columns, changes
    of their signs and a transposition. Scales that a matrix is given come out of it again as far as it is large:
    exactly they do for the expectation of the resolvent, not for one matrix.

    Args:
        matrix: (rows, columns), finite entries.

    Raises:
        NonFiniteError: an entry is NaN or Inf.
        DegenerateSpectrumError: half of the singular values are zero, so that nothing says what the noise is.
    """
    whole = np.asarray(matrix, dtype=np.float64)
    if not np.isfinite(whole).all():
        raise NonFiniteError("the matrix holds NaN or Inf")
    used_rows, used_columns = (whole != 0).any(axis=1), (whole != 0).any(axis=0)
    w = whole[np.ix_(used_rows, used_columns)]
    turned = w.shape[0] > w.shape[1]
    # Once more of what came out: scales that are far apart are not read exactly the first time (noise whose
    # scales spread over a factor of e passed its edge in 45 of 60 draws at 100 × 1000, in 5 after the second).
    a = w.T if turned else w
    x, y = _variances(a)
    again = _variances(a / np.sqrt(x)[:, None] / np.sqrt(y))
    x, y = x * again[0], y * again[1]
    if turned:
        x, y = y, x
    rows, columns = np.ones(whole.shape[0]), np.ones(whole.shape[1])
    rows[used_rows], columns[used_columns] = np.sqrt(x), np.sqrt(y)
    return Equalized(w / rows[used_rows, None] / columns[used_columns], rows, columns, used_rows, used_columns)


def _variances(w: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The variances x and y of a matrix with no more rows than columns and no zero ones."""
    m, n = w.shape
    if not m:
        raise DegenerateSpectrumError("all of its entries are zero: there is no noise")
    largest = np.abs(w).max()
    # Squares neither overflow nor vanish then.
    w = w / largest
    gram = w @ w.T
    eigenvalues = np.maximum(scipy.linalg.eigvalsh(gram, check_finite=False, driver="evd"), 0.0)
    eta2 = float(np.median(np.sqrt(eigenvalues))) ** 2
    # A zero of the Gram matrix comes out as rounding of its largest eigenvalue.
    if eta2 <= eigenvalues[-1] * m * np.finfo(np.float64).eps:
        raise DegenerateSpectrumError("half of its singular values are zero: there is no noise to equalize")
    eta = np.sqrt(eta2)
    gram[np.diag_indices(m)] += eta2
    lower = scipy.linalg.cholesky(gram, lower=True, overwrite_a=True, check_finite=False)
    solved = scipy.linalg.solve_triangular(lower, w, lower=True, check_finite=False)
    g2 = (1.0 - (solved**2).sum(axis=0)) / eta
    inverse = scipy.linalg.solve_triangular(lower, np.eye(m), lower=True, check_finite=False)
    g1 = eta * (inverse**2).sum(axis=0)
    x = (1 / g1 - eta) / np.sqrt(m - eta * g1.sum())
    y = (1 / g2 - eta) / np.sqrt(n - eta * g2.sum())
    # The scale that was taken out of w, shared by both sides.
    return x * largest, y * largest
