"""The singular values of a matrix that is read some rows or columns at a time and never whole.

Its smaller Gram matrix is the sum of those of its blocks, which are the slices that `TorchKernels` converts of a
matrix in memory: of bfloat16 and float16 the sum is the same to the last bit, of float32, which is multiplied
whole there, to its rounding. Where squares lose too many digits, the triangle R of W = QR takes the place of an
SVD of the whole: it is that of the rows read so far stacked on the next ones, and has the singular values of W.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

import torch

from rmt_compress.decomposition.kernels import SLICE, TorchKernels

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from rmt_compress.spectrum.singular_values import Entries


class Blocks(Protocol):
    """A matrix that is read in parts."""

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Of its entries."""
        ...

    def along(self, axis: int, size: int) -> Iterator[torch.Tensor]:
        """All of it, so many rows (axis 0) or columns (axis 1) at a time, on the CPU."""
        ...


def blocks_of(matrix: Blocks) -> Iterator[torch.Tensor]:
    """The matrix along its longer side, the shorter one first: blocks (p, up to `SLICE`)."""
    tall = matrix.shape[0] > matrix.shape[1]
    for block in matrix.along(0 if tall else 1, SLICE):
        yield block.T if tall else block


class BlockKernels:
    """The operations of `rmt_compress.spectrum.singular_values` on `Blocks`.

    Args:
        kernels: those of a block.
    """

    def __init__(self, kernels: TorchKernels) -> None:
        self._kernels = kernels

    def shape(self, matrix: Blocks) -> tuple[int, int]:
        """(rows, columns)."""
        return matrix.shape

    def is_double(self, matrix: Blocks) -> bool:
        """Whether the entries are float64."""
        return matrix.dtype == torch.float64

    def largest(self, matrix: Blocks) -> float:
        """The largest |entry|; NaN or Inf where an entry is."""
        found = [self._kernels.largest(block) for block in blocks_of(matrix)]
        # Python's own `max` loses NaN.
        return float(torch.tensor(found, dtype=torch.float64).max())

    def gram(self, matrix: Blocks, *, double: bool) -> torch.Tensor:
        """The smaller Gram matrix, formed in float64 or float32; above its diagonal anything may stand."""
        return self._kernels.sum_of_grams(blocks_of(matrix), double=double)

    def eigenvalues(self, gram: torch.Tensor) -> NDArray[np.float64]:
        """Ascending eigenvalues of a Gram matrix, in its own precision."""
        return self._kernels.eigenvalues(gram)

    def entries(self, matrix: Blocks) -> Entries:
        """The matrix, read whole after all."""
        return self._kernels.entries(torch.cat(list(matrix.along(0, SLICE))))

    def singular_values(self, matrix: Blocks) -> NDArray[np.float64]:
        """Singular values in float64, descending, by the triangle of a QR decomposition."""
        p = min(matrix.shape)
        triangle = torch.zeros(0, p, dtype=torch.float64)
        for block in blocks_of(matrix):
            triangle = torch.linalg.qr(torch.cat([triangle, block.T.to(torch.float64)]), mode="r").R
        return self._kernels.singular_values(triangle)
