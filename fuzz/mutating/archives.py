"""Changes to zip archives: to a record's content by its own kind, to names, and to the directory itself."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from random import Random
from typing import NamedTuple

from fuzz.mutating import bombs, octets

# Offsets and sizes of the numbers behind each signature (APPNOTE.TXT §4.3).
_STRUCTURES = {
    b"PK\x03\x04": ((4, 2), (6, 2), (8, 2), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2)),
    b"PK\x01\x02": ((8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (32, 2), (38, 4), (42, 4)),
    b"PK\x05\x06": ((8, 2), (10, 2), (12, 4), (16, 4), (20, 2)),
    b"PK\x06\x06": ((4, 8), (24, 8), (32, 8), (40, 8), (48, 8)),
}
BOMBS = (1, 64, 600)
"""Megabytes."""
_UTF8 = 1 << 11
# What is larger is left packed, and goes from one archive into the next as it is.
_OPENED = 1 << 22


class Record(NamedTuple):
    """A record as it stands in an archive: `stored` by a method (0 or 8), and what it unpacks into."""

    name: str
    stored: bytes
    method: int
    size: int
    checksum: int


def record(name: str, content: bytes) -> Record:
    """A record that is not packed."""
    return Record(name, content, 0, len(content), zlib.crc32(content))


def mutate(data: bytes, rng: Random, inner: Callable[[str, bytes, Random], bytes]) -> bytes:
    """One change; `inner` changes a record's content, given its name."""
    what = rng.random()
    if what < 0.1:
        return octets.mutate(data, rng)
    if what < 0.2:
        return _directory(data, rng)
    records = records_of(data)
    if not records:
        return octets.mutate(data, rng)
    # What says how the values are to be read is small beside them, and matters more.
    telling = [at for at, each in enumerate(records) if each.name.endswith((".pkl", ".json", ".npy"))]
    place = rng.choice(telling) if telling and rng.random() < 0.7 else rng.randrange(len(records))
    chosen = records[place]
    if what < 0.8:
        content = _content(chosen)
        if content is None:
            records[place] = chosen._replace(stored=octets.mutate(chosen.stored, rng))
        else:
            records[place] = record(chosen.name, inner(chosen.name, content, rng))
    elif what < 0.85:
        del records[place]
    elif what < 0.9:
        names = (*octets.TEXTS[1:], chosen.name + "x", chosen.name.upper())
        records[place] = chosen._replace(name=rng.choice(names))
    elif what < 0.94:
        records[place] = rng.choice(records)._replace(name=chosen.name)
    elif what < 0.97:
        records.insert(place, chosen)
    else:
        megabytes = rng.choice(BOMBS)
        records[place] = Record(
            chosen.name, bombs.zeros(megabytes)[0], 8, megabytes << 20, bombs.zeros(megabytes)[1]
        )
    return written(records)


def written(records: list[Record]) -> bytes:
    """An archive, its checksums right."""
    out, directory = bytearray(), bytearray()
    for name, stored, method, size, checksum in records:
        coded = name.encode("utf-8", "surrogatepass")
        said = struct.pack("<HHHHHIII", 20, _UTF8, method, 0, 33, checksum, len(stored), size)
        directory += (
            b"PK\x01\x02\x14\x00" + said + struct.pack("<HHHHHII", len(coded), 0, 0, 0, 0, 0, len(out)) + coded
        )
        out += b"PK\x03\x04" + said + struct.pack("<HH", len(coded), 0) + coded + stored
    end = struct.pack("<HHHHIIH", 0, 0, len(records), len(records), len(directory), len(out), 0)
    return bytes(out + directory + b"PK\x05\x06" + end)


def records_of(data: bytes) -> list[Record]:
    """The records of an archive; none of what cannot be read as one."""
    found = []
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for entry in archive.infolist():
                name, extra = struct.unpack_from("<HH", data, entry.header_offset + 26)
                begin = entry.header_offset + 30 + name + extra
                stored = data[begin : begin + entry.compress_size]
                found.append(Record(entry.filename, stored, entry.compress_type, entry.file_size, entry.CRC))
    except (zipfile.BadZipFile, NotImplementedError, OSError, OverflowError, ValueError, struct.error):
        return []
    return [each for each in found if each.method in (0, 8) and each.size < 2**32 and len(each.name) < 2**14]


def _content(packed: Record) -> bytes | None:
    """What a record unpacks into; None of a large one, and of one that is damaged."""
    if packed.method == 0:
        return packed.stored
    if packed.size > _OPENED:
        return None
    try:
        return zlib.decompressobj(-15).decompress(packed.stored, _OPENED)
    except zlib.error:
        return None


def _directory(data: bytes, rng: Random) -> bytes:
    """One number of a header of the archive becomes another."""
    out = bytearray(data)
    signature, numbers = rng.choice([*_STRUCTURES.items()])
    places = []
    at = data.find(signature)
    while at >= 0:
        places.append(at)
        at = data.find(signature, at + 4)
    if not places:
        return octets.mutate(data, rng)
    offset, size = rng.choice(numbers)
    at = rng.choice(places) + offset
    if at + size <= len(out):
        old = int.from_bytes(out[at : at + size], "little")
        new = rng.choice((old + 1, old - 1, old * 2, *octets.NUMBERS)) % 2 ** (8 * size)
        out[at : at + size] = struct.pack("<Q", new)[:size]
    return bytes(out)
