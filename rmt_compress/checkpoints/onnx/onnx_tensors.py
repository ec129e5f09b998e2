"""The tensors of an ONNX model: what they declare is checked against what is there, values are read one at a time.

A tensor lies in the model itself, as bytes or in a field of its own type, or in a file beside the model ("external
data": https://github.com/onnx/onnx/blob/main/docs/ExternalData.md). A model is a stranger's: no file outside its
folder is opened, and no memory is taken for a size that nothing in the file backs.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rmt_compress.checkpoints.recognition import unreadable
from rmt_compress.errors import CheckpointError
from rmt_compress.wording import printable

if TYPE_CHECKING:
    import torch
    from onnx import SparseTensorProto, TensorProto

# ONNX's number of an element type -> torch's name and the bits of one element.
DTYPES: dict[int, tuple[str, int]] = {
    1: ("float32", 32),
    2: ("uint8", 8),
    3: ("int8", 8),
    4: ("uint16", 16),
    5: ("int16", 16),
    6: ("int32", 32),
    7: ("int64", 64),
    9: ("bool", 8),
    10: ("float16", 16),
    11: ("float64", 64),
    12: ("uint32", 32),
    13: ("uint64", 64),
    16: ("bfloat16", 16),
    17: ("float8_e4m3fn", 8),
    18: ("float8_e4m3fnuz", 8),
    19: ("float8_e5m2", 8),
    20: ("float8_e5m2fnuz", 8),
    21: ("uint4", 4),
    22: ("int4", 4),
}
NUMBERS = {name: number for number, (name, _) in DTYPES.items()}
# The field in which a type's values lie where they are not bytes; all others are in int32_data.
_FIELDS = {1: "float_data", 7: "int64_data", 11: "double_data", 12: "uint64_data", 13: "uint64_data"}
_MAX_DIMENSIONS = 64
_MAX_ENTRIES = 2**63 - 1
# A sparse tensor must not unfold to more than this, or than this many times the bytes it is stored in.
_SPARSE_BYTES, _SPARSE_RATIO = 2**26, 1000


@dataclass(frozen=True)
class ExternalData:
    """A stretch of a file within the model's folder: its first byte, counted from 0, and how many there are."""

    file: Path
    offset: int
    length: int


