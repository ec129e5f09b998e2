"""The weights of a torch.export archive: raw values with their shapes in JSON, or one `torch.save` file inside."""

from __future__ import annotations

import io
import json
import math
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rmt_compress.checkpoints.archives import Archive, Record
from rmt_compress.checkpoints.exported_editing import reshaped
from rmt_compress.checkpoints.exported_graph import Json
from rmt_compress.checkpoints.state_dicts import describe, find_ties
from rmt_compress.checkpoints.strict_json import parse_object
from rmt_compress.errors import CheckpointError
from rmt_compress.layers.inference import TensorInfo

if TYPE_CHECKING:
    import torch

# torch.export's number of an element type -> torch's name and its bytes (torch/_export/serde/schema.py).
DTYPES: dict[int, tuple[str, int]] = {
    **{1: ("uint8", 1), 2: ("int8", 1), 3: ("int16", 2), 4: ("int32", 4), 5: ("int64", 8), 6: ("float16", 2)},
    **{7: ("float32", 4), 8: ("float64", 8), 9: ("complex32", 4), 10: ("complex64", 8), 11: ("complex128", 16)},
    **{12: ("bool", 1), 13: ("bfloat16", 2), 28: ("uint16", 2), 29: ("float8_e4m3fn", 1), 30: ("float8_e5m2", 1)},
    **{31: ("float8_e4m3fnuz", 1), 32: ("float8_e5m2fnuz", 1), 33: ("float8_e8m0fnu", 1), 34: ("uint32", 4)},
    35: ("uint64", 8),
}
_MAX_DIMENSIONS = 64
MAX_JSON = 100_000_000

Changes = Mapping[str, "dict[str, torch.Tensor]"]
"""Name of a weight -> what stands in its place: names and values, of one tensor or of two."""


class ExportedWeights(ABC):
    """The tensors of an exported program by their names.

    Attributes:
        infos: names, shapes and types.
        ties: first name of a shared tensor -> its other names.
        records: the records of the archive that hold them.
    """

    infos: dict[str, TensorInfo]
    ties: dict[str, tuple[str, ...]]
    records: frozenset[str]

    @abstractmethod
    def read(self, name: str) -> torch.Tensor:
        """A copy of one tensor, on the CPU."""

    @abstractmethod
    def written(self, changes: Changes) -> Iterator[Record]:
        """The records that hold the weights after `changes`."""


