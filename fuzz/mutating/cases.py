"""A case: the files that a reader is given, by their names, and how one of them is changed."""

from __future__ import annotations

import gzip
import zlib
from random import Random

from fuzz.mutating import archives, bombs, footers, headers, journals, messages, octets, pickles, pictures, trees

Case = dict[str, bytes]
"""Content by name, folders divided by ``/``."""
_BOMB = 600
"""Megabytes."""
_OPENED = 1 << 22


def mutated(case: Case, rng: Random) -> Case:
    """The case after one to four changes."""
    case = dict(case)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        names = sorted(case)
        name, what = rng.choice(names), rng.random()
        if len(names) > 1 and what < 0.02:
            del case[name]
        elif len(names) > 1 and what < 0.04:
            case[name] = case[rng.choice(names)]
        elif len(names) > 1 and what < 0.05:
            case[rng.choice(("x.bin", name + ".old", "config.json"))] = case.pop(name)
        elif what < 0.055:
            case[name] = b""
        else:
            case[name] = by_kind(name, case[name], rng)
    return case


def by_kind(name: str, data: bytes, rng: Random) -> bytes:
    """Bytes with one change of the kind that suits them, told by what they begin with and by their name."""
    if data.startswith(b"PK"):
        return archives.mutate(data, rng, by_kind)
    if data.startswith(b"\x80"):
        return pickles.mutate(data, rng)
    if headers.fits(data):
        return headers.mutate(data, rng)
    if data.startswith(b"\x1f\x8b"):
        return _packed(name, data, rng)
    if data.startswith(pictures.MAGIC):
        return pictures.mutate(data, rng)
    if data.startswith(footers.MAGIC):
        return footers.mutate(data, rng)
    if data.startswith(journals.BEGIN):
        return journals.mutate(data, rng)
    if name.endswith(".onnx"):
        return messages.mutate(data, rng)
    if data.lstrip()[:1] in (b"{", b"["):
        return _lines(data, rng) if name.endswith(".jsonl") else trees.mutate(data, rng)
    if data.startswith(b"\x93NUMPY"):
        return data[:10] + octets.digits(data[10:], rng) if rng.random() < 0.6 else octets.mutate(data, rng)
    if name.endswith((".txt", ".csv", ".tsv")):
        return octets.digits(data, rng)
    return octets.mutate(data, rng)


def _lines(data: bytes, rng: Random) -> bytes:
    lines = data.splitlines(keepends=True)
    at = rng.randrange(len(lines))
    lines[at] = trees.mutate(lines[at], rng) + rng.choice((b"\n", b"\n", b"", b"\r\n"))
    return b"".join(lines)


def _packed(name: str, data: bytes, rng: Random) -> bytes:
    if rng.random() < 0.1:
        return _bomb()
    try:
        content = zlib.decompressobj(31).decompress(data, _OPENED)
    except zlib.error:
        return octets.mutate(data, rng)
    if len(content) == _OPENED or rng.random() < 0.2:
        return octets.mutate(data, rng)
    return gzip.compress(by_kind(name.removesuffix(".gz"), content, rng), 1, mtime=0)


def _bomb() -> bytes:
    """An IDX file of images that says it is small, and unpacks into 600 MB."""
    header = b"\0\0\x08\x03" + b"".join(number.to_bytes(4, "big") for number in (40, 4, 4))
    return bombs.gzipped(_BOMB, header)
