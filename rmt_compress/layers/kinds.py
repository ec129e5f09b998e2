"""What is known of each kind of layer: one row per kind, and nobody else asks for kinds by parts of their names.

A Linear or Conv weight is read as (outputs, inputs × kernel) = up · down; a ConvTranspose weight, stored as
(inputs, outputs, kernel…), as (inputs, outputs × kernel): its rows are inputs, and the factors swap their roles. A
product stored (inputs, outputs) is read as the Linear that computes the same. A stack, the same layer of all
experts of a mixture in one tensor, is many matrices of one shape: its last two axes, whichever the outputs are.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal, TypeVar

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

WeightT = TypeVar("WeightT", "torch.Tensor", "NDArray[Any]")
"""A weight as torch has it, or as numpy does where nothing needs torch."""

LayerKind = Literal[
    "linear",
    "linear_transposed",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "stack",
    "recurrent",
    "embedding",
    "factors",
    "vector",
    "unknown",
]


@dataclass(frozen=True)
class Kind:
    """One kind of layer.

    Attributes:
        name: what it is called everywhere.
        classes: torch's classes of such layers, and transformers' Conv1D.
        axes: of its weight.
        rows: the axes that are the rows of its matrix, the others being the columns; empty where it is no matrix.
        outputs: the axis of the outputs; of a kind that splits, the other of the first two is that of the inputs.
        convolution: whether the axes behind the first two are those of a kernel.
        stacked: whether its first axis counts matrices, each of which is a weight of its own.
        splits: whether it is a product or a convolution, which two stock layers can do as well.
        zeroes: whether entries of its weight may be zeroed.
        plain: what names and shapes take it for: that a weight is stored transposed often only a module knows.
        attribute: what its weights are called in them, as a glob.
    """

    name: LayerKind
    classes: tuple[str, ...] = ()
    axes: int = 2
    rows: tuple[int, ...] = (0,)
    outputs: int = 0
    convolution: bool = False
    stacked: bool = False
    splits: bool = False
    zeroes: bool = True
    plain: LayerKind | None = None
    attribute: str = "weight"

    @property
    def swaps(self) -> bool:
        """Whether the matrix is that of the inputs, so that its factor ``up``, transposed, is applied first."""
        return bool(self.rows) and self.outputs not in self.rows

    def matrix(self, shape: Sequence[int]) -> tuple[int, int] | None:
        """(rows, columns) of the matrix that a weight of `shape` is read as; None where it is no matrix.

        Of a stack those of each of its matrices.
        """
        if not self.rows or len(shape) < 2:
            return None
        if self.stacked:
            return shape[-2], shape[-1]
        rows = math.prod(shape[axis] for axis in self.rows)
        return rows, math.prod(shape[axis] for axis in self._columns(len(shape)))

    def as_matrix(self, weight: WeightT) -> WeightT:
        """The weight as its matrix, a view where the memory layout allows; a stack as it is, its matrices first."""
        shape = self.matrix(weight.shape)
        if self.stacked or shape is None:
            return weight
        order = (*self.rows, *self._columns(weight.ndim))
        # What torch calls permute is numpy's transpose.
        turn: Any = weight.permute if hasattr(weight, "permute") else weight.transpose
        turned: WeightT = turn(order).reshape(shape)
        return turned

    def as_weight(self, matrix: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
        """The matrix as a contiguous weight of `shape`; undoes `as_matrix`."""
        if self.stacked:
            return matrix.reshape(*shape).contiguous()
        order = (*self.rows, *self._columns(len(shape)))
        back = sorted(range(len(order)), key=order.__getitem__)
        return matrix.reshape([shape[axis] for axis in order]).permute(back).contiguous()

    def _columns(self, axes: int) -> tuple[int, ...]:
        return tuple(axis for axis in range(axes) if axis not in self.rows)


_RECURRENT = ("RNNBase", "RNN", "LSTM", "GRU", "RNNCellBase", "RNNCell", "LSTMCell", "GRUCell")

_ROWS = (
    Kind("linear", ("Linear",), splits=True),
    Kind("linear_transposed", ("Conv1D",), rows=(1,), outputs=1, splits=True, plain="linear"),
    Kind("conv1d", ("Conv1d",), 3, convolution=True, splits=True),
    Kind("conv2d", ("Conv2d",), 4, convolution=True, splits=True),
    Kind("conv3d", ("Conv3d",), 5, convolution=True, splits=True),
    Kind("conv_transpose1d", ("ConvTranspose1d",), 3, outputs=1, convolution=True, splits=True, plain="conv1d"),
    Kind("conv_transpose2d", ("ConvTranspose2d",), 4, outputs=1, convolution=True, splits=True, plain="conv2d"),
    Kind("conv_transpose3d", ("ConvTranspose3d",), 5, outputs=1, convolution=True, splits=True, plain="conv3d"),
    # (experts, out, in) or (experts, in, out): the product of two factors is of the same order.
    Kind("stack", axes=3, rows=(1,), outputs=1, stacked=True, splits=True),
    Kind("recurrent", _RECURRENT, attribute="weight_*"),
    Kind("embedding", ("Embedding", "EmbeddingBag"), zeroes=False),
    # The first of two tensors whose product is the weight: what matrix that is, the pair says.
    Kind("factors", zeroes=False),
    Kind("vector", axes=1, rows=(), zeroes=False),
    # Weights and biases that are no matrix acting on a vector, whatever their shape.
    Kind("unknown", ("Bilinear", "LayerNorm", "RMSNorm"), rows=(), zeroes=False, attribute="*"),
)
KINDS: dict[str, Kind] = {kind.name: kind for kind in _ROWS}


def untransposed(kind: str) -> str:
    """``conv2d`` for ``conv_transpose2d``, ``linear`` for ``linear_transposed``; any other kind as it is."""
    return (kind in KINDS and KINDS[kind].plain) or kind


def convolution(axes: int, *, transposed: bool) -> LayerKind | None:
    """The kind of a convolution whose weight has so many axes; None where there is none."""
    fitting = (kind.name for kind in _ROWS if kind.convolution and kind.axes == axes and kind.swaps == transposed)
    return next(fitting, None)


def kind_of(classes: Collection[str], attribute: str) -> LayerKind | None:
    """Kind of the layer whose weight stands in one of torch's modules; None where name and shape must tell.

    The classes are that of the module and those it is derived from; `attribute` is what the weight is called in it.
    """
    row = next((row for row in _ROWS if not set(row.classes).isdisjoint(classes)), None)
    return row.name if row is not None and fnmatchcase(attribute, row.attribute) else None


def factor_shapes(kind: str, shape: Sequence[int], rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of the weights ``down`` and ``up`` that stand for a weight of `shape`.

    Args:
        kind: ``linear``, ``linear_transposed``, ``conv1d`` … ``conv_transpose3d``, ``stack``.
        shape: of the original weight: (out, in), (out, in, k…) or, transposed, (in, out), (in, out, k…); of a stack
            (experts, rows, columns).
        rank: number of singular values kept, r.

    Returns:
        linear, transposed or not, (r, in) and (out, r); conv (r, in, k…) and (out, r, 1…); transposed conv
        (r, in, 1…) and (r, out, k…); stack (experts, r, columns) and (experts, rows, r).

    Raises:
        ValueError: the kind has no factors, or the shape does not suit it.
    """
    row = KINDS.get(kind)
    if row is None or not row.splits or len(shape) != row.axes:
        raise ValueError(f"a {kind} weight of {len(shape)} dimensions has no factors")
    if row.stacked:
        return (shape[0], rank, shape[2]), (shape[0], shape[1], rank)
    outputs, inputs, kernel = shape[row.outputs], shape[1 - row.outputs], tuple(shape[2:])
    ones = (1,) * len(kernel)
    if row.swaps:
        return (rank, inputs, *ones), (rank, outputs, *kernel)
    return (rank, inputs, *kernel), (outputs, rank, *ones)
