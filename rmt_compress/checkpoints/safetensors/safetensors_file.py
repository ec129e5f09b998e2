"""Single ``.safetensors`` files, read without mapping them.

The library's own reader maps the file, so every page it touches counts as resident memory, and it refuses a
whole file for one element type it does not know. The format is eight bytes of header length, a JSON header
and raw values (https://huggingface.co/docs/safetensors): here the header is checked against the file before
anything else is believed, and `read` copies one tensor's bytes into memory of its own.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from rmt_compress.checkpoints.base import Checkpoint
from rmt_compress.checkpoints.recognition import unreadable
from rmt_compress.checkpoints.strict_json import parse_object
from rmt_compress.errors import CheckpointError
from rmt_compress.layers.layer import TensorInfo

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

# safetensors' name of an element type -> torch's, and its size in bits.
DTYPES: dict[str, tuple[str, int]] = {
    "BOOL": ("bool", 8),
    "U8": ("uint8", 8),
    "I8": ("int8", 8),
    "U16": ("uint16", 16),
    "I16": ("int16", 16),
    "U32": ("uint32", 32),
    "I32": ("int32", 32),
    "U64": ("uint64", 64),
    "I64": ("int64", 64),
    "F16": ("float16", 16),
    "BF16": ("bfloat16", 16),
    "F32": ("float32", 32),
    "F64": ("float64", 64),
    "C64": ("complex64", 64),
    "F8_E4M3": ("float8_e4m3fn", 8),
    "F8_E5M2": ("float8_e5m2", 8),
    "F8_E4M3FNUZ": ("float8_e4m3fnuz", 8),
    "F8_E5M2FNUZ": ("float8_e5m2fnuz", 8),
    "F8_E8M0": ("float8_e8m0fnu", 8),
}

# bfloat16, which numpy has not, is the upper half of a float32.
_KNOWN_TO_NUMPY = frozenset(name for name, _ in DTYPES.values() if not name.startswith("float8"))

# The library's own limit.
MAX_HEADER = 100_000_000
# torch's own limits.
_MAX_ENTRIES = 2**63 - 1
_MAX_DIMENSIONS = 64


@dataclass(frozen=True)
class _Entry:
    info: TensorInfo
    begin: int  # bytes from the start of the file
    end: int


class SafetensorsFile(Checkpoint):
    """One ``.safetensors`` file.

    Names that `safetensors.torch.save_model` dropped because they share a tensor stand in the metadata as
    {dropped: kept}; they are listed as names of the kept tensor.
    """

    format = "safetensors"

    def __init__(self, path: Path) -> None:
        self.path: Path = path
        try:
            with path.open("rb") as file:
                self._identity = _identity(file)
                header, start = _read_header(file, path, self._identity[0])
        except OSError as error:
            raise unreadable(path, error) from error
        self.metadata = _metadata(header, path)
        self._entries = _entries(header, path, start, self._identity[0])
        self._kept = {
            dropped: kept
            for dropped, kept in self.metadata.items()
            if kept in self._entries and dropped not in self._entries
        }
        self._tensors = {name: entry.info for name, entry in self._entries.items()}
        ties: dict[str, tuple[str, ...]] = {}
        for dropped, kept in self._kept.items():
            info = self._entries[kept].info
            self._tensors[dropped] = TensorInfo(dropped, info.shape, info.dtype, info.nbytes)
            ties[kept] = (*ties.get(kept, ()), dropped)
        self._ties = ties
        self.notes = ()

    def read(self, name: str) -> torch.Tensor:
        """A copy of the tensor called `name`, on the CPU, if torch has its type and the file did not change."""
        import torch

        info, dtype = self._info(name), self._dtype(name)
        values = torch.empty(info.nbytes, dtype=torch.uint8)
        self._fill(name, [(self._entry_of(name).begin, values.numpy())])
        return values.view(dtype).reshape(info.shape)

    def reads_blocks(self, name: str) -> bool:
        """See `Checkpoint.reads_blocks`: of what has rows."""
        return math.prod(self._info(name).shape) > 0

    def read_block(self, name: str, rows: slice, columns: slice = slice(None)) -> torch.Tensor:
        """See `Checkpoint.read_block`; nothing else is read."""
        import torch

        info, dtype = self._info(name), self._dtype(name)
        entry = self._entry_of(name)
        width = math.prod(info.shape[1:])
        start, stop, _ = columns.indices(width)
        height = rows.stop - rows.start
        values = torch.empty(height, (stop - start) * dtype.itemsize, dtype=torch.uint8)
        first = entry.begin + (rows.start * width + start) * dtype.itemsize
        if stop - start == width:
            self._fill(name, [(first, values.numpy())])
        else:
            step = width * dtype.itemsize
            self._fill(name, ((first + row * step, values[row].numpy()) for row in range(height)))
        return values.view(dtype)

    def expect(self, name: str) -> None:
        """See `Checkpoint.expect`."""
        entry = self._entry_of(name)
        if not hasattr(os, "posix_fadvise"):
            return
        # Whoever reads it says what is wrong with the file.
        with suppress(OSError), self.path.open("rb") as file:
            os.posix_fadvise(file.fileno(), entry.begin, entry.end - entry.begin, os.POSIX_FADV_WILLNEED)

    def _entry_of(self, name: str) -> _Entry:
        return self._entries[self._kept.get(name, name)]

    def _dtype(self, name: str) -> torch.dtype:
        import torch

        info = self._info(name)
        dtype = getattr(torch, info.dtype, None)
        if not isinstance(dtype, torch.dtype):
            raise CheckpointError(f"{self.path}: {name} is stored as {info.dtype}, which torch cannot read")
        return dtype

    def read_array(self, name: str) -> NDArray[Any]:
        """See `Checkpoint.read_array`; a copy, made without torch."""
        import numpy as np

        info = self._info(name)
        values = np.empty(info.nbytes, dtype=np.uint8)
        self._fill(name, [(self._entry_of(name).begin, values)])
        if info.dtype == "bfloat16":
            wide = values.view(np.uint16).astype(np.uint32)
            wide <<= 16
            return wide.view(np.float32).reshape(info.shape)
        return values.view(info.dtype).reshape(info.shape)

    def nonzeros(self, name: str) -> int:
        """See `Checkpoint.nonzeros`."""
        import numpy as np

        if self._info(name).dtype not in _KNOWN_TO_NUMPY:
            return super().nonzeros(name)
        return int(np.count_nonzero(self.read_array(name)))

    def _fill(self, name: str, places: Iterable[tuple[int, NDArray[np.uint8]]]) -> None:
        """Copy what stands at these places of the file into contiguous arrays, if the file did not change."""
        try:
            with self.path.open("rb", buffering=0) as file:
                if _identity(file) != self._identity:
                    raise CheckpointError(f"{self.path}: changed while it was being read; start again")
                for begin, values in places:
                    if not len(values):
                        continue
                    file.seek(begin)
                    left = memoryview(values.data).cast("B")
                    # The system reads no more than 2 GiB at once.
                    while left and (count := file.readinto(left)):
                        left = left[count:]
                    if left:
                        raise CheckpointError(f"{self.path}: ends within {name}; download it again")
        except OSError as error:
            raise unreadable(self.path, error) from error


def _identity(file: BinaryIO) -> tuple[int, int, int]:
    """Size in bytes, time of change and inode: the same as long as it is the same file."""
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns, status.st_ino


def _read_header(file: BinaryIO, path: Path, size: int) -> tuple[dict[str, object], int]:
    """The header and where the values start, both checked against the file's `size` in bytes."""
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or 8 + length > size:
        promised = f"its header alone promises {8 + length}" if size >= 8 else "not even a header"
        raise CheckpointError(
            f"{path}: truncated or no safetensors file: {size} bytes, {promised}; download or save it again"
        )
    if length > MAX_HEADER:
        raise CheckpointError(f"{path}: no sound safetensors file: a header of {length} bytes is beyond all use")
    try:
        return parse_object(file.read(length)), 8 + length
    except ValueError as error:
        raise _damaged(path, str(error)) from error


