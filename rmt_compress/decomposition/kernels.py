"""The dense operations of `rmt_compress.spectrum.singular_values` on torch tensors, on any device."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from rmt_compress.spectrum.singular_values import Entries

# Entries of a float64 block of the long side that is worked on at a time: 16 MB.
_BLOCK = 2**21
# Columns of the long side of a weight that are converted at a time.
SLICE = 4096
_STRIP = 256
# Up to this p scipy finds the eigenvalues faster than torch on one thread; at 3000 both take as long.
_CACHED = 2500
# Entries that are squared at a time: in float64 they stay in a core's cache.
_SQUARED = 2**17
# How far the squares of eigenvalues may be from their sum, as a share: half of what the analysis allows each. Of p
# up to 512 a GPU's in float32 were up to 2.4e-4 off (benchmarks/results/gpu.md); rounding moves them by some 1e-6.
_SAME_SIZE = 5e-5


_WAKING = threading.Lock()
_AWAKE: set[torch.device] = set()


class TorchKernels:
    """Gram eigenvalues and singular values where the tensor lives; the results come back as numpy float64.

    Numpy is the fastest for Gram matrices on this project's machines: unlike torch it sees that W·Wᵀ is symmetric
    and has a routine for that (syrk). On one thread scipy is the fastest for eigenvalues up to p = 2500: 178 ms
    where torch takes 230 at p = 2000, 14 where it takes 23 at 784. On several threads torch is, and while it works
    numpy's still spin, which at p = 768 made both together three times as slow as torch alone. So on the CPU numpy
    takes large matrices, and small ones where it has one thread.

    Args:
        numpy_from: the least p of a Gram matrix that numpy forms; 0 where numpy's and scipy's BLAS are kept to one
            thread.
        doubted: whether eigenvalues are checked by the sum of their squares, as those of a GPU always are.
    """

    def __init__(self, numpy_from: int = 2048, *, doubted: bool = False) -> None:
        self._numpy_from = numpy_from
        self._doubted = doubted

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

    def gram(self, matrix: torch.Tensor, *, double: bool) -> torch.Tensor:
        """The smaller Gram matrix, formed in float64 or float32; above its diagonal anything may stand."""
        wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
        if wide.dtype == _precision(double):
            return self._multiply(wide)
        # A weight stored in another type is converted a slice at a time, so that no second copy of it is held.
        return self.sum_of_grams(torch.split(wide, SLICE, dim=1), double=double)

    def sum_of_grams(self, slices: Iterable[torch.Tensor], *, double: bool) -> torch.Tensor:
        """The sum of the Gram matrices W·Wᵀ of the slices of a wide matrix, of which there is one at least."""
        products = (self._multiply(part.to(_precision(double))) for part in slices)
        gram = next(products)
        for product in products:
            gram += product
        return gram

    def _multiply(self, wide: torch.Tensor) -> torch.Tensor:
        by_numpy = wide.device.type == "cpu" and len(wide) >= self._numpy_from
        return _numpy_product(wide) if by_numpy else _product(wide)

    def eigenvalues(self, gram: torch.Tensor) -> NDArray[np.float64]:
        """Ascending eigenvalues of a Gram matrix, in its own precision; NaN where a GPU's are wrong, or none."""
        _wake_solver(gram.device)
        if not (self._doubted or gram.is_cuda):
            return _on_one_thread(gram) if self._numpy_from == 0 else _with_all_threads(gram)
        try:
            values = _to_numpy(torch.linalg.eigvalsh(gram)) if gram.is_cuda else _with_all_threads(gram)
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # documented, and not in torch's stubs
            return np.full(len(gram), np.nan)
        # Wrong numbers of cuSOLVER's come without a word (cupy issue 4847, where the diagonal was given for them).
        below = float(torch.linalg.vector_norm(gram.tril(-1), dtype=torch.float64))
        diagonal = float(torch.linalg.vector_norm(gram.diagonal(), dtype=torch.float64))
        size = math.hypot(diagonal, math.sqrt(2) * below)
        right = abs(float(np.linalg.norm(values)) - size) <= _SAME_SIZE * size
        return values if right else np.full(len(gram), np.nan)

    def singular_values(self, matrix: torch.Tensor) -> NDArray[np.float64]:
        """Singular values by a direct SVD in float64, descending."""
        _wake_solver(matrix.device)
        return _to_numpy(torch.linalg.svdvals(matrix.to(torch.float64)))

    def entries(self, matrix: torch.Tensor) -> Entries:
        """The matrix itself on the CPU, what is shorter in float32."""
        here = matrix.detach().cpu()
        single: bool = here.element_size() <= 4
        entries: Entries = (here.float() if single else here).numpy()
        return entries

    def taken(self, entries: Entries) -> torch.Tensor:
        """A matrix that numpy made, in the memory that it has."""
        return torch.from_numpy(entries)


