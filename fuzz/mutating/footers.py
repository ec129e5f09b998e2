"""Changes to Parquet files: the pages, or the description behind them, whose length then fits."""

from __future__ import annotations

from random import Random

from fuzz.mutating import octets

MAGIC = b"PAR1"


def mutate(data: bytes, rng: Random) -> bytes:
    """One change."""
    length = int.from_bytes(data[-8:-4], "little")
    if len(data) < 12 + length or rng.random() < 0.1:
        return octets.mutate(data, rng)
    pages, footer = data[4 : -8 - length], data[-8 - length : -8]
    what = rng.random()
    if what < 0.6:
        footer = _varint(footer, rng) if rng.random() < 0.5 else octets.mutate(footer, rng)
        length = len(footer)
    elif what < 0.9:
        pages = _varint(pages, rng) if rng.random() < 0.4 else octets.mutate(pages, rng)
    else:
        length = rng.choice((*octets.NUMBERS, length + 1, length - 1)) % 2**32
    return MAGIC + pages + footer + length.to_bytes(4, "little") + MAGIC


def _varint(data: bytes, rng: Random) -> bytes:
    """One byte gives way to a number as Thrift's compact protocol writes it, signs folded in."""
    if not data:
        return data
    number, coded = rng.choice(octets.NUMBERS) % 2**64, bytearray()
    while number > 127:
        coded.append(number & 127 | 128)
        number >>= 7
    place = rng.randrange(len(data))
    return data[:place] + bytes([*coded, number]) + data[place + 1 :]
