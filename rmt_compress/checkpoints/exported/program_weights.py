"""The weights of a torch.export archive: raw values with their shapes in JSON, or one `torch.save` file inside."""

from __future__ import annotations

import io
import json
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from rmt_compress.checkpoints.archives import Archive, Record
from rmt_compress.checkpoints.exported.program_editor import reshaped
from rmt_compress.checkpoints.exported.program_graph import Json
from rmt_compress.checkpoints.raw_tensors import RawTensor
from rmt_compress.checkpoints.state_dicts import describe, find_ties
from rmt_compress.checkpoints.strict_json import parse_object
from rmt_compress.errors import CheckpointError
from rmt_compress.layers.layer import TensorInfo

if TYPE_CHECKING:
    import torch

# torch.export's number of an element type -> torch's name (torch/_export/serde/schema.py).
DTYPES: dict[int, str] = {
    **{1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32", 8: "float64"},
    **{9: "complex32", 10: "complex64", 11: "complex128", 12: "bool", 13: "bfloat16", 28: "uint16"},
    **{29: "float8_e4m3fn", 30: "float8_e5m2", 31: "float8_e4m3fnuz", 32: "float8_e5m2fnuz"},
    **{33: "float8_e8m0fnu", 34: "uint32", 35: "uint64"},
}
_PICKLED = "stored as a pickle, which is not run"
MAX_JSON = 100_000_000

Changes = Mapping[str, "dict[str, torch.Tensor]"]
"""Name of a weight -> what stands in its place: names and values, of one tensor or of two."""


class ExportedWeights(ABC):
    """The tensors of an exported program by their names, and the records of the archive that hold them."""

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

    A table that claims more than the records hold is refused.
    """

    def __init__(self, archive: Archive, table: str, folder: str) -> None:
        self._archive = archive
        self._table = table
        self._folder = folder
        try:
            self._config: Json = read_json(archive, table)["config"]
            self._places = {name: self._place(entry) for name, entry in self._config.items()}
            self.infos = {name: self._describe(name, place) for name, place in self._places.items()}
            self.records = frozenset({table, *(folder + entry["path_name"] for entry in self._config.values())})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise archive.damaged(f"{table}: {type(error).__name__} {error}") from error
        self.ties = {}
        firsts: dict[RawTensor, str] = {}
        for name, place in self._places.items():
            if place is not None and (first := firsts.setdefault(place, name)) != name:
                self.ties[first] = (*self.ties.get(first, ()), name)

    def _place(self, entry: Json) -> RawTensor | None:
        """Where a tensor lies; None for one that is stored as a pickle."""
        if entry["use_pickle"] or entry["tensor_meta"] is None:
            return None
        meta = entry["tensor_meta"]
        shape, stride = (tuple(size["as_int"] for size in meta[key]) for key in ("sizes", "strides"))
        offset = meta["storage_offset"]["as_int"]
        return RawTensor(self._folder + entry["path_name"], DTYPES[meta["dtype"]], shape, stride, offset)

    def _describe(self, name: str, place: RawTensor | None) -> TensorInfo:
        if place is None:
            return TensorInfo(name, (), "unknown", 0, _PICKLED)
        return place.describe(name, self._archive)

    def read(self, name: str) -> torch.Tensor:
        """A copy of one tensor, on the CPU; one that is stored as a pickle is refused."""
        place = self._places[name]
        if place is None:
            raise CheckpointError(f"{self._archive.path}: {name} is {_PICKLED}")
        tensor = place.read(self._archive)
        return tensor if self.infos[name].why_skipped else tensor.contiguous()

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
    """All weights as one `torch.save` file inside the archive, as torch before 2.9 wrote them; held in memory."""

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
        return tensor if self.infos[name].why_skipped else tensor.clone()

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


def read_json(archive: Archive, record: str) -> Json:
    """The JSON object in a record; a `ValueError` where it is none, or larger than any that torch writes."""
    if archive.size(record) > MAX_JSON:
        raise ValueError(f"of {archive.size(record)} bytes")
    return parse_object(bytes(archive.read(record)))
