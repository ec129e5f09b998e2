"""Truncated singular value decompositions of weight matrices, computing only the vectors that are kept.

W (rows × columns), p = min(rows, columns), n = max. The singular vectors of the *short* side are the leading
eigenvectors U of the p × p Gram matrix, formed and solved in float64; the other side is the projection UᵀW, whose
row norms are the singular values. So the truncation is U·UᵀW whatever the rank: an orthogonal projection to
float64 rounding, with ‖W − W′‖² = Σ_{i>r} s_i². Nothing is divided by a singular value that was not measured as
the norm of the vector it belongs to, and a zero one comes with a zero vector: matrices of low rank are no
exception. Of a large matrix the few leading U are found without its Gram matrix where they converge, see
`rmt_compress.decomposition.krylov`. (LAPACK's eigenvectors are orthogonal to 1e-14, to 1e-12 where p is in the
thousands.)

Squaring costs digits: λ = s² comes with an absolute error of some ε·λ_max, ε = 2⁻⁵³. For float32 and shorter types
this is less than the rounding of the factors themselves, and nothing is lost: what is left of a tail whose energy
is 1e-10 of the whole is rounding either way. For float64 weights a direct SVD is done where the
smallest λ kept, or the energy that is cut, is below 1e-9·λ_max, and where squares would overflow or vanish.

The results are float32, float64 for float64 weights. Beside the weight and the result a p × n float32 weight takes
8p² bytes for the Gram matrix and 8pr for the eigenvectors, a shorter one 4pn where a few vectors are sought.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import scipy.linalg
import torch

from rmt_compress.decomposition.blas_threads import blas_threads
from rmt_compress.decomposition.kernels import double_blocks
from rmt_compress.decomposition.krylov import leading_subspace, worth_trying
from rmt_compress.spectrum.singular_values import NonFiniteError

if TYPE_CHECKING:
    from rmt_compress.spectrum import Loss

# Entries of a float64 weight within this range can be squared and summed.
_SAFE_TO_SQUARE = (1e-140, 1e140)
_DIGITS = 1e-9
# Entries in float64 that are projected at a time: of more none is in a core's cache any more.
_PROJECTED = 2**19
# Up to this p the eigenvectors are found on one thread. The threads of OpenBLAS meet several times for each of the
# p columns of a tridiagonal reduction, spinning as they wait: with two threads on two busy cores, 20 vectors of a
# matrix of p = 2000 took 74 s and 15 s of processor time; with one, 7 s and 0.8 s.
_ONE_THREAD = 4096


@dataclass(frozen=True)
class Decomposition:
    """The leading singular values and vectors of one matrix, to be cut at as many ranks as wanted.

    Attributes:
        u: (rows, k), float32 (float64 for a float64 matrix or a product), on the matrix's device, orthonormal
            columns.
        s: (k,), float64, descending.
        vt: (k, columns), like `u`. On the longer of the two sides a vector whose singular value is rounding
            (below 1e-8·s₁) need not be orthogonal to the others.
        dtype: the matrix's own type, that of the results.
        sizes: (k,), float64, where the singular values are those in another metric (method.md §13): the sum of
            u_i·sizes_i·vt_i is the matrix, of unit vectors that are not orthogonal; or where they are shrunk. None
            for `s` itself.
    """

    u: torch.Tensor
    s: torch.Tensor
    vt: torch.Tensor
    dtype: torch.dtype
    sizes: torch.Tensor | None = None

    @property
    def rank(self) -> int:
        """Number of singular values at hand."""
        return self.s.numel()

    def factors(self, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
        """``down`` = Σ^½Vᵀ (rank, columns) and ``up`` = UΣ^½ (rows, rank) of the truncation at `rank` (SJK23 §4.2).

        Raises:
            ValueError: the rank is not between 1 and `self.rank`.
        """
        root = self._root(rank)
        down = self.vt[:rank] * root[:, None]
        up = self.u[:, :rank] * root
        return down.to(self.dtype).contiguous(), up.to(self.dtype).contiguous()

    def truncated(self, rank: int) -> torch.Tensor:
        """W′ = U_r Σ_r V_rᵀ (rows, columns), the nearest matrix of this rank.

        Raises:
            ValueError: the rank is not between 1 and `self.rank`.
        """
        root = self._root(rank)
        product = (self.u[:, :rank] * root) @ (self.vt[:rank] * root[:, None])
        return product.to(self.dtype).contiguous()

    def shrunk(self, sigma: float, loss: Loss) -> Decomposition:
        """The same directions with what of their singular values is signal; see `rmt_compress.spectrum.spikes`.

        Args:
            sigma: standard deviation of an entry of the noise.
            loss: how near to the signal is measured.
        """
        from rmt_compress.spectrum import shrunk

        values = shrunk(self.s.cpu().numpy(), sigma, (self.u.shape[0], self.vt.shape[1]), loss)
        return replace(self, sizes=torch.from_numpy(values).to(self.s.device))

    def _root(self, rank: int) -> torch.Tensor:
        check_rank(rank, self.rank)
        return (self.s if self.sizes is None else self.sizes)[:rank].sqrt().to(self.u.dtype)


@dataclass(frozen=True)
class StackedDecomposition:
    """Those of all matrices of a stack, which are cut to one rank so that the results are stacks again.

    Attributes:
        parts: of each matrix, in the order of the stack.
    """

    parts: tuple[Decomposition, ...]

    def factors(self, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
        """``down`` (matrices, rank, columns) and ``up`` (matrices, rows, rank); see `Decomposition.factors`."""
        downs, ups = zip(*(part.factors(rank) for part in self.parts), strict=True)
        return torch.stack(downs), torch.stack(ups)

    def truncated(self, rank: int) -> torch.Tensor:
        """The nearest matrices of this rank (matrices, rows, columns)."""
        return torch.stack([part.truncated(rank) for part in self.parts])


def decompose(matrix: torch.Tensor, rank: int | None = None) -> Decomposition:
    """The `rank` leading singular values and vectors of a matrix.

    Args:
        matrix: (rows, columns), of a floating-point type, on any device.
        rank: how many; None for all min(rows, columns).

    Raises:
        ValueError: the rank is not between 1 and min(rows, columns).
        NonFiniteError: an entry is NaN or Inf.
    """
    matrix = matrix.detach()
    p = min(matrix.shape)
    rank = p if rank is None else rank
    check_rank(rank, p)
    wide = matrix.shape[0] <= matrix.shape[1]
    # The short side is the first from here on.
    short, s, long = _decompose_wide(matrix if wide else matrix.T, rank)
    u, vt = (short, long) if wide else (long.T, short.T)
    return Decomposition(u, s, vt, matrix.dtype)


def check_rank(rank: int, largest: int) -> None:
    """Refuse a rank that is not between 1 and the largest."""
    if not 1 <= rank <= largest:
        raise ValueError(f"the rank must lie between 1 and {largest}, got {rank}")


def _decompose_wide(a: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Singular vectors of the short side (p, rank), singular values (rank,), long side (rank, n); a is (p, n)."""
    double = a.dtype == torch.float64
    if double and not _can_be_squared(a):
        return _direct(a, rank)
    u = leading_subspace(a, rank) if worth_trying(a, rank) else None
    if u is None:
        try:
            energy, values, u = _leading_eigenvectors(a, rank)
        except scipy.linalg.LinAlgError:  # inverse iteration gave up on a cluster
            return _direct(a, rank)
    if double:
        cut = energy - float(values.sum()) if rank < a.shape[0] else math.inf
        if min(float(values[-1]), cut) <= _DIGITS * float(values[0]):
            return _direct(a, rank)
    vt = torch.empty((rank, a.shape[1]), dtype=torch.float64 if double else torch.float32, device=u.device)
    squares = torch.zeros(rank, dtype=torch.float64, device=u.device)
    start = 0
    short = u.T.contiguous()
    for block in double_blocks(a, _PROJECTED):
        projected = short @ block
        squares += projected.square().sum(1)
        vt[:, start : start + block.shape[1]] = projected
        start += block.shape[1]
    # Below the Gram matrix's error the norms may come in another order than the eigenvalues did.
    s = torch.cummin(squares.sqrt(), 0).values
    vt /= torch.where(s > 0, s, 1.0).to(vt.dtype)[:, None]
    return u.to(vt.dtype).to(a.device), s.to(a.device), vt.to(a.device)


