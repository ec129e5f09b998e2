"""Changes to safetensors files: eight bytes of length, a header of JSON, the values."""

from __future__ import annotations

from random import Random

from fuzz.mutating import octets, trees


def fits(data: bytes) -> bool:
    """Whether the bytes begin as such a file does."""
    return data[8:9] == b"{" and int.from_bytes(data[:8], "little") <= len(data)


def mutate(data: bytes, rng: Random) -> bytes:
    """One change to the header, its length or the values."""
    length = int.from_bytes(data[:8], "little")
    header, values = data[8 : 8 + length], data[8 + length :]
    what = rng.random()
    if what < 0.75:
        header = trees.mutate(header, rng)
        length = len(header)
    elif what < 0.85:
        length = rng.choice((*octets.NUMBERS, length + 1, length - 1)) % 2**64
    elif what < 0.95:
        values = octets.mutate(values, rng)
    else:
        return octets.mutate(data, rng)
    return length.to_bytes(8, "little") + header + values
