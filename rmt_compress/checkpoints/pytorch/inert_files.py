"""Files of `torch.save` read without running their pickle, their tensors mapped: see `inert_pickles`."""

from __future__ import annotations

import io
import mmap
import struct
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmt_compress.checkpoints.pytorch.inert_objects import Global, InertPickleError, Storage
from rmt_compress.checkpoints.pytorch.inert_pickles import read_inert
from rmt_compress.checkpoints.raw_tensors import STORAGE_DTYPES
from rmt_compress.checkpoints.recognition import unreadable

if TYPE_CHECKING:
    import torch

_LOCAL_HEADER = struct.Struct("<4s22xHH")
_LOCAL_MAGIC = b"PK\x03\x04"
# Magic number, protocol and system come before the object in the legacy layout.
_BEFORE_THE_OBJECT = 3
_COUNT = struct.Struct("<q")


def load_inert(path: Path) -> Any:
    """What a file of `torch.save` holds, of either layout.

    Raises:
        InertPickleError: its pickle is damaged or asks for more than tensors and inert objects.
        CheckpointError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            is_zip = file.read(len(_LOCAL_MAGIC)) == _LOCAL_MAGIC
        return load_inert_record(path, 0, path.stat().st_size) if is_zip else _load_legacy(path)
    except OSError as error:
        raise unreadable(path, error) from error


def load_inert_record(path: Path, start: int, length: int) -> Any:
    """What the bytes of a file from `start` on hold, which `torch.save` wrote in the zip layout.

    Raises:
        InertPickleError: see `load_inert`.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file, _Part(file, start, length) as part:
        try:
            with zipfile.ZipFile(part) as archive:
                records = {entry.filename.partition("/")[2]: entry for entry in archive.infolist()}
                if any(entry.compress_type != zipfile.ZIP_STORED for entry in records.values()):
                    raise InertPickleError("is in a compressed archive")
                content = archive.read(records["data.pkl"])
                if "byteorder" in records and archive.read(records["byteorder"]) != b"little":
                    raise InertPickleError("was written on a big-endian machine")
        except (
            *(zipfile.BadZipFile, NotImplementedError, RuntimeError, KeyError, EOFError),
            # Offsets before the file, and names that are no UTF-8.
            *(ValueError, OverflowError, struct.error),
        ) as error:
            raise InertPickleError(f"is in no archive of torch.save: {error}") from error
        places = {
            name.removeprefix("data/"): (_place(part, entry, length) + start, entry.file_size)
            for name, entry in records.items()
            if name.startswith("data/")
        }
    return read_inert(io.BytesIO(content), _Mapped(path, places))


class _Part(io.RawIOBase):
    """Some bytes of an open file, as a file of their own."""

    def __init__(self, file: io.BufferedReader, start: int, length: int) -> None:
        self._file = file
        self._start = start
        self._length = length
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at}.get(whence, self._length)
        if base + offset < 0:
            raise ValueError("a place before the file")
        self._at = base + offset
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        left = max(self._length - self._at, 0)
        self._file.seek(self._start + self._at)
        content = self._file.read(left if size is None or size < 0 else min(size, left))
        self._at += len(content)
        return content


def _place(part: _Part, entry: zipfile.ZipInfo, length: int) -> int:
    """Where the content of a record begins; its local header may be longer than the directory says."""
    part.seek(entry.header_offset)
    header = part.read(_LOCAL_HEADER.size)
    if len(header) < _LOCAL_HEADER.size or not header.startswith(_LOCAL_MAGIC):
        raise InertPickleError(f"is in an archive whose record {entry.filename} is not where it should be")
    _, name, extra = _LOCAL_HEADER.unpack(header)
    place: int = entry.header_offset + _LOCAL_HEADER.size + name + extra
    if place + entry.file_size > length:
        raise InertPickleError(f"is in an archive whose record {entry.filename} reaches beyond its end")
    return place