def _can_be_squared(a: torch.Tensor) -> bool:
    largest = float(a.abs().max())
    if not math.isfinite(largest):
        raise NonFiniteError("the matrix holds NaN or Inf")
    return _SAFE_TO_SQUARE[0] < largest < _SAFE_TO_SQUARE[1]


def _leading_eigenvectors(a: torch.Tensor, rank: int) -> tuple[float, torch.Tensor, torch.Tensor]:
    """Trace of a·aᵀ, its `rank` largest eigenvalues, descending, and their eigenvectors (p, rank), in float64."""
    gram: torch.Tensor | None = None
    for block in double_blocks(a):
        gram = block @ block.T if gram is None else gram.addmm_(block, block.T)
    assert gram is not None
    energy = float(gram.diagonal().sum())
    if not math.isfinite(energy):
        raise NonFiniteError("the matrix holds NaN or Inf")
    return energy, *top_eigenvectors(gram, rank)


def top_eigenvectors(gram: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The `rank` largest eigenvalues, descending, of a symmetric float64 matrix, and their eigenvectors (p, rank).

    On the CPU `gram` is used up.

    Raises:
        scipy.linalg.LinAlgError: they do not converge.
    """
    p = gram.shape[0]
    if gram.is_cuda:
        values, vectors = torch.linalg.eigh(gram)
        values, vectors = values[p - rank :], vectors[:, p - rank :]
    else:
        # LAPACK works in place on Fortran order, which the transpose of this symmetric matrix is.
        with blas_threads(1) if p <= _ONE_THREAD else nullcontext():
            found = scipy.linalg.eigh(
                gram.numpy().T,
                subset_by_index=(p - rank, p - 1),
                driver="evr",
                overwrite_a=True,
                check_finite=False,
            )
        values, vectors = (torch.from_numpy(part) for part in found)
    return values.flip(0), vectors.flip(1)


def _direct(a: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    u, s, vt = torch.linalg.svd(a.double(), full_matrices=False)
    kind = torch.float64 if a.dtype == torch.float64 else torch.float32
    return u[:, :rank].to(kind), s[:rank], vt[:rank].to(kind)
