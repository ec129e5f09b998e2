"""Changes to bytes of no known structure, and to numbers written in digits."""

from __future__ import annotations

import re
from random import Random

NUMBERS = (
    0,
    1,
    2,
    3,
    7,
    127,
    128,
    255,
    256,
    65535,
    2**26,
    2**28,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**32,
    2**40,
    2**62,
    2**63 - 1,
    2**63,
    2**64 - 1,
)
"""Where sizes and counts turn negative, wrap around or take all memory."""
TEXTS = (
    "",
    "\0",
    "x" * 5000,
    "../canary.bin",
    "/etc/passwd",
    "\\\\server\\share",
    "a/../../canary.bin",
    "\N{RIGHT-TO-LEFT OVERRIDE}\x1b[2Jname\nnext",
    "\N{GRINNING FACE}" * 3,
    "__class__",
    "canary_module",
    "nan",
    "1e999",
    "-1",
)
"""Names and values that lead elsewhere, or are no names at all."""


def mutate(data: bytes, rng: Random) -> bytes:
    """One change anywhere in the bytes."""
    return rng.choice(_CHANGES)(bytearray(data), rng)


def digits(data: bytes, rng: Random) -> bytes:
    """One number that is written in digits becomes another; bytes without one are changed as bytes."""
    found = [*re.finditer(rb"-?\d+(\.\d+)?", data[:20_000])]
    if not found or rng.random() < 0.2:
        return mutate(data, rng)
    one = rng.choice(found)
    new = rng.choice((str(rng.choice(NUMBERS)), str(-rng.choice(NUMBERS)), "9" * 5000, "1e400", "nan", "", "0.5"))
    return data[: one.start()] + new.encode() + data[one.end() :]


def _flip(data: bytearray, rng: Random) -> bytes:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def _overwrite(data: bytearray, rng: Random) -> bytes:
    size, order = rng.choice((1, 2, 4, 8)), rng.choice(("little", "big"))
    if len(data) >= size:
        place = rng.randrange(min(len(data) - size + 1, rng.choice((16, 256, 2**30))))
        data[place : place + size] = (rng.choice(NUMBERS) % 2 ** (8 * size)).to_bytes(size, order)
    return bytes(data)


def _cut(data: bytearray, rng: Random) -> bytes:
    return bytes(data[: rng.randrange(len(data) + 1)])


def _remove(data: bytearray, rng: Random) -> bytes:
    start = rng.randrange(len(data) + 1)
    del data[start : start + rng.choice((1, 2, 8, 64))]
    return bytes(data)


def _repeat(data: bytearray, rng: Random) -> bytes:
    start = rng.randrange(len(data) + 1)
    piece = data[start : start + rng.choice((1, 4, 32, 256))]
    data[start:start] = piece * rng.choice((1, 2, 50))
    return bytes(data)


def _insert(data: bytearray, rng: Random) -> bytes:
    start = rng.randrange(len(data) + 1)
    data[start:start] = rng.choice((rng.randbytes(4), rng.choice(TEXTS).encode(), b"\xff" * 8, bytes(64)))
    return bytes(data)


_CHANGES = (_flip, _flip, _overwrite, _overwrite, _cut, _remove, _repeat, _insert)