class RawWeights(ExportedWeights):
    """One record of raw values per storage, and a JSON table of shapes: torch 2.9 and later.

    Raises:
        CheckpointError: the table is damaged, or claims more than the records hold.
    """

    def __init__(self, archive: Archive, table: str, folder: str) -> None:
        self._archive = archive
        self._table = table
        self._folder = folder
        try:
            self._config: Json = read_json(archive, table)["config"]
            self._places = {name: self._place(name, entry) for name, entry in self._config.items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise archive.damaged(f"{table}: {type(error).__name__} {error}") from error
        self.infos = {name: info for name, (info, *_) in self._places.items()}
        self.records = frozenset({table, *(folder + entry["path_name"] for entry in self._config.values())})
        self.ties = {}
        firsts: dict[Any, str] = {}
        for name, (info, stride, offset) in self._places.items():
            place = (self._config[name]["path_name"], info.shape, info.dtype, stride, offset)
            first = firsts.setdefault(place, name)
            if first != name:
                self.ties[first] = (*self.ties.get(first, ()), name)

    def _place(self, name: str, entry: Json) -> tuple[TensorInfo, tuple[int, ...], int]:
        """Description, strides and offset of one tensor, held against its record."""
        record = entry["path_name"]
        stored = self._archive.size(self._folder + record)
        if entry["use_pickle"] or entry["tensor_meta"] is None:
            return TensorInfo(name, (), "unknown", 0, "stored as a pickle, which is not run"), (), 0
        meta = entry["tensor_meta"]
        dtype, itemsize = DTYPES[meta["dtype"]]
        shape, stride = (_numbers(meta[key]) for key in ("sizes", "strides"))
        (offset,) = _numbers([meta["storage_offset"]])
        if len(shape) != len(stride) or len(shape) > _MAX_DIMENSIONS:
            raise ValueError(f"{name} has {len(shape)} sizes and {len(stride)} strides")
        if 0 not in shape:
            last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
            if (last + 1) * itemsize > stored:
                raise ValueError(f"{name} claims {(last + 1) * itemsize} bytes of a record of {stored}")
        nbytes = math.prod(shape) * itemsize
        skip = f"an expanded view: {stored} bytes repeated to fill {nbytes}" if nbytes > stored else None
        return TensorInfo(name, shape, dtype, nbytes, skip), stride, offset

    def read(self, name: str) -> torch.Tensor:
        """A copy of one tensor, on the CPU.

        Raises:
            CheckpointError: it is stored as a pickle, or its record is damaged.
        """
        import torch

        info, stride, offset = self._places[name]
        if info.dtype == "unknown":
            raise CheckpointError(f"{self._archive.path}: {name} is {info.skip}")
        dtype: torch.dtype = getattr(torch, info.dtype)
        if 0 in info.shape:
            return torch.empty(info.shape, dtype=dtype)
        values = torch.frombuffer(
            self._archive.read(self._folder + self._config[name]["path_name"]), dtype=torch.uint8
        )
        values = values[: len(values) - len(values) % dtype.itemsize].view(dtype)
        tensor = values.as_strided(info.shape, stride, offset)
        return tensor if info.skip else tensor.contiguous()

    def written(self, changes: Changes) -> Iterator[Record]:
        """The table and the values, those that nothing refers to any more left out."""
        import torch

        table: Json = {}
        new: dict[str, torch.Tensor] = {}
        for name, entry in self._config.items():
            for other, tensor in changes.get(name, {}).items():
                # A tied weight is one tensor and stays one record.
                record = next((record for record, held in new.items() if held is tensor), None)
                if record is None:
                    record = self._fresh_record(len(self._config) + len(new))
                    new[record] = tensor
                sizes = [{"as_int": size} for size in tensor.shape]
                meta = reshaped({**entry["tensor_meta"], "strides": []}, sizes)
                table[other] = {**entry, "path_name": record, "tensor_meta": meta}
            if name not in changes:
                table[name] = entry
        kept = dict.fromkeys(entry["path_name"] for entry in table.values() if entry["path_name"] not in new)
        yield from self._archive.copies(self._folder + record for record in kept)
        for record, tensor in new.items():
            values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
            yield Record(self._archive.root + self._folder + record, values)
        text = json.dumps({"config": table}, allow_nan=False)
        yield Record(self._archive.root + self._table, text.encode())

    def _fresh_record(self, number: int) -> str:
        while f"{self._folder}weight_{number}" in self._archive:
            number += 1
        return f"weight_{number}"


class PackedWeights(ExportedWeights):
    """All weights as one `torch.save` file inside the archive, as torch before 2.9 wrote them; held in memory.

    Raises:
        CheckpointError: it cannot be read as tensors alone.
    """

    def __init__(self, archive: Archive, record: str) -> None:
        self._archive = archive
        self._record = record
        self._state = _load_tensors(archive, record)
        self.infos = {name: describe(name, tensor) for name, tensor in self._state.items()}
        self.ties = find_ties(self._state)
        self.records = frozenset({record})

    def read(self, name: str) -> torch.Tensor:
        """A copy of one tensor, on the CPU."""
        tensor = self._state[name].detach()
        return tensor if self.infos[name].skip else tensor.clone()

    def written(self, changes: Changes) -> Iterator[Record]:
        """One record with all weights."""
        import torch

        state: dict[str, torch.Tensor] = {}
        for name, tensor in self._state.items():
            for other, new in changes.get(name, {name: tensor}).items():
                learned = isinstance(tensor, torch.nn.Parameter)
                state[other] = torch.nn.Parameter(new, requires_grad=tensor.requires_grad) if learned else new
        buffer = io.BytesIO()
        torch.save(state, buffer)
        yield Record(self._archive.root + self._record, buffer.getbuffer())


def _load_tensors(archive: Archive, record: str) -> dict[str, torch.Tensor]:
    """The state dict in a record, built by torch's weights-only reader."""
    import torch

    data = bytes(archive.read(record))
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as inner:
            entries = inner.infolist()
        # What is compressed could unpack to any size, and what overlaps be read many times over.
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise archive.damaged(f"{record} is compressed, as torch never writes it")
        if sum(entry.file_size for entry in entries) > len(data):
            raise archive.damaged(f"the records of {record} are larger than itself")
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:
        # Whatever a damaged or hostile pickle makes the reader stumble over is the file's doing.
        raise archive.damaged(f"{record} holds more than tensors, or is cut short; it was not run") from error
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in state.items()
    ):
        raise archive.damaged(f"{record} is no state dict")
    return state


def _numbers(sizes: Any) -> tuple[int, ...]:  # noqa: ANN401 - whatever JSON holds
    """Sizes of a stored tensor, none of them symbolic or negative."""
    numbers = tuple(size["as_int"] for size in sizes)
    if any(type(number) is not int or not 0 <= number < 2**63 for number in numbers):
        raise ValueError(f"sizes {numbers!s:.60}")
    return numbers


def read_json(archive: Archive, record: str) -> Json:
    """The JSON object in a record.

    Raises:
        ValueError: not JSON, or larger than any that torch writes.
    """
    if archive.size(record) > MAX_JSON:
        raise ValueError(f"of {archive.size(record)} bytes")
    return parse_object(bytes(archive.read(record)))
