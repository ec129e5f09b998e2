"""Changes to zip archives: to a record's content by its own kind, to names, and to the directory itself."""

from __future__ import annotations

import io
import struct
import warnings
import zipfile
from collections.abc import Callable
from random import Random

from fuzz.mutating import octets

# Offsets and sizes of the numbers behind each signature (APPNOTE.TXT §4.3).
_STRUCTURES = {
    b"PK\x03\x04": ((4, 2), (6, 2), (8, 2), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2)),
    b"PK\x01\x02": ((8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (32, 2), (38, 4), (42, 4)),
    b"PK\x05\x06": ((8, 2), (10, 2), (12, 4), (16, 4), (20, 2)),
    b"PK\x06\x06": ((4, 8), (24, 8), (32, 8), (40, 8), (48, 8)),
}


def mutate(data: bytes, rng: Random, inner: Callable[[str, bytes, Random], bytes]) -> bytes:
    """One change; `inner` changes a record's content, given its name."""
    what = rng.random()
    if what < 0.1:
        return octets.mutate(data, rng)
    if what < 0.2:
        return _directory(data, rng)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            records = [(entry.filename, archive.read(entry), 0) for entry in archive.infolist()]
    except Exception:
        return octets.mutate(data, rng)
    if not records:
        return octets.mutate(data, rng)
    # What says how the values are to be read is small beside them, and matters more.
    telling = [at for at, (name, *_) in enumerate(records) if name.endswith((".pkl", ".json", ".npy"))]
    place = rng.choice(telling) if telling and rng.random() < 0.7 else rng.randrange(len(records))
    name, content, method = records[place]
    if what < 0.8:
        records[place] = (name, inner(name, content, rng), method)
    elif what < 0.85:
        del records[place]
    elif what < 0.9:
        records[place] = (rng.choice((*octets.TEXTS[1:], name + "x", name.upper())), content, method)
    elif what < 0.94:
        records[place] = (name, records[rng.randrange(len(records))][1], method)
    elif what < 0.97:
        records.insert(place, (name, content, method))
    else:
        records[place] = (name, bytes(2**20) * rng.choice((1, 64)), zipfile.ZIP_DEFLATED)
    return written(records)


def written(records: list[tuple[str, bytes, int]]) -> bytes:
    """An archive of (name, content, method), its checksums right."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w") as archive:
        warnings.simplefilter("ignore")
        for name, content, method in records:
            entry = zipfile.ZipInfo(name)
            entry.compress_type = method
            archive.writestr(entry, content)
    return buffer.getvalue()


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
