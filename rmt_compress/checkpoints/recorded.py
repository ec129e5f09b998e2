"""A file that remembers what was written to it, so that a fault can be put down to the disk or not."""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_BLOCK = 2**20


class Recorded(io.BufferedWriter):
    """A file open for writing whose blocks are remembered by place, length and checksum.

    What is written over is remembered as it was; no writer of this package does so.
    """

    def __init__(self, raw: io.RawIOBase) -> None:
        super().__init__(raw)
        self._blocks: list[tuple[int, int, int]] = []

    def write(self, buffer: ReadableBuffer, /) -> int:
        """Write bytes, and remember them."""
        view = memoryview(buffer).cast("B")
        self._blocks.append((self.tell(), len(view), zlib.crc32(view)))
        return super().write(view)

    def is_in(self, path: Path) -> bool:
        """Whether a file holds every block as it was written."""
        try:
            with path.open("rb") as file:
                return all(self._checksum(file, start, length) == found for start, length, found in self._blocks)
        except OSError:
            return False

    def _checksum(self, file: io.BufferedReader, start: int, length: int) -> int | None:
        file.seek(start)
        checksum = 0
        while length > 0:
            block = file.read(min(_BLOCK, length))
            if not block:
                return None
            checksum = zlib.crc32(block, checksum)
            length -= len(block)
        return checksum
