"""Zip archives as torch writes them: records under one folder, read one at a time, copied and written again.

What the archive says of itself is checked on opening, before a single record is read: no name that leads out of a
folder, no two records of one name, none larger than the file, and nothing that unpacks to more than a small
multiple of it. Nothing is ever unpacked to disk.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from rmt_compress.checkpoints.recognition import unreadable
from rmt_compress.errors import CheckpointError, OutputError

# Code and debugging texts of TorchScript are the only records torch compresses, and they are short.
_MAX_UNPACKED = 2**28
_MAX_RATIO = 200
# torch aligns values to this many bytes with a zip extra field of this number.
_ALIGNMENT = 64
_PADDING_FIELD = 0x4246
_ZIP64 = 2**31
_ENCRYPTED = 0x1
# Longer texts beside a program are copied, not read.
_MAX_TEXT = 2**26

_DAMAGED = "truncated or damaged; download or save it again"


class Record(NamedTuple):
    """One record to be written: its full name, its bytes, and whether they are compressed on disk."""

    name: str
    data: bytes | bytearray | memoryview
    compressed: bool = False


class Archive:
    """The records of one archive, by their names below its folder; `what` it is, for messages."""

    def __init__(self, path: Path, what: str) -> None:
        self.path = path
        self._what = what
        with self._opened() as archive:
            entries = archive.infolist()
        self._check(entries)
        folders = {entry.filename.partition("/")[0] for entry in entries}
        self.root = f"{folders.pop()}/" if len(folders) == 1 else ""
        self._entries = {entry.filename.removeprefix(self.root): entry for entry in entries}

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    @property
    def names(self) -> list[str]:
        """Names of the records, in the file's order."""
        return list(self._entries)

    def size(self, name: str) -> int:
        """Bytes of a record."""
        if name not in self._entries:
            raise self.damaged(f"the record {name} is missing")
        return self._entries[name].file_size

    def read(self, name: str) -> bytearray:
        """The bytes of a record, its checksum compared."""
        data = bytearray(self.size(name))
        view, filled = memoryview(data), 0
        with self._opened() as archive, archive.open(self._entries[name]) as record:
            while filled < len(data) and (part := record.read(min(2**24, len(data) - filled))):
                view[filled : filled + len(part)] = part
                filled += len(part)
            # The checksum is compared when the end is met.
            record.read(1)
        if filled < len(data):
            raise self.damaged(f"the record {name} ends early")
        return data

    def text(self, name: str) -> str:
        """The text of a record, which must be UTF-8."""
        try:
            return self.read(name).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.damaged(f"the record {name} is no text") from error

    def texts(self, folder: str) -> dict[str, str]:
        """The records in a folder that are text and not too long for one, by their names below it."""
        texts = {}
        for name in self.names:
            if name.startswith(folder) and self.size(name) <= _MAX_TEXT:
                with suppress(UnicodeDecodeError):
                    texts[name.removeprefix(folder)] = self.read(name).decode("utf-8")
        return texts

    def check_byte_order(self) -> None:
        """Refuse an archive that says it is big-endian: no machine this runs on is."""
        if "byteorder" in self and self.text("byteorder") != "little":
            raise CheckpointError(
                f"{self.path}: was written on a big-endian machine, which is not read; save it again on another"
            )

    def copies(self, names: Iterable[str]) -> Iterator[Record]:
        """Records as they are, to be written again."""
        for name in names:
            entry = self._entries[name]
            yield Record(entry.filename, self.read(name), entry.compress_type != zipfile.ZIP_STORED)

    def damaged(self, reason: str) -> CheckpointError:
        """The one line for an archive that is not what it should be."""
        return CheckpointError(f"{self.path}: {self._what}, {_DAMAGED} ({reason})")

    @contextmanager
    def _opened(self) -> Iterator[zipfile.ZipFile]:
        try:
            with zipfile.ZipFile(self.path) as archive:
                yield archive
        except OSError as error:
            raise unreadable(self.path, error) from error
        except (
            *(zipfile.BadZipFile, zlib.error, struct.error, UnicodeDecodeError),
            *(NotImplementedError, RuntimeError, ValueError, EOFError),
        ) as error:
            raise self.damaged(str(error)) from error

    def _check(self, entries: list[zipfile.ZipInfo]) -> None:
        size = self.path.stat().st_size
        stored = unpacked = 0
        for entry in entries:
            parts = entry.filename.replace("\\", "/").split("/")
            if ".." in parts or parts[0] == "" or ":" in parts[0]:
                raise self.damaged(f"a record is called {entry.filename}, as torch never calls one")
            if entry.flag_bits & _ENCRYPTED:
                raise self.damaged(f"the record {entry.filename} is encrypted")
            if entry.compress_type == zipfile.ZIP_STORED:
                stored += entry.file_size
                if entry.header_offset + entry.file_size > size:
                    raise self.damaged(f"the record {entry.filename} is larger than the file's {size} bytes")
            else:
                unpacked += entry.file_size
        if len({entry.filename for entry in entries}) < len(entries):
            raise self.damaged("two records of one name, as torch never writes them")
        if stored > size:
            raise self.damaged("its records overlap")
        if unpacked > min(_MAX_UNPACKED, _MAX_RATIO * size):
            raise self.damaged(f"its compressed records would unpack to {unpacked:,} bytes")


def write_archive(path: Path, records: Iterable[Record]) -> None:
    """Write records one after the other, values aligned as torch aligns them; the file is replaced."""
    try:
        with path.open("wb") as file, zipfile.ZipFile(file, "w") as archive:
            for record in records:
                entry = zipfile.ZipInfo(record.name)
                large = len(record.data) >= _ZIP64
                if record.compressed:
                    entry.compress_type = zipfile.ZIP_DEFLATED
                else:
                    entry.extra = _padding(file.tell() + 30 + len(record.name.encode()) + (20 if large else 0))
                with archive.open(entry, "w", force_zip64=large) as target:
                    target.write(record.data)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error


def _padding(start: int) -> bytes:
    """An extra field after which values that would begin at `start` are aligned."""
    length = -(start + 4) % _ALIGNMENT
    return struct.pack("<HH", _PADDING_FIELD, length) + bytes(length)