def _metadata(header: Mapping[str, object], path: Path) -> dict[str, str]:
    metadata = header.get("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise _damaged(path, "__metadata__ holds something else than text")
    return metadata


def _entries(header: Mapping[str, object], path: Path, start: int, size: int) -> dict[str, _Entry]:
    """Every tensor of the header, its place in the file checked."""
    entries = {
        name: _entry(name, description, path, start)
        for name, description in header.items()
        if name != "__metadata__"
    }
    # As in the format: the tensors fill the rest of the file, one after the other, with no gap and no
    # overlap.
    position = start
    for entry in sorted(entries.values(), key=lambda entry: (entry.begin, entry.end)):
        if entry.begin != position:
            fault = "overlaps the tensor before it" if entry.begin < position else "leaves a gap before it"
            raise _damaged(path, f"{entry.info.name} {fault}")
        position = entry.end
    if position > size:
        raise CheckpointError(
            f"{path}: truncated: {size} bytes, its header promises {position}; download or save it again"
        )
    if position < size:
        raise _damaged(path, f"{size} bytes where its header promises {position}")
    return entries


def _entry(name: str, description: object, path: Path, start: int) -> _Entry:
    fields = description if isinstance(description, dict) else {}
    dtype, shape, offsets = fields.get("dtype"), fields.get("shape"), fields.get("data_offsets")
    # `type(…) is int`, as JSON's true is an int to isinstance.
    if not (
        isinstance(dtype, str)
        and isinstance(shape, list)
        and len(shape) <= _MAX_DIMENSIONS
        and all(type(length) is int and 0 <= length <= _MAX_ENTRIES for length in shape)
        and isinstance(offsets, list)
        and len(offsets) == 2
        and all(type(offset) is int for offset in offsets)
        and 0 <= offsets[0] <= offsets[1]
    ):
        raise _damaged(path, f"{name} is not described by dtype, shape and data_offsets")
    nbytes = offsets[1] - offsets[0]
    if dtype in DTYPES:
        dtype, bits = DTYPES[dtype]
        if _product_is_not(shape, bits, 8 * nbytes):
            raise _damaged(path, f"{name} has {nbytes} bytes, too many or too few for {dtype} {_shown(shape)}")
    else:
        # A type newer than this reader, or narrower than a byte: listed, and skipped for its type.
        # In capitals, so that it can never pass for one of torch's names.
        dtype = dtype.upper()
    info = TensorInfo(name, tuple(shape), dtype, nbytes)
    return _Entry(info, start + offsets[0], start + offsets[1])


def _product_is_not(shape: list[int], bits: int, expected: int) -> bool:
    """Whether a tensor of `shape` has other than `expected` bits, or more entries than torch can count."""
    entries = 1
    for length in shape:
        entries *= max(length, 1)
        if entries > _MAX_ENTRIES:
            return True
    return (0 if 0 in shape else entries * bits) != expected


def _shown(shape: list[int]) -> str:
    return "×".join(map(str, shape[:8])) or "scalar"


def _damaged(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"{path}: damaged safetensors header: {reason}; download or save it again")
