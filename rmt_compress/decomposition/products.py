"""A product of two factors, taken for what it is: its singular values and vectors without forming it.

With up = Q₁R₁ and downᵀ = Q₂R₂ the product up·down = Q₁(R₁R₂ᵀ)Q₂ᵀ has the singular values of the small r×r matrix.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from rmt_compress.decomposition.svd import Decomposition, decompose
from rmt_compress.spectrum.singular_values import NonFiniteError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def decompose_product(down: torch.Tensor, up: torch.Tensor) -> Decomposition:
    """The r singular values and vectors of up·down that may be above 0, all in float64.

    Args:
        down: (r, columns).
        up: (rows, r).

    Raises:
        NonFiniteError: an entry is NaN or Inf.
    """
    left, right, core = _reduced(down, up, mode="reduced")
    # CUDA finds eigenvectors many times faster than singular vectors. Squares of float64 keep all digits of factors
    # in float32.
    found = decompose(core) if core.is_cuda else None
    u, s, vt = torch.linalg.svd(core, full_matrices=False) if found is None else (found.u, found.s, found.vt)
    return Decomposition(left @ u, s, vt @ right.T, down.dtype)


def product_singular_values(down: torch.Tensor, up: torch.Tensor) -> NDArray[np.float64]:
    """The singular values alone, descending; see `decompose_product`."""
    _, _, core = _reduced(down, up, mode="r")
    if core.is_cuda:
        values = torch.linalg.eigvalsh(core @ core.T).clamp(min=0).sqrt().flip(0)
    else:
        values = torch.linalg.svdvals(core)
    return np.asarray(values.cpu().numpy(), dtype=np.float64)


def _reduced(down: torch.Tensor, up: torch.Tensor, *, mode: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Q₁, Q₂ (empty in mode ``r``) and R₁R₂ᵀ."""
    sides = [side.detach().double() for side in (up, down.T)]
    if not all(bool(side.isfinite().all()) for side in sides):
        raise NonFiniteError("a factor holds NaN or Inf")
    (left, left_core), (right, right_core) = (torch.linalg.qr(side, mode=mode) for side in sides)
    return left, right, left_core @ right_core.T