class _Mapped:
    """The storages of a file, by the keys that its pickle has for them.

    Args:
        path: the file.
        places: key -> where its bytes begin, and how many there are.
    """

    def __init__(self, path: Path, places: dict[str, tuple[int, int]]) -> None:
        import torch

        self._whole = torch.UntypedStorage.from_file(str(path), False, path.stat().st_size)
        self._places = places
        self._made: dict[str, torch.UntypedStorage] = {}

    def __call__(self, name: Any) -> Storage | Global:
        named = _named(name)
        if isinstance(named, Global):
            return named
        key, dtype, nbytes, view = named
        start, stored = self._places.get(key, (0, -1))
        if nbytes != stored:
            raise InertPickleError(f"claims {nbytes} bytes of the record {key!r:.40}, which has {max(stored, 0)}")
        if key not in self._made:
            self._made[key] = self._whole[start : start + nbytes]
        return _viewed(self._made[key], dtype, view)


class _Counted:
    """Storages without values, to learn how large each is."""

    def __init__(self) -> None:
        self.sizes: dict[str, tuple[int, int]] = {}

    def __call__(self, name: Any) -> Storage | Global:
        import torch

        named = _named(name)
        if isinstance(named, Global):
            return named
        key, dtype, nbytes, view = named
        if self.sizes.setdefault(key, (nbytes, dtype.itemsize if dtype else 1)) != (
            nbytes,
            dtype.itemsize if dtype else 1,
        ):
            raise InertPickleError(f"says two things of the size of the record {key!r:.40}")
        empty: torch.UntypedStorage = torch.empty(nbytes, dtype=torch.uint8, device="meta").untyped_storage()
        return _viewed(empty, dtype, view)


def _named(name: Any) -> tuple[str, torch.dtype | None, int, tuple[int, int] | None] | Global:
    """Key, element type and bytes of a storage, and which entries of it are meant; or a class whose source follows.

    Raises:
        InertPickleError: it is neither.
    """
    import torch

    if type(name) is tuple and len(name) == 4 and name[0] == "module" and isinstance(name[1], Global):
        return name[1]
    if type(name) is not tuple or len(name) not in (5, 6) or name[0] != "storage":
        raise InertPickleError("asks for something from elsewhere that is no storage")
    _, kind, key, _, count, *rest = name
    if not isinstance(kind, Global) or type(key) is not str or type(count) is not int or not 0 <= count < 2**60:
        raise InertPickleError("has a storage without a type, a name or a size")
    short = kind.name.rpartition(".")[2]
    dtype = None if short == "UntypedStorage" else getattr(torch, STORAGE_DTYPES.get(short, ""), None)
    if dtype is None and short != "UntypedStorage":
        raise InertPickleError(f"has a storage of the type {kind.name[:60]!r}")
    view = None
    if rest and rest[0] is not None:
        _, first, entries = rest[0]
        if type(first) is not int or type(entries) is not int or first < 0 or not 0 <= entries <= count - first:
            raise InertPickleError("has a part of a storage that reaches beyond it")
        view = (first, entries)
    return key, dtype, count * (dtype.itemsize if dtype else 1), view


def _viewed(values: torch.UntypedStorage, dtype: torch.dtype | None, view: tuple[int, int] | None) -> Storage:
    if view is None:
        return Storage(values, dtype)
    size = dtype.itemsize if dtype else 1
    return Storage(values[view[0] * size : (view[0] + view[1]) * size], dtype)


def _load_legacy(path: Path) -> Any:
    """The legacy layout: the values come last, so that the pickle is gone through once to learn their sizes."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for _ in range(_BEFORE_THE_OBJECT):
            read_inert(content)
        start = content.tell()
        counted = _Counted()
        read_inert(content, counted)
        keys = read_inert(content)
        if not isinstance(keys, list) or len(set(map(str, keys))) != len(keys) or set(keys) - counted.sizes.keys():
            raise InertPickleError("is damaged: it names other storages than follow")
        places, at = {}, content.tell()
        for key in keys:
            nbytes, itemsize = counted.sizes[key]
            if at + _COUNT.size + nbytes > len(content) or _COUNT.unpack_from(content, at)[0] * itemsize != nbytes:
                raise InertPickleError(f"claims {nbytes} bytes for the storage {key!r:.40}, which has others")
            places[key] = (at + _COUNT.size, nbytes)
            at += _COUNT.size + nbytes
        content.seek(start)
        return read_inert(content, _Mapped(path, places))