def _precision(double: bool) -> torch.dtype:
    return torch.float64 if double else torch.float32


def _wake_solver(device: torch.device) -> None:
    """Let torch load its CUDA solver, which two threads that meet in the first call fail to do ("lazy wrapper")."""
    if device.type != "cuda":
        return
    with _WAKING:
        if device not in _AWAKE:
            torch.linalg.eigvalsh(torch.eye(2, device=device))
            _AWAKE.add(device)


def _product(wide: torch.Tensor) -> torch.Tensor:
    """The lower triangle of W·Wᵀ, and some of the upper one, a strip of columns at a time."""
    p = len(wide)
    strip = max(_STRIP, -(-p // 8))
    gram = wide.new_empty((p, p))
    for start in range(0, p, strip):
        torch.mm(wide[start:], wide[start : start + strip].T, out=gram[start:, start : start + strip])
    return gram


def _numpy_product(wide: torch.Tensor) -> torch.Tensor:
    # numpy hands rows or columns to BLAS that lie together, and is slow with others.
    a = (wide if 1 in wide.stride() else wide.contiguous()).numpy()
    return torch.from_numpy(a @ a.T)


def _with_all_threads(gram: torch.Tensor) -> NDArray[np.float64]:
    """Eigenvalues by torch: as LAPACK sees it, column by column, the upper triangle is the faster one."""
    return _to_numpy(torch.linalg.eigvalsh(gram.mT, UPLO="U"))


def _on_one_thread(gram: torch.Tensor) -> NDArray[np.float64]:
    """Eigenvalues by scipy, or by torch where the matrix is no longer in a core's cache; `gram` is overwritten."""
    from scipy.linalg import LinAlgError, eigh

    if len(gram) > _CACHED:
        return _with_all_threads(gram)
    try:
        values = eigh(
            gram.numpy().T, lower=False, eigvals_only=True, driver="ev", overwrite_a=True, check_finite=False
        )
    except LinAlgError:
        return np.full(len(gram), np.nan)
    return np.asarray(values, dtype=np.float64)


def _to_numpy(values: torch.Tensor) -> NDArray[np.float64]:
    return values.to(device="cpu", dtype=torch.float64).numpy()


def double_blocks(matrix: torch.Tensor, entries: int = _BLOCK) -> Iterator[torch.Tensor]:
    """The columns of `matrix` in float64, some `entries` at a time, where they are worked on: a GPU, else the CPU.

    A block is good until the next one is asked for, see `column_blocks`.
    """
    if matrix.device.type != "cuda":
        yield from column_blocks(matrix, torch.float64, entries)
        return
    for block in torch.split(matrix, max(1, entries // matrix.shape[0]), dim=1):
        yield block.to(dtype=torch.float64)


def column_blocks(matrix: torch.Tensor, dtype: torch.dtype, entries: int) -> Iterator[torch.Tensor]:
    """The columns of `matrix` in a type, some `entries` at a time, on the CPU.

    What is converted stands in one piece of memory that the next block takes over: a new one for each is had of the
    system and given back to it, page by page, which took as long as the work.
    """
    rows, columns = matrix.shape
    width = min(columns, max(1, entries // rows))
    buffer = None
    if matrix.dtype != dtype or matrix.device.type != "cpu":
        along = matrix.stride(-1) == 1  # entries stay neighbours
        buffer = torch.empty(rows, width, dtype=dtype) if along else torch.empty(width, rows, dtype=dtype).T
    for block in torch.split(matrix, width, dim=1):
        yield block if buffer is None else buffer[:, : block.shape[1]].copy_(block)


def squared_norm(matrix: torch.Tensor) -> float:
    """The sum of the squares of all entries, added up in float64, on the CPU."""
    rows = matrix if matrix.stride(-1) == 1 else matrix.T
    if not rows.is_contiguous():
        return float(sum(torch.linalg.vector_norm(row, dtype=torch.float64) ** 2 for row in rows))
    found = 0.0
    for part in column_blocks(rows.reshape(1, -1), torch.float64, _SQUARED):
        found += float(torch.dot(part[0], part[0]))
    return found
