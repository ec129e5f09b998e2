"""A tensor some of whose rows are those of the identity, without them.

The second factor of a product of rank r may be chosen so: the first holds r rows of the weight itself, the pivots,
and the second what every row is made of, which for these is 1 of itself (`decomposition.pivoting`). ``NAME``, of
shape (rows, r, 1…), becomes two tensors:

    NAME.pivots        int32, (r,): which rows are those of the identity, in their order, ascending
    NAME.coefficients  (rows − r, r, 1…): the others, in their order

so that a product is stored in r·(rows + columns − r) numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from rmt_compress.layers.layer import FLOAT_DTYPES, TensorInfo

if TYPE_CHECKING:
    import torch

PIVOTS, COEFFICIENTS = ".pivots", ".coefficients"

# What two more entries of a file's header take, and their names in the manifest: more than they may come to need.
_OVERHEAD = 640
_ITEMSIZE = 4
_MAX_ROWS = 2**31 - 1


class PivotRows(NamedTuple):
    """The two parts of an encoded tensor; see the module's text."""

    pivots: torch.Tensor
    coefficients: torch.Tensor


def encoded_bytes(rows: int, rank: int, itemsize: int) -> int:
    """Bytes a file needs for an encoded tensor, the cost of two entries instead of one included."""
    return (rows - rank) * rank * itemsize + rank * _ITEMSIZE + _OVERHEAD


def may_be_smaller(info: TensorInfo) -> bool:
    """Whether a tensor of this shape and type takes fewer bytes, should it have every row of the identity."""
    if info.dtype not in FLOAT_DTYPES or len(info.shape) < 2 or math.prod(info.shape[2:]) != 1:
        return False
    rows, rank = info.shape[:2]
    if not 0 < rank < rows <= _MAX_ROWS:
        return False
    return encoded_bytes(rows, rank, info.nbytes // (rows * rank)) < info.nbytes


def encode_if_smaller(tensor: torch.Tensor) -> PivotRows | None:
    """The encoding of `tensor`; None where it would not be smaller, or has not every row of the identity."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    if not may_be_smaller(TensorInfo("", tuple(tensor.shape), dtype, tensor.nbytes)):
        return None
    import torch

    rows, rank = tensor.shape[:2]
    matrix = tensor.reshape(rows, rank)
    # −0.0 would come back as 0.
    plain = (matrix.count_nonzero(1) == 1) & ~torch.signbit(matrix).any(1)
    found = [
        index for index in plain.nonzero().flatten().tolist() if matrix[index, matrix[index].argmax()].item() == 1
    ]
    place: dict[int, int] = {}
    for index in found:
        place.setdefault(int(matrix[index].argmax()), index)
    pivots = [place[column] for column in range(rank)] if len(place) == rank else []
    if not pivots or pivots != sorted(pivots):
        return None
    kept = torch.ones(rows, dtype=torch.bool)
    kept[pivots] = False
    return PivotRows(torch.tensor(pivots, dtype=torch.int32), tensor[kept].contiguous())


def pivot_shape(rank: int, coefficients: Sequence[int]) -> tuple[int, ...]:
    """The shape of the tensor that so many pivots and coefficients of this shape stand for; nothing is allocated.

    Raises:
        ValueError: saying what does not agree.
    """
    if len(coefficients) < 2 or coefficients[1] != rank or math.prod(coefficients[2:]) != 1:
        raise ValueError(f"its {rank} pivots do not suit coefficients of shape {tuple(coefficients)}")
    return (rank + coefficients[0], *coefficients[1:])


def decode(parts: PivotRows) -> torch.Tensor:
    """The tensor that `parts` stand for.

    Raises:
        ValueError: the parts are of wrong type, do not agree with each other, or are not as `encode_if_smaller`
            writes them.
    """
    import torch

    pivots, coefficients = parts
    if pivots.dtype != torch.int32 or pivots.dim() != 1:
        raise ValueError("its pivots are no 1-d int32 tensor")
    if str(coefficients.dtype).removeprefix("torch.") not in FLOAT_DTYPES:
        raise ValueError("its coefficients are no floating-point tensor")
    rank = len(pivots)
    shape = pivot_shape(rank, coefficients.shape)
    places = pivots.long()
    if rank and (int(places[0]) < 0 or int(places[-1]) >= shape[0] or bool((places.diff() <= 0).any())):
        raise ValueError(f"its pivots are not ascending rows of {shape[0]}")
    kept = torch.ones(shape[0], dtype=torch.bool)
    kept[places] = False
    whole = torch.empty(shape, dtype=coefficients.dtype)
    whole[kept] = coefficients
    whole[places] = torch.eye(rank, dtype=coefficients.dtype).reshape(rank, *shape[1:])
    return whole
