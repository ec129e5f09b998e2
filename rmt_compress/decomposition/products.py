"""A product of two factors, taken for what it is: singular values and a lower rank without forming it.

With up = Q₁R₁ and downᵀ = Q₂R₂ the product up·down = Q₁(R₁R₂ᵀ)Q₂ᵀ has the singular values of the small r×r matrix.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from rmt_compress.layers.pairs import is_plain
from rmt_compress.layers.splitting import Factors
from rmt_compress.spectrum.singular_values import NonFiniteError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def factor_matrices(kind: str, factors: Factors) -> tuple[torch.Tensor, torch.Tensor]:
    """``down`` (r, columns) and ``up`` (rows, r), whose product up·down is the matrix the layer is read as.

    `low_rank.factor_tensors` is the way back.

    Args:
        kind: of the layer, see `rmt_compress.layers.kinds`.
        factors: the weights of its two modules.
    """
    rank = factors.down.shape[0]
    if kind.startswith("conv_transpose"):
        return factors.up.reshape(rank, -1), factors.down.reshape(rank, -1).T
    return factors.down.reshape(rank, -1), factors.up.reshape(-1, rank)


def product_singular_values(down: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """The r singular values of up·down that may be above 0, descending, in float64."""
    _, _, values, _, _ = _decompose(down, up)
    return values


def truncate_product(down: torch.Tensor, up: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Factors (rank, columns) and (rows, rank) of the nearest matrix of that rank to up·down, Σ^½ on either side.

    Raises:
        ValueError: `rank` is not between 1 and that of the factors.
    """
    if not 1 <= rank <= down.shape[0]:
        raise ValueError(f"the rank must lie between 1 and {down.shape[0]}, got {rank}")
    left, u, values, vt, right = _decompose(down, up)
    root = values[:rank].sqrt()
    new_up = left @ (u[:, :rank] * root)
    new_down = (root[:, None] * vt[:rank]) @ right.T
    return new_down.to(down.dtype).contiguous(), new_up.to(up.dtype).contiguous()


def _decompose(down: torch.Tensor, up: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Q₁, U, Σ, Vᵀ, Q₂ with up·down = Q₁·UΣVᵀ·Q₂ᵀ, in float64."""
    left, r_left = torch.linalg.qr(up.detach().double())
    right, r_right = torch.linalg.qr(down.detach().double().T)
    u, values, vt = torch.linalg.svd(r_left @ r_right.T, full_matrices=False)
    return left, u, values, vt, right


def pair_singular_values(down: torch.Tensor, up: torch.Tensor) -> NDArray[np.float64]:
    """The r singular values of the product of two factors, descending, computed in float64.

    Args:
        down: (r, in, …).
        up: (out, r, 1…); of a transposed convolution (r, out, k…), where `down` is (r, in, 1…).

    Raises:
        NonFiniteError: an entry is NaN or Inf.
    """
    import torch

    first, second = down.detach().double(), up.detach().double()
    if not bool(first.isfinite().all() and second.isfinite().all()):
        raise NonFiniteError("a factor holds NaN or Inf")
    rank = first.shape[0]
    right = first.reshape(rank, -1).T
    left = second.reshape(-1, rank) if is_plain(rank, tuple(up.shape)) else second.reshape(rank, -1).T
    triangles = [torch.linalg.qr(side, mode="r").R for side in (left, right)]
    return np.asarray(torch.linalg.svdvals(triangles[0] @ triangles[1].T).cpu().numpy(), dtype=np.float64)


def effective_rank(values: NDArray[np.float64]) -> float:
    """Roy and Vetterli's: e to the entropy of s/Σs (*The effective rank*, 2007); 0 for a product that is zero."""
    total = values.sum()
    if total <= 0:
        return 0.0
    shares = values[values > 0] / total
    return float(np.exp(-(shares * np.log(shares)).sum()))
