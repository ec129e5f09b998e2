"""The dense operations of `rmt_compress.spectrum.singular_values` on torch tensors, on any device."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

# Entries of a float64 block of the long side that is worked on at a time: 16 MB.
_BLOCK = 2**21
_STRIP = 256
_SLICE = 4096


class TorchKernels:
    """Gram eigenvalues and singular values where the tensor lives; the results come back as numpy float64.

    On this project's machines `torch.linalg.eigvalsh` is the fastest eigenvalue routine at hand.
    """

    def shape(self, matrix: torch.Tensor) -> tuple[int, int]:
        """(rows, columns)."""
        rows, columns = matrix.shape
        return rows, columns

    def is_double(self, matrix: torch.Tensor) -> bool:
        """Whether the entries are float64."""
        return matrix.dtype == torch.float64

    def largest(self, matrix: torch.Tensor) -> float:
        """The largest |entry|; NaN or Inf where an entry is."""
        low, high = torch.aminmax(matrix)
        return float(torch.maximum(-low, high))

    def gram_eigenvalues(self, matrix: torch.Tensor, *, double: bool) -> NDArray[np.float64]:
        """Ascending eigenvalues of the smaller Gram matrix, formed and solved in float64 or float32."""
        dtype = torch.float64 if double else torch.float32
        wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
        # A weight stored in another type is converted a slice at a time, so that no second copy of it is held.
        width = wide.shape[1] if wide.dtype == dtype else _SLICE
        strip = max(_STRIP, -(-wide.shape[0] // 8))
        gram = wide.new_zeros((wide.shape[0], wide.shape[0]), dtype=dtype)
        for part in torch.split(wide, width, dim=1):
            a = part.to(dtype)
            # `eigvalsh` is asked for the lower triangle only: strips leave out most of the upper one.
            for start in range(0, a.shape[0], strip):
                gram[start:, start : start + strip].addmm_(a[start:], a[start : start + strip].T)
        return _to_numpy(torch.linalg.eigvalsh(gram, UPLO="L"))

    def singular_values(self, matrix: torch.Tensor) -> NDArray[np.float64]:
        """Singular values by a direct SVD in float64, descending."""
        return _to_numpy(torch.linalg.svdvals(matrix.to(torch.float64)))


def _to_numpy(values: torch.Tensor) -> NDArray[np.float64]:
    return values.to(device="cpu", dtype=torch.float64).numpy()


def double_blocks(matrix: torch.Tensor) -> Iterator[torch.Tensor]:
    """The columns of `matrix` in float64, some at a time, where they are worked on: a GPU, else the CPU."""
    device = matrix.device if matrix.device.type == "cuda" else torch.device("cpu")
    for block in torch.split(matrix, max(1, _BLOCK // matrix.shape[0]), dim=1):
        yield block.to(device=device, dtype=torch.float64)
