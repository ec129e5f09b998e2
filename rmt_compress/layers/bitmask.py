"""A tensor with many zeros as a bitmask and its non-zero values.

``NAME`` becomes three tensors:

    NAME.bits    uint8, ceil(entries / 8): bit i (least significant first) of byte j stands for entry 8j + i of the
                 flattened tensor and is set where that entry is not zero; bits beyond the last entry are 0
    NAME.values  (non-zeros,): the non-zero entries in order, in the tensor's own type
    NAME.shape   int64, (dimensions,): the tensor's shape

An entry counts as zero where it compares equal to 0: NaN and Inf are kept to the bit, −0.0 becomes 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from rmt_compress.layers.layer import FLOAT_DTYPES

if TYPE_CHECKING:
    import torch

BITS, VALUES, SHAPE = ".bits", ".values", ".shape"

# torch's own limits.
_MAX_ENTRIES = 2**63 - 1
_MAX_DIMENSIONS = 64

# The shape, and what two more entries of a file's header take: a tensor of a few bytes gains nothing.
_OVERHEAD = 320


class SparseTensor(NamedTuple):
    """The three parts of an encoded tensor; see the module's text."""

    bits: torch.Tensor
    values: torch.Tensor
    shape: torch.Tensor


def encoded_bytes(numel: int, nonzeros: int, itemsize: int) -> int:
    """Bytes a file needs for an encoded tensor, the cost of three entries instead of one included."""
    return bits_length(numel) + nonzeros * itemsize + _OVERHEAD


def bits_length(numel: int) -> int:
    """Bytes of the bitmask of a tensor with `numel` entries."""
    return -(-numel // 8)


def encode_if_smaller(tensor: torch.Tensor) -> SparseTensor | None:
    """The encoding of `tensor`, or None where it would not be smaller or the type has no encoding."""
    if str(tensor.dtype).removeprefix("torch.") not in FLOAT_DTYPES:
        return None
    nonzeros = int(tensor.count_nonzero())
    dense = tensor.numel() * tensor.element_size()
    if encoded_bytes(tensor.numel(), nonzeros, tensor.element_size()) >= dense:
        return None
    return encode(tensor)


def encode(tensor: torch.Tensor) -> SparseTensor:
    """The bitmask and the non-zero values of a floating-point tensor, on the CPU, whatever their size.

    Raises:
        ValueError: the element type has no encoding.
    """
    import numpy as np
    import torch

    if str(tensor.dtype).removeprefix("torch.") not in FLOAT_DTYPES:
        raise ValueError(f"a {tensor.dtype} tensor has no sparse encoding")
    flat = tensor.detach().cpu().reshape(-1)
    mask = flat != 0
    bits = torch.from_numpy(np.packbits(mask.numpy(), bitorder="little"))
    return SparseTensor(bits, flat[mask], torch.tensor(tensor.shape, dtype=torch.int64))


def sparse_shape(shape: Sequence[int], bits_bytes: int, values: int) -> tuple[int, ...]:
    """The numbers in ``NAME.shape``, once they agree with the lengths of the other two; nothing is allocated.

    Raises:
        ValueError: saying what does not agree.
    """
    if len(shape) > _MAX_DIMENSIONS or any(length < 0 for length in shape):
        raise ValueError("its shape is none")
    entries = 1
    for length in shape:
        entries *= max(length, 1)
        if entries > _MAX_ENTRIES:
            raise ValueError("its shape has more entries than a tensor can have")
    numel = math.prod(shape)
    if bits_bytes != bits_length(numel):
        raise ValueError(f"{numel} entries need {bits_length(numel)} bytes of bits, it has {bits_bytes}")
    if values > numel:
        raise ValueError(f"{values} values for {numel} entries")
    return tuple(shape)


def decode(parts: SparseTensor) -> torch.Tensor:
    """The dense tensor that `parts` stand for.

    Raises:
        ValueError: the parts are of wrong type, do not agree with each other, or are not as `encode` writes them.
    """
    import numpy as np
    import torch

    bits, values, shape = parts
    if bits.dtype != torch.uint8 or bits.dim() != 1:
        raise ValueError("its bits are no 1-d uint8 tensor")
    if str(values.dtype).removeprefix("torch.") not in FLOAT_DTYPES or values.dim() != 1:
        raise ValueError("its values are no 1-d floating-point tensor")
    if shape.dtype != torch.int64 or shape.dim() != 1 or len(shape) > _MAX_DIMENSIONS:
        raise ValueError("its shape is no short 1-d int64 tensor")
    sizes = sparse_shape(shape.tolist(), len(bits), len(values))
    numel = math.prod(sizes)
    if numel % 8 and int(bits[-1]) >> numel % 8:
        raise ValueError("bits are set beyond its last entry")
    mask = torch.from_numpy(np.unpackbits(bits.numpy(), count=numel, bitorder="little").view(np.bool_))
    nonzeros = int(mask.count_nonzero())
    if nonzeros != len(values):
        raise ValueError(f"{nonzeros} bits are set for {len(values)} values")
    if bool((values == 0).any()):
        raise ValueError("a zero stands among its values")
    dense = torch.zeros(numel, dtype=values.dtype)
    dense[mask] = values
    return dense.reshape(sizes)
