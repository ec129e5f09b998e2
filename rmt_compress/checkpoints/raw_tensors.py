"""Tensors whose values are a record of an archive and whose shape is told elsewhere in it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rmt_compress.layers.layer import TensorInfo

if TYPE_CHECKING:
    import torch

    from rmt_compress.checkpoints.archives import Archive

_MAX_DIMENSIONS = 64
_LARGEST = 2**63

# The element types of the storages that torch names in its pickles.
STORAGE_DTYPES = {
    **{"FloatStorage": "float32", "DoubleStorage": "float64", "HalfStorage": "float16", "LongStorage": "int64"},
    **{"BFloat16Storage": "bfloat16", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8"},
    **{"ByteStorage": "uint8", "BoolStorage": "bool", "ComplexFloatStorage": "complex64"},
    "ComplexDoubleStorage": "complex128",
    **{"QInt8Storage": "qint8", "QUInt8Storage": "quint8", "QInt32Storage": "qint32"},
    **{f"Float8_{kind}Storage": f"float8_{kind}" for kind in ("e4m3fn", "e5m2", "e4m3fnuz", "e5m2fnuz", "e8m0fnu")},
}


@dataclass(frozen=True)
class RawTensor:
    """Where one tensor lies: in which record of the archive, of which type, torch's name, and shape.

    `stride` and `offset`, the place of the first entry, are counted in entries.
    """

    record: str
    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    def describe(self, name: str, archive: Archive) -> TensorInfo:
        """Name, shape and type; a `ValueError` where there is no such type or shape, or more than is stored."""
        import torch

        dtype = getattr(torch, self.dtype, None)
        if not isinstance(dtype, torch.dtype):
            raise ValueError(f"{name} is of type {self.dtype}")
        numbers = (*self.shape, *self.stride, self.offset)
        if any(type(number) is not int or not 0 <= number < _LARGEST for number in numbers):
            raise ValueError(f"{name} has the sizes {numbers!s:.60}")
        if len(self.shape) != len(self.stride) or len(self.shape) > _MAX_DIMENSIONS:
            raise ValueError(f"{name} has {len(self.shape)} sizes and {len(self.stride)} strides")
        stored = archive.size(self.record)
        if 0 not in self.shape:
            last = self.offset + sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))
            if (last + 1) * dtype.itemsize > stored:
                raise ValueError(f"{name} claims {(last + 1) * dtype.itemsize} bytes of a record of {stored}")
        nbytes = math.prod(self.shape) * dtype.itemsize
        skip = f"an expanded view: {stored} bytes repeated to fill {nbytes}" if nbytes > stored else None
        return TensorInfo(name, self.shape, self.dtype, nbytes, skip)

    def read(self, archive: Archive) -> torch.Tensor:
        """The values in memory of their own, on the CPU; laid out as they are stored."""
        return self.view(archive.read(self.record))

    def view(self, storage: bytearray) -> torch.Tensor:
        """The tensor as a view of a storage's bytes."""
        import torch

        dtype: torch.dtype = getattr(torch, self.dtype)
        if 0 in self.shape:
            return torch.empty(self.shape, dtype=dtype)
        values = torch.frombuffer(storage, dtype=dtype, count=len(storage) // dtype.itemsize)
        return values.as_strided(self.shape, self.stride, self.offset)
