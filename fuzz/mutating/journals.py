"""Changes to journals: what an entry says, its bytes and its length, under a digest that fits."""

from __future__ import annotations

import hashlib
from random import Random

from fuzz.mutating import octets, trees

BEGIN = b'{"rmt_compress_journal"'


def mutate(data: bytes, rng: Random) -> bytes:
    """One change."""
    first, *entries = _parts(data)
    what = rng.random()
    if not entries or what < 0.15:
        return octets.mutate(data, rng)
    if what < 0.3:
        return b"".join((trees.mutate(first.rstrip(), rng), b"\n", *entries))
    place = rng.randrange(len(entries))
    if what < 0.85:
        entries[place] = _changed(entries[place], rng)
    elif what < 0.9:
        del entries[place]
    elif what < 0.95:
        entries.insert(place, rng.choice(entries))
    else:
        entries[place] = octets.mutate(entries[place], rng)
    return b"".join((first, *entries))


def _parts(data: bytes) -> list[bytes]:
    end = data.find(b"\n") + 1 or len(data)
    parts = [data[:end]]
    while end < len(data):
        line = data.find(b"\n", end)
        try:
            length = int(data[end:line].split(b" ", 2)[1])
        except (ValueError, IndexError):
            break
        stop = line + length + 2
        if line < 0 or stop <= end:
            break
        parts.append(data[end:stop])
        end = stop
    return parts


def _changed(entry: bytes, rng: Random) -> bytes:
    line, _, values = entry.partition(b"\n")
    values, text = values[:-1], line.split(b" ", 2)[-1]
    what = rng.random()
    if what < 0.75:
        text = trees.mutate(text, rng).replace(b"\n", b" ")
    elif what < 0.9:
        values = octets.mutate(values, rng)
    length = b"%d" % len(values)
    if what > 0.95:
        length = str(rng.choice((-1, *octets.NUMBERS))).encode()
    described = length + b" " + text
    digest = hashlib.sha256(described + values).hexdigest().encode()
    return digest + b" " + described + b"\n" + values + b"\n"
