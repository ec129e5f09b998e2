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

Rows = NDArray[np.float32]


class Stage(NamedTuple):
    """How far a space is grown: products of the block, and further directions of which four moments are asked."""

    steps: int
    further: int


# What most noise with spikes takes, and what spectra with longer and longer tails do: more steps first, until what
# stands above the edge has converged, which is where most of the chance in the number of spikes is; then more
# further directions, which of 8192 × 8192 make chance in it smaller by a tenth, as six steps more do for twice the
# time.
STAGES = (Stage(10, 64), Stage(12, 64), Stage(18, 64), Stage(18, 128), Stage(24, 128), Stage(32, 256))

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
# So many columns of a matrix are multiplied at a time.
_COLUMNS = 512


class KrylovSpace:
    """A Krylov space that can grow, on the CPU.

    Directions are rows, which numpy's BLAS multiplies faster than columns, and on one thread than torch's does: by
    a sixth at 3000 × 3000, a fifth at 8192 × 8192.

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
        # What is multiplied in all; a Gram matrix takes half as long for each of them.
        rows = self._directions * STAGES[0].steps + 2 * STAGES[0].further
        self._is_gram = p * n / _GRAM_GAIN + 2 * p * rows < 4 * n * rows
        a = _whole_gram(wide, kernels) if self._is_gram else wide.float()
        self._trace = float(a.diagonal().sum(dtype=torch.float64)) if self._is_gram else squared_norm(a)
        self._a: Rows = a.detach().numpy()
        self._generator = torch.Generator().manual_seed(seed)
        largest = self._directions * STAGES[-1].steps
        self._basis: Rows = np.empty((largest, p), dtype=np.float32)
        self._small = torch.zeros(largest, largest)
        # The next block of the basis, and what the matrix has beside it.
        self._block, _ = _orthonormal(self._random(self._directions))
        self._beside = torch.zeros(self._directions, self._directions)
        self._steps = 0
        # Further directions and their products with the matrix, once they are known.
        self._further = [np.empty((0, p), dtype=np.float32)] * 3
        self._wanted = 0

    def _random(self, directions: int) -> Rows:
        drawn: Rows = torch.randn(len(self._a), directions, generator=self._generator).T.numpy()
        return drawn

    def grow(self, stage: Stage) -> None:
        """Multiply until there are so many blocks, those of `STAGES[-1]` at most."""
        for step in range(self._steps, stage.steps):
            self._add(step * self._directions)
        self._steps = max(self._steps, stage.steps)
        self._wanted = min(stage.further, len(self._a) // 2)

    def _add(self, start: int) -> None:
        v, basis, small, block = self._directions, self._basis, self._small, self._block
        own = slice(start, start + v)
        basis[own] = block
        image = self._times_gram(block)
        if start:
            before = slice(start - v, start)
            small[own, before], small[before, own] = self._beside, self._beside.T
            image -= _times(self._beside.numpy(), basis[before])
        middle = _times(image, block.T)
        middle = (middle + middle.T) / np.float32(2)
        small[own, own] = torch.from_numpy(middle)
        image -= _times(middle, block)
        known = basis[: start + v]
        image -= _times(_times(image, known.T), known)
        block, beside = _orthonormal(image)
        lengths = beside.diagonal().abs()
        if lengths.min() < _UNEVEN * lengths.max():
            block, more = _orthonormal(block - _times(_times(block, known.T), known))
            beside = more @ beside
        self._block, self._beside = block, beside

    def _times_gram(self, block: Rows) -> Rows:
        return _product(block, self._a) if self._is_gram else _product(_product(block, self._a), self._a.T)

    def quadrature(self) -> spectrum.Quadrature:
        """What the space says of the spectrum."""
        size = self._directions * self._steps
        values, vectors = torch.linalg.eigh(self._small[:size, :size])
        residuals = (self._beside @ vectors[-self._directions :]).norm(dim=0)
        found = spectrum.converged(_double(values), _double(residuals))
        return spectrum.Quadrature(
            p=len(self._a),
            trace=self._trace,
            steps=self._steps,
            values=_double(values),
            residuals=_double(residuals),
            weights=_double(vectors[: self._directions]) ** 2,
            moments=self._moments(_times(vectors[:, size - found :].T.numpy(), self._basis[:size])),
        )

    def _moments(self, exact: Rows) -> NDArray[np.float64]:
        """zᵀG^j z, j = 0 to 4, of further directions without their part in `exact` (t, p): an array (w, 5)."""

        def without(block: Rows) -> Rows:
            return block - _times(_times(block, exact.T), exact)

        # What has converged since these were multiplied is near the bulk, and the rounding of it small.
        self._further = [without(block) for block in self._further]
        known = len(self._further[0])
        if known < self._wanted:
            first = without(without(_orthonormal(self._random(self._wanted - known))[0]))
            # After every product: of a large spike it brings back what rounding has left.
            once = without(self._times_gram(first))
            more = (first, once, without(self._times_gram(once)))
            self._further = [np.concatenate(pair) for pair in zip(self._further, more, strict=True)]
        first, once, twice = self._further
        pairs = (first, first), (first, once), (once, once), (once, twice), (twice, twice)
        found: NDArray[np.float64] = np.stack([np.einsum("ij,ij->i", *pair) for pair in pairs], axis=1, dtype=float)
        return found


def _times(rows: Rows, a: Rows) -> Rows:
    """By numpy on one thread, else by torch: threads of both would wait for each other."""
    if torch.get_num_threads() == 1:
        return np.asarray(rows @ a)
    product: Rows = (torch.from_numpy(rows) @ torch.from_numpy(a)).numpy()
    return product


def _product(rows: Rows, a: Rows) -> Rows:
    """A few rows times `a`, some of its columns at a time: faster than all."""
    parts = [_times(rows, a[:, start : start + _COLUMNS]) for start in range(0, a.shape[1], _COLUMNS)]
    return np.concatenate(parts, axis=1)


def _orthonormal(rows: Rows) -> tuple[Rows, torch.Tensor]:
    """Orthonormal rows that span what `rows` do, and R of the QR decomposition of their transpose."""
    q, r = torch.linalg.qr(torch.from_numpy(rows).T)
    return q.T.contiguous().numpy(), r


def _whole_gram(wide: torch.Tensor, kernels: TorchKernels) -> torch.Tensor:
    lower = kernels.gram(wide, double=False).tril_()
    return lower + lower.tril(-1).T


def _double(values: torch.Tensor) -> NDArray[np.float64]:
    found: NDArray[np.float64] = values.double().numpy()
    return found
