"""Shapes of the two factors of a weight, and their product.

A Linear or Conv weight is read as (outputs, inputs × kernel) = up · down; a ConvTranspose weight, stored as
(inputs, outputs, kernel…), as (inputs, outputs × kernel) = downᵀ · up. The factors of a product stored (inputs,
outputs) are those of the Linear that computes the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_DIMENSIONS = {"linear": 0, "conv1d": 1, "conv2d": 2, "conv3d": 3}


def untransposed(kind: str) -> str:
    """``conv2d`` for ``conv_transpose2d``, ``linear`` for ``linear_transposed``; any other kind as it is.

    Whether a weight is stored transposed is often known to a module only, not to names and shapes in a file.
    """
    return kind.removesuffix("_transposed").replace("_transpose", "")


def factor_shapes(kind: str, shape: Sequence[int], rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of the weights ``down`` and ``up`` that stand for a weight of `shape`.

    Args:
        kind: ``linear``, ``linear_transposed``, ``conv1d`` … ``conv_transpose3d``.
        shape: of the original weight: (out, in), (out, in, k…) or, transposed, (in, out), (in, out, k…).
        rank: number of singular values kept, r.

    Returns:
        linear, transposed or not, (r, in) and (out, r); conv (r, in, k…) and (out, r, 1…); transposed conv
        (r, in, 1…) and (r, out, k…).

    Raises:
        ValueError: the kind has no factors, or the shape does not suit it.
    """
    kernel = tuple(shape[2:])
    dimensions = _DIMENSIONS.get(untransposed(kind))
    if dimensions is None or len(shape) != 2 + dimensions:
        raise ValueError(f"a {kind} weight of {len(shape)} dimensions has no factors")
    ones = (1,) * dimensions
    if kind == "linear_transposed":
        return (rank, shape[0]), (shape[1], rank)
    if kind.startswith("conv_transpose"):
        return (rank, shape[0], *ones), (rank, shape[1], *kernel)
    return (rank, shape[1], *kernel), (shape[0], rank, *ones)


def join_factors(kind: str, shape: Sequence[int], down: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """The dense weight of `shape` that two factors stand for, computed in float32 at least, in their dtype.

    Args:
        kind: see `factor_shapes`.
        shape: of the original weight.
        down: see `factor_shapes`.
        up: see `factor_shapes`.

    Raises:
        ValueError: shapes or types do not fit together.
    """
    import torch

    rank = down.shape[0] if down.dim() else 0
    if (tuple(down.shape), tuple(up.shape)) != factor_shapes(kind, shape, rank):
        raise ValueError(f"factors {tuple(down.shape)} and {tuple(up.shape)} do not make {tuple(shape)}")
    if down.dtype != up.dtype:
        raise ValueError(f"one factor is {down.dtype}, the other {up.dtype}")
    dtype = torch.promote_types(down.dtype, torch.float32)
    if kind.startswith("conv_transpose"):
        left, right = down.reshape(rank, -1).T, up.reshape(rank, -1)
    else:
        left, right = up.reshape(-1, rank), down.reshape(rank, -1)
    product = (left.to(dtype) @ right.to(dtype)).to(down.dtype)
    return product.T.contiguous() if kind == "linear_transposed" else product.reshape(tuple(shape))
