"""A matrix of which k of every n neighbouring entries of a row are kept, without the others.

``NAME``, a weight of any shape whose rows are its first axis, or its second, becomes three tensors:

    NAME.kept     (rows, columns·k/n): the kept entries of every row in order, in the tensor's own type
    NAME.places   uint8: where in its group of n each of them stands, in ⌈log₂ n⌉ bits (2 of 2:4), least significant
                  first, one after the other without gaps; bits beyond the last are 0
    NAME.pattern  int64: k, n, the axis that groups run along (1: all axes but the first; 0: the first of two), and
                  the tensor's shape

Of a group with fewer entries that are not zero some kept ones are zeros. −0.0 becomes 0.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from rmt_compress.layers.layer import FLOAT_DTYPES

if TYPE_CHECKING:
    import torch

KEPT, PLACES, PATTERN = ".kept", ".places", ".pattern"

MOST = 16
"""Entries of the largest group."""

_TEXT = re.compile(r"(\d+):(\d+)")
_HEADER = 3
_MAX_DIMENSIONS = 64
# What two more entries of a file's header take, with the header tensor and the names in the manifest.
_OVERHEAD = 400


class Pattern(NamedTuple):
    """`kept` of every `of` neighbouring entries stay."""

    kept: int
    of: int

    @property
    def width(self) -> int:
        """Bits of a place in a group."""
        return (self.of - 1).bit_length()

    def __str__(self) -> str:
        return f"{self.kept}:{self.of}"


class Grouped(NamedTuple):
    """The three parts of an encoded tensor; see the module's text."""

    kept: torch.Tensor
    places: torch.Tensor
    pattern: torch.Tensor


def pattern_called(text: str) -> Pattern:
    """``2:4`` as a pattern.

    Raises:
        ValueError: no such pattern, in words.
    """
    match = _TEXT.fullmatch(text)
    if match is None or not 0 < int(match[1]) < int(match[2]) <= MOST:
        raise ValueError(
            f"a pattern is K:N, K of every N entries kept, 0 < K < N <= {MOST}, such as 2:4; got {text!r}"
        )
    return Pattern(int(match[1]), int(match[2]))


def encode_if_smaller(tensor: torch.Tensor, pattern: Pattern, axis: int = 1) -> Grouped | None:
    """The encoding of `tensor`; None where bitmask or tensor are smaller, or a group has more entries than that."""
    if str(tensor.dtype).removeprefix("torch.") not in FLOAT_DTYPES or tensor.dim() < 2:
        return None
    # A bitmask takes n bits of a group.
    smaller = pattern.kept * pattern.width <= pattern.of
    kept = tensor.numel() // pattern.of * pattern.kept
    if not smaller or kept * (8 * tensor.element_size() + pattern.width) // 8 + _OVERHEAD >= tensor.nbytes:
        return None
    rows = _rows(tensor, axis)
    if rows.shape[1] % pattern.of:
        return None
    groups = rows.reshape(-1, pattern.of)
    if bool(((groups != 0).sum(1) > pattern.kept).any()):
        return None
    return encode(tensor, pattern, axis)


def encode(tensor: torch.Tensor, pattern: Pattern, axis: int = 1) -> Grouped:
    """The parts of a tensor no group of which has more than the pattern's entries, on the CPU."""
    import torch

    rows = _rows(tensor.detach().cpu(), axis)
    groups = rows.reshape(-1, pattern.of)
    # Entries that are not zero first, both kinds in their order; then the kept ones in order again.
    first = (groups == 0).to(torch.uint8).argsort(dim=1, stable=True)[:, : pattern.kept]
    places = first.sort(dim=1).values
    kept = groups.gather(1, places)
    kept = torch.where(kept == 0, torch.zeros((), dtype=kept.dtype), kept).reshape(len(rows), -1)
    header = torch.tensor([*pattern, axis, *tensor.shape], dtype=torch.int64)
    return Grouped(kept.contiguous(), _packed(places.flatten(), pattern.width), header)


def grouped_shape(header: Sequence[int], kept: Sequence[int], places: int) -> tuple[int, ...]:
    """The shape in ``NAME.pattern``, once the other two parts have the sizes it asks for; nothing is allocated.

    Raises:
        ValueError: saying what does not agree.
    """
    if not _HEADER + 2 <= len(header) <= _HEADER + _MAX_DIMENSIONS or any(length < 0 for length in header):
        raise ValueError("its pattern is none")
    of = _pattern_of(header)
    axis, shape = header[2], tuple(header[_HEADER:])
    if axis not in (0, 1) or (axis == 0 and len(shape) != 2):
        raise ValueError("its groups run along no axis")
    rows = shape[1 - axis] if axis == 0 else shape[0]
    columns = shape[0] if axis == 0 else math.prod(shape[1:])
    if columns % of.of or tuple(kept) != (rows, columns // of.of * of.kept):
        raise ValueError(f"kept entries of shape {tuple(kept)} do not suit {of} of {shape}")
    if places != -(-math.prod(kept) * of.width // 8):
        raise ValueError(f"{math.prod(kept)} entries have {places} bytes of places")
    return shape


def decode(parts: Grouped) -> torch.Tensor:
    """The tensor that `parts` stand for.

    Raises:
        ValueError: the parts are of wrong type, do not agree with each other, or are not as `encode` writes them.
    """
    import torch

    kept, places, header = parts
    if places.dtype != torch.uint8 or places.dim() != 1:
        raise ValueError("its places are no 1-d uint8 tensor")
    if str(kept.dtype).removeprefix("torch.") not in FLOAT_DTYPES:
        raise ValueError("its kept entries are no floating-point tensor")
    if header.dtype != torch.int64 or header.dim() != 1 or len(header) > _HEADER + _MAX_DIMENSIONS:
        raise ValueError("its pattern is no short 1-d int64 tensor")
    shape = grouped_shape(header.tolist(), kept.shape, len(places))
    pattern = _pattern_of(header.tolist())
    where = _unpacked(places, pattern.width, kept.numel()).reshape(-1, pattern.kept)
    if bool((where >= pattern.of).any() or (where.diff(dim=1) <= 0).any()):
        raise ValueError(f"its places are not ascending ones of {pattern.of}")
    groups = torch.zeros(len(where), pattern.of, dtype=kept.dtype)
    groups.scatter_(1, where, kept.reshape(-1, pattern.kept))
    rows = groups.reshape(kept.shape[0], -1)
    return (rows.T if header[2] == 0 else rows).reshape(shape).contiguous()


def _pattern_of(header: Sequence[int]) -> Pattern:
    kept, of = header[:2]
    return pattern_called(f"{kept}:{of}")


def _rows(tensor: torch.Tensor, axis: int) -> torch.Tensor:
    """The matrix whose rows the groups lie in."""
    return tensor.T.contiguous() if axis == 0 else tensor.reshape(tensor.shape[0], -1)


def _packed(numbers: torch.Tensor, width: int) -> torch.Tensor:
    import numpy as np
    import torch

    bits = (numbers.numpy()[:, None] >> np.arange(width)) & 1
    return torch.from_numpy(np.packbits(bits.astype(np.uint8).reshape(-1), bitorder="little"))


def _unpacked(places: torch.Tensor, width: int, count: int) -> torch.Tensor:
    import numpy as np
    import torch

    bits = np.unpackbits(places.numpy(), bitorder="little")
    if bits[count * width :].any():
        raise ValueError("bits are set beyond its last place")
    digits = bits[: count * width].reshape(count, width).astype(np.int64) << np.arange(width)
    return torch.from_numpy(digits.sum(axis=1))
