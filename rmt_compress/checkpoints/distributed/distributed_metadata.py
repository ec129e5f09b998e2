"""The ``.metadata`` of a `torch.distributed.checkpoint`: which tensors there are and where their parts lie.

It is a pickle, and none that is run: see `inert_pickles`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmt_compress.checkpoints.beside import Unloaded
from rmt_compress.checkpoints.pytorch.inert_objects import InertPickleError
from rmt_compress.checkpoints.pytorch.inert_pickles import read_inert
from rmt_compress.checkpoints.pytorch.inert_weights import check_size
from rmt_compress.checkpoints.recognition import unreadable
from rmt_compress.errors import CheckpointError
from rmt_compress.wording import printable

if TYPE_CHECKING:
    import torch

METADATA = ".metadata"
_HOME = "torch.distributed.checkpoint."
_MAX_DIMENSIONS = 64
_LARGEST = 2**62


@dataclass(frozen=True)
class Part:
    """A block of a tensor, and where its record lies.

    Attributes:
        offsets: where the block begins in the tensor.
        sizes: how large it is.
        file: name of the file, below the folder.
        start: where in the file the record begins.
        length: bytes of the record.
    """

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    file: str
    start: int
    length: int


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in parts.

    Attributes:
        shape: its sizes.
        dtype: its element type.
        parts: what it is put together from.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    parts: tuple[Part, ...]


@dataclass
class Stored:
    """What a folder holds.

    Attributes:
        tensors: the tensors, by their full names.
        objects: names of everything else.
        trails: full name -> the keys that lead to it in what was saved.
    """

    tensors: dict[str, StoredTensor] = field(default_factory=dict)
    objects: list[str] = field(default_factory=list)
    trails: dict[str, tuple[str, ...]] = field(default_factory=dict)


def read_metadata(folder: Path) -> Stored:
    """What the ``.metadata`` in `folder` says.

    Raises:
        CheckpointError: it is damaged, hostile or of a kind this does not know.
    """
    path = folder / METADATA
    try:
        with path.open("rb") as file:
            described = read_inert(file)
    except OSError as error:
        raise unreadable(path, error) from error
    except InertPickleError as error:
        raise _damaged(path, f"its pickle {error}") from error
    if not isinstance(described, Unloaded) or described.kind != f"{_HOME}metadata.Metadata":
        raise _damaged(path, "it describes no checkpoint")
    try:
        return _stored(_state(described), path)
    except InertPickleError as error:
        raise _damaged(path, f"its pickle {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(path, f"it lacks {error}" if isinstance(error, KeyError) else str(error)) from error


def _damaged(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: truncated or damaged; copy the folder or save it again ({printable(reason, 200)})"
    )


def _state(value: Any) -> dict[str, Any]:
    """The attributes of an object, whether they were set or handed to its class."""
    if isinstance(value, Unloaded) and isinstance(value.state, dict):
        return value.state
    raise ValueError("an object without attributes")


def _stored(described: dict[str, Any], path: Path) -> Stored:
    places: dict[str, dict[tuple[int, ...] | None, dict[str, Any]]] = {}
    for index, place in described["storage_data"].items():
        which = _state(index)
        offset = which.get("offset")
        places.setdefault(which["fqn"], {})[None if offset is None else tuple(offset)] = _state(place)
    stored = Stored()
    for name, entry in described["state_dict_metadata"].items():
        if not isinstance(name, str) or not isinstance(entry, Unloaded):
            raise ValueError("it names a tensor by something that is no text")
        if entry.kind == f"{_HOME}metadata.TensorStorageMetadata":
            stored.tensors[name] = _tensor(name, _state(entry), places.get(name, {}), path)
        else:
            stored.objects.append(name)
    trails = described.get("planner_data")
    check_size(trails)
    for name, trail in (trails or {}).items():
        if isinstance(name, str) and isinstance(trail, tuple):
            stored.trails[name] = tuple(map(str, trail))
    return stored


def _tensor(
    name: str, entry: dict[str, Any], places: dict[tuple[int, ...] | None, dict[str, Any]], path: Path
) -> StoredTensor:
    import torch

    shape, dtype = _sizes(entry["size"], name), _dtype(entry["properties"])
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"{name} is of no element type")
    parts = []
    for chunk in map(_state, entry["chunks"]):
        offsets, sizes = _sizes(chunk["offsets"], name), _sizes(chunk["sizes"], name)
        if not len(offsets) == len(sizes) == len(shape) or any(
            at + size > whole for at, size, whole in zip(offsets, sizes, shape, strict=True)
        ):
            raise ValueError(f"a part of {name} reaches beyond it")
        place = places.get(offsets) or places.get(None)
        if place is None:
            raise ValueError(f"a part of {name} is nowhere")
        if place.get("transform_descriptors"):
            raise CheckpointError(
                f"{path}: its tensors were compressed by an extension of torch, which is not read; save it again "
                "without one"
            )
        file, start, length = place["relative_path"], place["offset"], place["length"]
        if not isinstance(file, str) or type(start) is not int or type(length) is not int or min(start, length) < 0:
            raise ValueError(f"a part of {name} has no place")
        parts.append(Part(offsets, sizes, file, start, length))
    if sum(math.prod(part.sizes) for part in parts) != math.prod(shape) or _overlap(parts):
        raise ValueError(f"the parts of {name} do not make up the whole")
    return StoredTensor(shape, dtype, tuple(parts))


def _overlap(parts: list[Part]) -> bool:
    """Whether two blocks share an entry; those of many parts are told by the order of their beginnings."""
    blocks = sorted((part for part in parts if 0 not in part.sizes), key=lambda part: part.offsets)
    for place, one in enumerate(blocks):
        for other in blocks[place + 1 :]:
            if one.offsets and other.offsets[0] >= one.offsets[0] + one.sizes[0]:
                break
            if all(
                a < b + n and b < a + m
                for a, m, b, n in zip(one.offsets, one.sizes, other.offsets, other.sizes, strict=True)
            ):
                return True
    return False


def _dtype(properties: Any) -> Any:
    """The element type in a tensor's properties, which are a tuple in newer versions of torch."""
    state = properties.state if isinstance(properties, Unloaded) else None
    if isinstance(state, dict):
        return state.get("dtype")
    return state[0] if isinstance(state, tuple) and state else None


def _sizes(sizes: Any, name: str) -> tuple[int, ...]:
    if not isinstance(sizes, tuple) or len(sizes) > _MAX_DIMENSIONS:
        raise ValueError(f"{name} has no shape")
    if any(type(size) is not int or not 0 <= size < _LARGEST for size in sizes) or math.prod(sizes) >= _LARGEST:
        raise ValueError(f"{name} has the shape {sizes!s:.60}")
    return tuple(sizes)


def shards(stored: Stored) -> Iterator[str]:
    """Names of the files the tensors are in, each once."""
    yield from dict.fromkeys(part.file for tensor in stored.tensors.values() for part in tensor.parts)
