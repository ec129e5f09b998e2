"""Singular values by the fastest route that keeps the digits the analysis uses.

The eigenvalues of the smaller Gram matrix cost a small part of an SVD, but squaring costs digits: an eigenvalue
λ comes with an absolute error of some ε·λ_max. The bulk fit uses the eigenvalues from the lower end of BEMA's
window upwards, and needs them to 1e-4. So, for a matrix whose smaller side is p:

1. p ≤ 64: Gram matrix and eigenvalues in float64, which costs next to nothing at this size.
2. p > 64: Gram matrix and eigenvalues in float32 (float64 for a float64 weight). Kept when the error bound
   below is within 1e-4 of the smallest eigenvalue used.
3. Otherwise the same in float64, twice the time.
4. Where even that is not enough (λ_max / λ > 1e10 or so, or a matrix of low rank): a direct SVD in float64.

The bound is ε·(λ_max + 20·λ_high), λ_high the upper end of the window: rounding in a Gram matrix with a few
large spikes is graded and hits the bulk with a fraction of ε·λ_max, and with up to 17·ε·λ_high without any spike
(measured on 65 ≤ p ≤ 2000 with spikes of 0 to 30 times the noise edge; what was kept from float32 was exact to
1e-5 there; tests/spectrum/test_singular_values.py checks the 1e-4). The last digits of float32 depend on the
library and on its threads.

Singular values below the window are as exact as the route taken: to ε·λ_max in λ.
"""

from __future__ import annotations

from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from rmt_compress.spectrum.marchenko_pastur import FloatArray

MatrixT = TypeVar("MatrixT")
Entries = NDArray[np.float32] | NDArray[np.float64]

_SMALL = 64
_RELATIVE_ERROR = 1e-4
_EPSILON = {False: 2.0**-24, True: 2.0**-53}
# Squares and their sums neither overflow nor vanish for entries in this range.
_SAFE_TO_SQUARE = {False: (1e-14, 1e14), True: (1e-140, 1e140)}


class NonFiniteError(ValueError):
    """A matrix holds NaN or Inf."""


class Kernels(Protocol[MatrixT]):
    """The dense operations, for one array library."""

    def shape(self, matrix: MatrixT) -> tuple[int, int]:
        """(rows, columns)."""
        ...

    def is_double(self, matrix: MatrixT) -> bool:
        """Whether the entries are float64."""
        ...

    def largest(self, matrix: MatrixT) -> float:
        """The largest |entry|; NaN or Inf where an entry is."""
        ...

    def gram(self, matrix: MatrixT, *, double: bool) -> MatrixT:
        """The smaller Gram matrix, formed in float64 or float32; its lower triangle is enough."""
        ...

    def eigenvalues(self, gram: MatrixT) -> FloatArray:
        """Ascending eigenvalues of a Gram matrix, in its own precision; it may be overwritten.

        NaN where the library found none, or wrong ones.
        """
        ...

    def singular_values(self, matrix: MatrixT) -> FloatArray:
        """Singular values by a direct SVD in float64, descending."""
        ...

    def entries(self, matrix: MatrixT) -> Entries:
        """The matrix itself for numpy: in float64 where it is, else in float32."""
        ...


class ArrayKernels(Kernels[MatrixT], Protocol[MatrixT]):
    """The dense operations of a library whose matrices are in memory, and may come from numpy."""

    def taken(self, entries: Entries) -> MatrixT:
        """A matrix of numpy's in this library, on the CPU."""
        ...


