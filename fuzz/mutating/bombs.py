"""Zeros that unpack into megabytes, made in no time: one block of them, packed once and repeated."""

from __future__ import annotations

import zlib
from functools import cache

_MEGABYTE = bytes(1 << 20)


@cache
def zeros(megabytes: int, before: bytes = b"") -> tuple[bytes, int]:
    """Deflated (RFC 1951): some bytes and so many megabytes of zeros; and the checksum of what they unpack into."""
    packer = zlib.compressobj(6, wbits=-15)
    first = packer.compress(before) + packer.flush(zlib.Z_FULL_FLUSH)
    # Behind a full flush nothing refers to what came before, so that the block may stand there again.
    block = packer.compress(_MEGABYTE) + packer.flush(zlib.Z_FULL_FLUSH)
    checksum = zlib.crc32(before)
    for _ in range(megabytes):
        checksum = zlib.crc32(_MEGABYTE, checksum)
    return first + block * megabytes + packer.flush(), checksum


def gzipped(megabytes: int, before: bytes) -> bytes:
    """The same as a file of gzip's (RFC 1952)."""
    packed, checksum = zeros(megabytes, before)
    size = (len(before) + (megabytes << 20)) % 2**32
    header = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
    return header + packed + checksum.to_bytes(4, "little") + size.to_bytes(4, "little")
