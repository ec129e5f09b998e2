"""What may become of a weight: two factors, zeros, or neither; what its factors are called, and their product.

Two factors are two stock layers, see `rmt_compress.layers.low_rank`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from rmt_compress.layers.group_patterns import Pattern
from rmt_compress.layers.kinds import KINDS, factor_shapes
from rmt_compress.layers.layer import FLOAT_DTYPES, Layer

if TYPE_CHECKING:
    import torch


def zeroing_refusal(layer: Layer) -> str | None:
    """Why no entry of a tensor may be zeroed: biases, norms, embedding tables, buffers, whole numbers."""
    if not KINDS[layer.kind].zeroes:
        return f"no entry of a tensor of kind {layer.kind} may be zeroed"
    if (reason := layer.why_skipped or layer.why_fixed) is not None:
        return f"none of its entries may be zeroed: {reason}"
    if layer.dtype not in FLOAT_DTYPES:
        return f"none of its entries may be zeroed: stored as {layer.dtype}"
    return None


def pattern_refusal(layer: Layer, pattern: Pattern, rank: int | None = None) -> str | None:
    """Why neither a weight nor its factors can have a pattern; with a `rank` one of the two is enough."""
    if (reason := zeroing_refusal(layer)) is not None:
        return reason
    kind = KINDS[layer.kind]
    if kind.stacked or kind.swaps or layer.matrix is None:
        return f"a weight of kind {layer.kind} has no pattern {pattern}"
    columns = layer.matrix[1]
    if columns % pattern.of and (rank is None or rank % pattern.of):
        return f"no pattern {pattern}: {columns} columns are no multiple of {pattern.of}"
    return None


class FactorNames(NamedTuple):
    """Names of the tensors that take the place of a weight and its bias."""

    down: str
    up: str
    bias: str


class Factors(NamedTuple):
    """The weights of the two layers, in the shapes their modules have."""

    down: torch.Tensor
    up: torch.Tensor


def split_refusal(layer: Layer) -> str | None:
    """Why a layer cannot become two stock layers, whatever the rank; None if it can.

    A stack cannot become layers but two thinner stacks, which `load_dense` multiplies again.
    """
    if (refusal := layer.why_fixed or layer.why_whole) is not None:
        return refusal
    kind = KINDS[layer.kind]
    if not kind.splits:
        return f"a weight of kind {layer.kind} cannot be split into two stock layers"
    if layer.tied or (kind.stacked and layer.aliases):
        return f"tied to {', '.join(layer.aliases)}: a split would untie it"
    if layer.groups > 1:
        return f"a convolution of {layer.groups} groups"
    if layer.in_graph or kind.stacked:
        return None
    if not is_weight(layer.tensor):
        return "not the weight of a layer of its own, but part of a larger one"
    if kind.convolution and not kind.swaps and layer.shape[1] == 1 and layer.shape[0] > 1:
        return "one input channel per filter: depthwise, or a first layer on grey images"
    return None


def is_weight(tensor: str) -> bool:
    """Whether a tensor of this name is the weight of a layer of its own; a bare module's name has no prefix."""
    return tensor.rpartition(".")[2] == "weight"


def module_path(tensor: str) -> str:
    """Path of the module that a tensor belongs to: ``fc1`` for ``fc1.weight``, empty for ``weight``."""
    return tensor.rpartition(".")[0]


def beside(tensor: str, name: str) -> str:
    """The tensor called `name` in the module of another: ``fc1.bias`` for ``fc1.weight`` and ``bias``."""
    path, dot, _ = tensor.rpartition(".")
    return f"{path}{dot}{name}"


def factor_names(tensor: str, kind: str = "linear") -> FactorNames:
    """Names of the factors of a weight: ``fc1.weight`` -> ``fc1.down.weight``, ``fc1.up.weight``, ``fc1.up.bias``.

    A stack often is a parameter of another name: ``gate_up_proj`` -> ``gate_up_proj.down.weight``; its bias stays
    where it is.

    Raises:
        ValueError: no name of a layer's weight.
    """
    if kind in KINDS and KINDS[kind].stacked and not is_weight(tensor):
        tensor = f"{tensor}.weight"
    if not is_weight(tensor):
        raise ValueError(f"{tensor} is not the weight of a layer of its own")
    return FactorNames(*(beside(tensor, name) for name in ("down.weight", "up.weight", "up.bias")))


def factor_tensors(layer: Layer, down: torch.Tensor, up: torch.Tensor) -> Factors:
    """The weights of the two layers from the factors of the matrix, `down` (r, columns) and `up` (rows, r).

    Of a stack they are (experts, r, columns) and (experts, rows, r).
    """
    shapes = factor_shapes(layer.kind, layer.shape, down.shape[-2])
    parts = (up.T, down) if KINDS[layer.kind].swaps else (down, up)
    return Factors(*(part.reshape(shape).contiguous() for part, shape in zip(parts, shapes, strict=True)))


def factor_matrices(kind: str, factors: Factors) -> tuple[torch.Tensor, torch.Tensor]:
    """``down`` (r, columns) and ``up`` (rows, r), whose product up·down is the matrix; undoes `factor_tensors`."""
    if KINDS[kind].stacked:
        return factors.down, factors.up
    rank = factors.down.shape[0]
    if KINDS[kind].swaps:
        return factors.up.reshape(rank, -1), factors.down.reshape(rank, -1).T
    return factors.down.reshape(rank, -1), factors.up.reshape(-1, rank)


def join_factors(kind: str, shape: Sequence[int], down: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """The dense weight of `shape` that two factors stand for, computed in float32 at least, in their dtype.

    Raises:
        ValueError: shapes, see `factor_shapes`, or types do not fit together.
    """
    import torch

    stacked = kind in KINDS and KINDS[kind].stacked
    rank = down.shape[-2 if stacked else 0] if down.dim() > 1 else 0
    if (tuple(down.shape), tuple(up.shape)) != factor_shapes(kind, shape, rank):
        raise ValueError(f"factors {tuple(down.shape)} and {tuple(up.shape)} do not make {tuple(shape)}")
    if down.dtype != up.dtype:
        raise ValueError(f"one factor is {down.dtype}, the other {up.dtype}")
    dtype = torch.promote_types(down.dtype, torch.float32)
    right, left = factor_matrices(kind, Factors(down, up))
    product = (left.to(dtype) @ right.to(dtype)).to(down.dtype)
    return KINDS[kind].as_weight(product, shape)
