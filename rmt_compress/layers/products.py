"""A product of two factors, taken for what it is: singular values and a lower rank without forming it.

With up = Q₁R₁ and downᵀ = Q₂R₂ the product up·down = Q₁(R₁R₂ᵀ)Q₂ᵀ has the singular values of the small r×r matrix.
"""

from __future__ import annotations

import torch

from rmt_compress.layers.low_rank import Factors


def factor_matrices(kind: str, factors: Factors) -> tuple[torch.Tensor, torch.Tensor]:
    """``down`` (r, columns) and ``up`` (rows, r), whose product up·down is the matrix the layer is read as.

    `low_rank.factor_tensors` is the way back.

    Args:
        kind: of the layer, see `rmt_compress.layers.factors`.
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
