"""The directions of a matrix in a metric: the cut that changes R^½ W S^½ least.

Let R^½ W S^½ = UΣVᵀ (method.md §13). Its best cut at rank r is R^(−½) U_r Σ_r V_rᵀ S^(−½) = R^(−½) U_r U_rᵀ R^½ W,
which leaves ‖R^½ (W − W′) S^½‖² = Σ_{i>r} σ_i². U are eigenvectors of R^½ W S Wᵀ R^½; from the other side the same
is W S^½ V_r V_rᵀ S^(−½). So of the two roots only that of the shorter side is needed, and its inverse alone; for
R = I none at all: U_r are the leading eigenvectors of W S Wᵀ, up = U_r, down = U_rᵀ W. Nothing is divided by a
singular value, and a cut at full rank is W itself where no direction of the root was dropped.

Everything is done in float64. Squaring costs digits: a σ below 1e-8 of the largest is rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import scipy.linalg
import torch

from rmt_compress.decomposition.metrics import Metric
from rmt_compress.decomposition.svd import Decomposition, check_rank, decompose, top_eigenvectors
from rmt_compress.spectrum.singular_values import NonFiniteError

# Directions of a second moment below this share of its largest eigenvalue are rounding.
_DIGITS = 1e-10


def decompose_in(matrix: torch.Tensor, metric: Metric, rank: int | None = None) -> Decomposition:
    """The `rank` leading directions of a matrix in a metric, with its singular values in it.

    In a metric that is zero, where nothing is known to matter, they are those of the matrix itself, and all
    singular values are zero.

    Args:
        matrix: (rows, columns), of a floating-point type, on any device.
        metric: what an error of it counts.
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
    a = (matrix if wide else matrix.T).double()
    short, long = (metric.rows, metric.columns) if wide else (metric.columns, metric.rows)
    root = _Root.of(short.to(a.device))
    weighted = root.applied(a)
    gram = weighted @ _times(long.to(a.device), weighted.T)
    energy = float(gram.diagonal().sum())
    if not math.isfinite(energy):
        raise NonFiniteError("the matrix holds NaN or Inf")
    if energy <= 0:
        found = decompose(matrix, rank)
        return replace(found, s=torch.zeros_like(found.s), sizes=found.s)
    gram = (gram + gram.T) / 2
    values, vectors = _eigenvectors(gram, rank)
    kind = torch.float64 if matrix.dtype == torch.float64 else torch.float32
    near, far = root.undone(vectors), vectors.T @ weighted
    lengths = torch.linalg.vector_norm(near, dim=0), torch.linalg.vector_norm(far, dim=1)
    near = (near / torch.where(lengths[0] > 0, lengths[0], 1.0)).to(kind)
    far = (far / torch.where(lengths[1] > 0, lengths[1], 1.0)[:, None]).to(kind)
    u, vt = (near, far) if wide else (far.T, near.T)
    return Decomposition(u, values.clamp(min=0).sqrt(), vt, matrix.dtype, sizes=lengths[0] * lengths[1])


@dataclass(frozen=True, eq=False)
class _Root:
    """A root T of a second moment, TᵀT = R, and its inverse, both zero in directions that are dropped.

    Of a matrix R = VΛVᵀ it is Λ^½Vᵀ: another root than the symmetric one turns the eigenvectors of T W S Wᵀ Tᵀ and
    nothing else, and need not be formed.

    Attributes:
        scales: Λ^½, (p,), or 0-d.
        inverses: of them.
        vectors: V, (p, p); None where R is a diagonal or a number.
    """

    scales: torch.Tensor
    inverses: torch.Tensor
    vectors: torch.Tensor | None

    @classmethod
    def of(cls, moment: torch.Tensor) -> _Root:
        """That of a moment, however it is known."""
        values, vectors = (moment, None) if moment.dim() < 2 else _eigenvectors(moment, moment.shape[0])
        kept = values > _DIGITS * values.max().clamp(min=0)
        scales = torch.where(kept, values, 0.0).sqrt()
        return cls(scales, torch.where(kept, 1 / torch.where(kept, scales, 1.0), 0.0), vectors)

    def applied(self, matrix: torch.Tensor) -> torch.Tensor:
        """T times a matrix."""
        return _times(self.scales, matrix if self.vectors is None else self.vectors.T @ matrix)

    def undone(self, matrix: torch.Tensor) -> torch.Tensor:
        """T⁻¹ times a matrix."""
        found = _times(self.inverses, matrix)
        return found if self.vectors is None else self.vectors @ found


def _eigenvectors(gram: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    try:
        return top_eigenvectors(gram.clone(), rank)
    except scipy.linalg.LinAlgError:  # inverse iteration gave up on a cluster
        values, vectors = torch.linalg.eigh(gram)
        return values.flip(0)[:rank], vectors.flip(1)[:, :rank]


def _times(moment: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """The product of a second moment, however it is known, with a matrix."""
    if moment.dim() == 2:
        return moment @ matrix
    return (moment[:, None] if moment.dim() == 1 else moment) * matrix