def nbytes(dims: Sequence[int], data_type: int) -> int:
    """Bytes of the dense values."""
    return -(-math.prod(dims) * DTYPES[data_type][1] // 8)


def check_tensor(tensor: TensorProto, path: Path, name: str) -> ExternalData | None:
    """Hold the shape a tensor declares against the values it has; where these are, if not in the model.

    Its type is one of `DTYPES`; `path`, the model's, and `name` are for messages.
    """
    dims = list(tensor.dims)
    check_dims(dims, path, name)
    expected = nbytes(dims, tensor.data_type)
    if tensor.HasField("segment"):
        raise _damaged(path, f"{name} is one segment of a tensor, which no program writes")
    if tensor.data_location == tensor.EXTERNAL:
        return _external(tensor, path, name, expected)
    if tensor.HasField("raw_data"):
        if len(tensor.raw_data) != expected:
            raise _damaged(path, f"{name} has {len(tensor.raw_data):,} bytes where its shape asks for {expected:,}")
        return None
    count = len(getattr(tensor, _FIELDS.get(tensor.data_type, "int32_data")))
    # An entry holds two elements of 4 bits.
    entries = expected if DTYPES[tensor.data_type][1] == 4 else math.prod(dims)
    if count != entries:
        raise _damaged(path, f"{name} has {count:,} values where its shape asks for {entries:,}")
    return None


def check_dims(dims: Sequence[int], path: Path, name: str) -> None:
    """Refuse a shape that no tensor can have: negative, of too many dimensions, or beyond all counting."""
    entries = 1
    for length in dims:
        entries *= max(length, 1)
        if length < 0 or entries > _MAX_ENTRIES or len(dims) > _MAX_DIMENSIONS:
            shown = "×".join(map(str, dims[:8]))
            raise _damaged(path, f"{name} has the impossible shape {shown}")


def read_tensor(tensor: TensorProto, external: ExternalData | None, path: Path, name: str) -> torch.Tensor:
    """A copy of the values of a tensor that `check_tensor` has looked at.

    Elements of 4 bits come as whole bytes.
    """
    import torch

    dtype_name, bits = DTYPES[tensor.data_type]
    if external is not None:
        raw = _read_external(external, name)
    elif tensor.HasField("raw_data"):
        raw = bytearray(tensor.raw_data)
    else:
        return _from_field(tensor)
    if bits == 4:
        packed = torch.frombuffer(raw, dtype=torch.uint8)
        return _unpacked(packed, signed=dtype_name == "int4")[: math.prod(tensor.dims)].reshape(tuple(tensor.dims))
    dtype: torch.dtype = getattr(torch, dtype_name)
    if not raw:
        return torch.empty(tuple(tensor.dims), dtype=dtype)
    return torch.frombuffer(raw, dtype=dtype).reshape(tuple(tensor.dims))


def check_sparse(tensor: SparseTensorProto, path: Path, name: str) -> None:
    """Hold a sparse tensor's shape, values and indices against one another.

    One that would unfold to far more than the file has room for is refused.
    """
    dims = list(tensor.dims)
    check_dims(dims, path, name)
    values, indices = tensor.values, tensor.indices
    for part, what in ((values, "values"), (indices, "indices")):
        if part.data_type not in DTYPES or part.data_location == part.EXTERNAL:
            raise _damaged(path, f"the {what} of {name} are of no known type, or in another file")
        check_tensor(part, path, f"{name} ({what})")
    count = math.prod(values.dims)
    if indices.data_type != 7 or list(indices.dims) not in ([count], [count, len(dims)]) or len(values.dims) != 1:
        raise _damaged(path, f"{name} has {count:,} values and other than as many indices")
    size = nbytes(dims, values.data_type)
    if size > max(_SPARSE_BYTES, _SPARSE_RATIO * nbytes([count], values.data_type)):
        raise CheckpointError(
            f"{path}: {name}, {count:,} values, would unfold to {size:,} bytes: refused as a memory trap"
        )


def read_sparse(tensor: SparseTensorProto, path: Path, name: str) -> torch.Tensor:
    """The dense values of a sparse tensor that `check_sparse` has looked at."""
    import torch

    dims = tuple(tensor.dims)
    values = read_tensor(tensor.values, None, path, name)
    indices = read_tensor(tensor.indices, None, path, name)
    if indices.dim() == 2:
        if bool(((indices < 0) | (indices >= torch.tensor(dims))).any()):
            raise _damaged(path, f"an index of {name} is outside its shape")
        strides = [math.prod(dims[axis + 1 :]) for axis in range(len(dims))]
        indices = (indices * torch.tensor(strides)).sum(1)
    elif indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < math.prod(dims):
        raise _damaged(path, f"an index of {name} is outside its shape")
    dense = torch.zeros(math.prod(dims), dtype=values.dtype)
    dense[indices] = values
    return dense.reshape(dims)


def _external(tensor: TensorProto, path: Path, name: str, expected: int) -> ExternalData:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if not isinstance(location, str):  # what is no UTF-8 comes as bytes
        raise _damaged(path, f"{name} lies where no file is, {location!r}")
    file = _within_folder(path, location, name)
    try:
        offset = int(entries.get("offset", "0"))
        size = file.stat().st_size
        length = int(entries.get("length", str(size - offset)))
    except ValueError as error:
        raise _damaged(path, f"{name} lies at no sound place of {location}") from error
    except OSError as error:
        raise CheckpointError(
            f"{path}: {name} lies in {location}, which {_why(error)}; it belongs beside the model, fetch it too"
        ) from error
    if not file.is_file():
        raise CheckpointError(f"{path}: {name} lies in {location}, which is no regular file")
    if offset < 0 or length != expected:
        raise _damaged(path, f"{name} has {length:,} bytes in {location} where its shape asks for {expected:,}")
    if offset + length > size:
        raise CheckpointError(
            f"{path}: {name} ends at byte {offset + length:,} of {location}, which has {size:,}; download it again"
        )
    return ExternalData(file, offset, length)


def _within_folder(path: Path, location: str, name: str) -> Path:
    """The file at `location`, which must not leave the model's folder, be it by a link."""
    given = Path(location)
    leaves = not location or "\0" in location or given.is_absolute() or ".." in given.parts or ":" in location
    try:
        folder = path.parent.resolve()
        file = given if leaves else (folder / given).resolve()
    except (OSError, RuntimeError):  # a link that leads back to itself
        leaves = True
    if leaves or not file.is_relative_to(folder):
        raise CheckpointError(
            printable(
                f"{path}: {name} is said to lie in {location!r}, outside the model's folder, and such a file is "
                "not opened; put it beside the model"
            )
        )
    return file


def _why(error: OSError) -> str:
    return "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"


def _read_external(external: ExternalData, name: str) -> bytearray:
    raw = bytearray(external.length)
    try:
        # Its place was followed through all links before: one that has come since leads elsewhere.
        with open(external.file, "rb", opener=_not_by_a_link) as file:
            file.seek(external.offset)
            count = file.readinto(raw)
    except OSError as error:
        raise unreadable(external.file, error) from error
    if count != external.length:
        raise CheckpointError(f"{external.file}: ends within {name}; it was changed while it was being read")
    return raw


def _not_by_a_link(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0))


def _from_field(tensor: TensorProto) -> torch.Tensor:
    import numpy as np
    import torch

    name, bits = DTYPES[tensor.data_type]
    dims = tuple(tensor.dims)
    if tensor.data_type in _FIELDS:
        values = np.array(getattr(tensor, _FIELDS[tensor.data_type]), dtype=name)
        return torch.from_numpy(values).reshape(dims)
    # Integers, or the bits of a short float in one.
    width = {4: np.uint8, 8: np.uint8, 16: np.uint16, 32: np.uint32}[bits]
    stored = torch.from_numpy(np.array(tensor.int32_data, dtype=np.int64).astype(width))
    if bits == 4:
        return _unpacked(stored, signed=name == "int4")[: math.prod(dims)].reshape(dims)
    dtype: torch.dtype = getattr(torch, name)
    return stored.view(dtype).reshape(dims)


def _unpacked(packed: torch.Tensor, *, signed: bool) -> torch.Tensor:
    import torch

    both = torch.stack((packed & 15, packed >> 4), dim=1).flatten()
    return torch.where(both > 7, both.to(torch.int8) - 16, both.to(torch.int8)) if signed else both


def _damaged(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"{path}: damaged ONNX model: {printable(reason)}; export or download it again")


def tensor_proto(name: str, tensor: torch.Tensor) -> TensorProto:
    """A tensor as ONNX stores it, its values as bytes."""
    import torch
    from onnx import TensorProto

    number = NUMBERS[str(tensor.dtype).removeprefix("torch.")]
    values = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return TensorProto(name=name, data_type=number, dims=list(tensor.shape), raw_data=values)