class NumpyKernels:
    """The operations on numpy arrays, of float16 too.

    By numpy alone, as scipy.linalg takes a sixth of a second to load. numpy finds eigenvalues in float64 whatever
    it is given, of small matrices in the time that others take for float32.
    """

    def shape(self, matrix: NDArray[Any]) -> tuple[int, int]:
        """(rows, columns)."""
        rows, columns = matrix.shape
        return rows, columns

    def is_double(self, matrix: NDArray[Any]) -> bool:
        """Whether the entries are float64."""
        return matrix.dtype == np.float64

    def largest(self, matrix: NDArray[Any]) -> float:
        """The largest |entry|; NaN or Inf where an entry is."""
        return float(np.abs(matrix).max())

    def gram(self, matrix: NDArray[Any], *, double: bool) -> NDArray[Any]:
        """The smaller Gram matrix. numpy sees that the product is symmetric and does half the work (syrk)."""
        a: NDArray[np.floating[Any]] = np.asarray(matrix, dtype=np.float64 if double else np.float32)
        product: NDArray[Any] = a @ a.T if a.shape[0] <= a.shape[1] else a.T @ a
        return product

    def eigenvalues(self, gram: NDArray[Any]) -> FloatArray:
        """Ascending eigenvalues of a Gram matrix, in float64."""
        try:
            return np.asarray(np.linalg.eigvalsh(gram.astype(np.float64, copy=False)))
        except np.linalg.LinAlgError:
            return np.full(len(gram), np.nan)

    def singular_values(self, matrix: NDArray[Any]) -> FloatArray:
        """Singular values by a direct SVD in float64, descending."""
        return np.asarray(np.linalg.svd(matrix.astype(np.float64), compute_uv=False))

    def entries(self, matrix: NDArray[Any]) -> Entries:
        """The matrix itself, float16 in float32."""
        if self.is_double(matrix):
            return matrix
        return matrix.astype(np.float32, copy=False)

    def taken(self, entries: Entries) -> NDArray[Any]:
        """What it is."""
        return entries


class SingularValues(Generic[MatrixT]):
    """The singular values of one matrix, found in two steps.

    The Gram matrix gains by every thread and the eigenvalues by few: a caller with several matrices can form the
    Gram matrix of one that decides the time with all threads and find its eigenvalues beside other work.

    Args:
        matrix: (rows, columns), in the array library of `kernels`.
        kernels: its operations; `NumpyKernels()` for numpy arrays.
    """

    def __init__(self, matrix: MatrixT, kernels: Kernels[MatrixT]) -> None:
        self._matrix = matrix
        self._kernels = kernels
        self._p = min(kernels.shape(matrix))
        self._largest = kernels.largest(matrix) if self._p else 0.0
        self._precisions = (True,) if self._p <= _SMALL or kernels.is_double(matrix) else (False, True)
        self._gram: MatrixT | None = None

    def form_gram(self) -> None:
        """Form the Gram matrix that `find` begins with. Without this call `find` does."""
        if self._squares(self._precisions[0]):
            self._gram = self._kernels.gram(self._matrix, double=self._precisions[0])

    def find(self, *, alpha: float = 0.25) -> FloatArray:
        """All p singular values, descending, as float64; see `singular_values`. To be called once."""
        if not np.isfinite(self._largest):
            raise NonFiniteError("the matrix holds NaN or Inf")
        if not self._p:
            return np.zeros(0)
        low = max(0, int(np.ceil(alpha * self._p - 1e-9)) - 1)
        high = int(np.floor((1 - alpha) * self._p + 1e-9)) - 1
        for double in filter(self._squares, self._precisions):
            gram, self._gram = self._gram, None
            if gram is None:
                gram = self._kernels.gram(self._matrix, double=double)
            values = self._kernels.eigenvalues(gram)
            # Of NaN this is false.
            if _EPSILON[double] * (values[-1] + 20 * values[high]) <= _RELATIVE_ERROR * values[low]:
                return np.sqrt(np.maximum(values[::-1], 0.0))
        return self._kernels.singular_values(self._matrix)

    def _squares(self, double: bool) -> bool:
        """Whether the entries can be squared and summed in this precision."""
        smallest, largest = _SAFE_TO_SQUARE[double]
        return self._p > 0 and smallest < self._largest < largest


def singular_values(matrix: MatrixT, kernels: Kernels[MatrixT], *, alpha: float = 0.25) -> FloatArray:
    """Singular values of a matrix (rows, columns), descending, as float64.

    Which route is taken, and to how many digits that is exact, is said in the module's description.

    Args:
        matrix: finite entries, in the array library of `kernels`.
        kernels: its operations; `NumpyKernels()` for numpy arrays.
        alpha: BEMA's α: eigenvalues below rank α·p need not be exact.

    Raises:
        NonFiniteError: an entry is NaN or Inf.
    """
    return SingularValues(matrix, kernels).find(alpha=alpha)
