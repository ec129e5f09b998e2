"""Changes to PNG files: the content, length and order of their chunks, with checksums that fit."""

from __future__ import annotations

import zlib
from random import Random

from fuzz.mutating import bombs, octets

MAGIC = b"\x89PNG\r\n\x1a\n"
# Width and height: what fits in memory and what does not, and a picture that is one line.
_SIDES = (0, 1, 7, 2**13, 13_000, 2**16, 2**20, 2**31 - 1, 2**31)
_KINDS = (b"IHDR", b"IDAT", b"PLTE", b"tRNS", b"zTXt", b"iTXt", b"iCCP", b"acTL", b"fdAT", b"eXIf", b"IEND")


def mutate(data: bytes, rng: Random) -> bytes:
    """One change."""
    chunks = _chunks(data)
    if not chunks or rng.random() < 0.15:
        return octets.mutate(data, rng)
    place, what = rng.randrange(len(chunks)), rng.random()
    kind, content = chunks[place]
    if what < 0.2:
        kind, header = chunks[0]
        sides = b"".join(rng.choice(_SIDES).to_bytes(4, "big") for _ in range(2))
        chunks[0] = (kind, sides + header[8:])
    elif what < 0.35:
        # As many pixels as the other change promises: a picture that is whole, and large.
        megabytes, (width, height) = rng.choice(
            ((8, (2896, 2896)), (100, (10_000, 10_400)), (170, (13_000, 13_700)))
        )
        packed, _ = bombs.zeros(megabytes)
        sides = width.to_bytes(4, "big") + height.to_bytes(4, "big")
        image = b"\x78\x9c" + packed + zlib.adler32(b"").to_bytes(4, "big")
        return _written([(b"IHDR", sides + b"\x08\0\0\0\0"), (b"IDAT", image), (b"IEND", b"")])
    elif what < 0.7:
        chunks[place] = (kind, octets.mutate(content, rng))
    elif what < 0.8:
        chunks[place] = (rng.choice(_KINDS), content)
    elif what < 0.87:
        chunks.insert(rng.randrange(len(chunks) + 1), (rng.choice(_KINDS), rng.choice((content, rng.randbytes(9)))))
    elif what < 0.95:
        del chunks[place]
    else:
        packed = b"\x78\x9c" + bombs.zeros(64)[0]
        chunks.insert(1, (rng.choice((b"zTXt", b"iCCP")), b"name\0\0" + packed))
    return _written(chunks)


def _chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    found, place = [], len(MAGIC)
    while place + 12 <= len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        found.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + length]))
        place += 12 + length
    return found


def _written(chunks: list[tuple[bytes, bytes]]) -> bytes:
    out = bytearray(MAGIC)
    for kind, content in chunks:
        out += len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")
    return bytes(out)
