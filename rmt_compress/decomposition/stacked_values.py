"""The singular values of many matrices of one shape, found together: a call costs a GPU more than a small matrix.

The routes and the digits are those of `rmt_compress.spectrum.singular_values`, taken by every matrix for itself;
what is done together are the Gram matrices of those that take the same route, and their eigenvalues.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from rmt_compress.decomposition.kernels import TorchKernels
from rmt_compress.spectrum.singular_values import (
    NonFiniteError,
    exact_enough,
    precisions_for,
    roots,
    safe_to_square,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray


# Rounding in float32 moves the sum of squares by some 1e-6.
_SAME_SIZE = 1e-5


@dataclass(frozen=True)
class FoundValues:
    """Singular values that are known; asked like `spectrum.SingularValues`.

    Attributes:
        values: descending; None of a matrix with NaN or Inf.
    """

    values: NDArray[np.float64] | None

    def form_gram(self) -> None:
        """Nothing is left to do."""

    def find(self, *, alpha: float) -> NDArray[np.float64]:
        """The values; see `spectrum.SingularValues.find`."""
        del alpha
        if self.values is None:
            raise NonFiniteError("the matrix holds NaN or Inf")
        return self.values


def stacked_singular_values(matrices: Sequence[torch.Tensor], *, alpha: float = 0.25) -> list[FoundValues]:
    """The singular values of matrices of one shape or its transpose, of one type, on one device.

    Beside the matrices it takes for each, of sides p ≤ n, 8pn bytes where there are several, and 24p².

    Args:
        matrices: (rows, columns) or (columns, rows) each, of a floating-point type.
        alpha: BEMA's α, see `spectrum.singular_values`.
    """
    # p × n, p ≤ n, from here on.
    wide = [matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T for matrix in matrices]
    p = wide[0].shape[0]
    kernels = TorchKernels()
    # One transfer for all: a number read from a GPU by itself waits for all that runs there.
    largest = torch.stack([torch.maximum(-low, high) for low, high in map(torch.aminmax, wide)]).double().tolist()
    found: dict[int, NDArray[np.float64] | None] = {
        place: None for place, size in enumerate(largest) if not np.isfinite(size)
    }
    for double in precisions_for(p, double=kernels.is_double(wide[0])):
        places = [
            place
            for place, size in enumerate(largest)
            if place not in found and safe_to_square(size, double=double)
        ]
        if not places:
            continue
        grams = _grams([wide[place] for place in places], double=double, kernels=kernels)
        values = _eigenvalues(grams)
        for place, own in zip(places, values, strict=True):
            if exact_enough(own, alpha, double=double):
                found[place] = roots(own)
    for place, matrix in enumerate(wide):
        if place not in found:
            found[place] = kernels.singular_values(matrix)
    return [FoundValues(found[place]) for place in range(len(wide))]


def _eigenvalues(grams: torch.Tensor) -> NDArray[np.float64]:
    """Ascending eigenvalues (k, p) of Gram matrices (k, p, p) of which the whole stands, or one of them."""
    try:
        values = torch.linalg.eigvalsh(grams, UPLO="L").to("cpu", torch.float64)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        if len(grams) == 1:
            raise
        values = torch.full(grams.shape[:2], torch.nan, dtype=torch.float64)
    if len(grams) == 1:
        return np.asarray(values.numpy())
    # cuSOLVER's solvers for many small matrices have given wrong numbers without a word (pytorch issue 192483, cupy
    # issue 4847), where one matrix by itself was right. Of right ones the squares sum up to those of the entries.
    sizes = torch.linalg.vector_norm(grams, dim=(1, 2), dtype=torch.float64).cpu()
    right = (values.square().sum(1).sqrt() - sizes).abs() <= _SAME_SIZE * sizes
    for place in (~right).nonzero().flatten().tolist():
        values[place] = torch.linalg.eigvalsh(grams[place], UPLO="L").to("cpu", torch.float64)
    return np.asarray(values.numpy())


def _grams(wide: Sequence[torch.Tensor], *, double: bool, kernels: TorchKernels) -> torch.Tensor:
    """The Gram matrices (k, p, p), at least their lower triangles."""
    if len(wide) == 1:
        return kernels.gram(wide[0], double=double)[None]
    stack = torch.stack([matrix.to(torch.float64 if double else torch.float32) for matrix in wide])
    return stack @ stack.mT
