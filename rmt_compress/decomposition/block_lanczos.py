"""The Krylov space of a weight's Gram matrix over a random block, as `spectrum.Quadrature` reads it.

Block Lanczos (Golub and Underwood 1977) in float32, every block made orthogonal to all before it, so that no Ritz
value comes twice. Directions and steps follow from the size alone and random numbers from a seed: the result
depends on the matrix and, in its last digits, on the library's threads.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from rmt_compress import spectrum
from rmt_compress.decomposition.kernels import TorchKernels, squared_norm


class Stage(NamedTuple):
    """How far a space is grown: products of the block, and further directions of which four moments are asked."""

    steps: int
    further: int


# What noise and spikes take, and what spectra with longer and longer tails do: more steps first, until what stands
# above the edge has converged, which is where most of the chance in the number of spikes is. Twice as many
# directions of both kinds make chance smaller by a third, and the products take twice as long.
STAGES = (Stage(12, 64), Stage(14, 64), Stage(18, 64), Stage(24, 128), Stage(32, 256))

_DIRECTIONS = 32
# Of a small matrix the space holds this share of all directions at most.
_LARGEST_SPACE = 0.75
# With fewer directions nothing says how much is chance.
_FEWEST = 4
# A block whose directions are of such different lengths, as where it has reached all of a matrix of low rank, is
# made orthogonal once more.
_UNEVEN = 1e-2
# Beyond, squares of squares could overflow or vanish in float32.
_SAFE = (1e-8, 1e8)
# As many multiplications take so much longer in a product with a block than in a Gram matrix' half.
_GRAM_GAIN = 1.2
# Of how many rows, or columns where it is read transposed, a matrix is multiplied at a time.
_ROWS, _COLUMNS = 512, 256


class KrylovSpace:
    """A Krylov space that can grow, on the CPU.

    Args:
        matrix: (rows, columns), of any type.
        seed: of the random directions.

    Raises:
        UncertainSpectrumError: an entry is NaN or Inf, float32 cannot square the largest twice, or the matrix is
            too small.
    """

    def __init__(self, matrix: torch.Tensor | NDArray[Any], seed: int = 0) -> None:
        kernels = TorchKernels()
        if not isinstance(matrix, torch.Tensor):  # a small one, perhaps of a file that is not to be written to
            matrix = torch.tensor(matrix)
        if not _SAFE[0] < kernels.largest(matrix) < _SAFE[1]:
            raise spectrum.UncertainSpectrumError("float32 cannot square its entries twice")
        wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
        p, n = wide.shape
        self._directions = min(_DIRECTIONS, int(_LARGEST_SPACE * p) // STAGES[-1].steps)
        if self._directions < _FEWEST:
            raise spectrum.UncertainSpectrumError(f"{p} directions are too few")
        # What is multiplied in all, as columns; a Gram matrix takes half as long for each of them.
        columns = self._directions * STAGES[0].steps + 2 * STAGES[0].further
        self._is_gram = p * n / _GRAM_GAIN + 2 * p * columns < 4 * n * columns
        self._a = _whole_gram(wide, kernels) if self._is_gram else wide.float()
        self._trace = float(self._a.diagonal().sum(dtype=torch.float64)) if self._is_gram else squared_norm(self._a)
        self._generator = torch.Generator().manual_seed(seed)
        largest = self._directions * STAGES[-1].steps
        # Columns that lie together: products with them are the faster ones.
        self._basis = torch.empty(largest, p).T
        self._small = torch.zeros(largest, largest)
        first = torch.randn(p, self._directions, generator=self._generator)
        # The next block of the basis, and what the matrix has beside it.
        self._block = torch.linalg.qr(first)[0]
        self._beside = torch.zeros(self._directions, self._directions)
        self._steps = 0
        # Further directions and their products with the matrix, once they are known.
        self._further = [torch.empty(p, 0)] * 3
        self._wanted = 0

    def grow(self, stage: Stage) -> None:
        """Multiply until there are so many blocks, those of `STAGES[-1]` at most."""
        for step in range(self._steps, stage.steps):
            self._add(step * self._directions)
        self._steps = max(self._steps, stage.steps)
        self._wanted = min(stage.further, len(self._a) // 2)

    def _add(self, start: int) -> None:
        v, basis, small, block = self._directions, self._basis, self._small, self._block
        own = slice(start, start + v)
        basis[:, own] = block
        image = self._gram_of(block)
        if start:
            before = slice(start - v, start)
            small[own, before], small[before, own] = self._beside, self._beside.T
            image -= basis[:, before] @ self._beside.T
        middle = block.T @ image
        small[own, own] = (middle + middle.T) / 2
        image -= block @ middle
        known = basis[:, : start + v]
        image -= known @ (known.T @ image)
        block, beside = torch.linalg.qr(image)
        lengths = beside.diagonal().abs()
        if lengths.min() < _UNEVEN * lengths.max():
            block, more = torch.linalg.qr(block - known @ (known.T @ block))
            beside = more @ beside
        self._block, self._beside = block, beside

    def _gram_of(self, block: torch.Tensor) -> torch.Tensor:
        a = self._a
        return _product(a, block) if self._is_gram else _product(a, _product(a.T, block))

    def quadrature(self) -> spectrum.Quadrature:
        """What the space says of the spectrum."""
        size = self._directions * self._steps
        values, vectors = torch.linalg.eigh(self._small[:size, :size])
        residuals = (self._beside @ vectors[-self._directions :]).norm(dim=0)
        found = spectrum.converged(_numpy(values), _numpy(residuals))
        return spectrum.Quadrature(
            p=len(self._a),
            trace=self._trace,
            steps=self._steps,
            values=_numpy(values),
            residuals=_numpy(residuals),
            weights=_numpy(vectors[: self._directions]) ** 2,
            moments=self._moments(self._basis[:, :size] @ vectors[:, size - found :]),
        )

    def _moments(self, exact: torch.Tensor) -> NDArray[np.float64]:
        """zᵀG^j z, j = 0 to 4, of further directions without their part in `exact` (p, t): an array (w, 5)."""

        def without(block: torch.Tensor) -> torch.Tensor:
            return block - exact @ (exact.T @ block)

        # What has converged since these were multiplied is near the bulk, and the rounding of it small.
        self._further = [without(block) for block in self._further]
        known = self._further[0].shape[1]
        if known < self._wanted:
            first = torch.randn(len(self._a), self._wanted - known, generator=self._generator)
            first = without(without(torch.linalg.qr(first)[0]))
            # After every product: of a large spike it brings back what rounding has left.
            once = without(self._gram_of(first))
            more = (first, once, without(self._gram_of(once)))
            self._further = [torch.cat(pair, dim=1) for pair in zip(self._further, more, strict=True)]
        first, once, twice = self._further
        pairs = (first, first), (first, once), (once, once), (once, twice), (twice, twice)
        return np.stack([_numpy(torch.linalg.vecdot(one, other, dim=0)) for one, other in pairs], axis=1)


def _product(a: torch.Tensor, block: torch.Tensor) -> torch.Tensor:
    """`a` times a few columns, in parts and as the entries of `a` lie: faster than whole, by up to a fifth."""
    if a.stride(-1) == 1:
        return torch.cat([part @ block for part in torch.split(a, _ROWS)])
    rows = block.T.contiguous()
    return torch.cat([rows @ part for part in torch.split(a.T, _COLUMNS, dim=1)], dim=1).T


def _whole_gram(wide: torch.Tensor, kernels: TorchKernels) -> torch.Tensor:
    lower = kernels.gram(wide, double=False).tril_()
    return lower + lower.tril(-1).T


def _numpy(values: torch.Tensor) -> NDArray[np.float64]:
    found: NDArray[np.float64] = values.double().numpy()
    return found
