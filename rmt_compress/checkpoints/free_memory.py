"""How much memory a tensor may take: two thin factors in a small file can stand for more than any machine has."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from rmt_compress.errors import CheckpointError

_MEMINFO = Path("/proc/meminfo")
# glibc's number for the size from which a block of memory comes from the system, and goes back there, by itself.
_MMAP_THRESHOLD = -3
_LARGE = 2**20


def free_memory() -> int | None:
    """Bytes that can be had without swapping, or all there are, or None where the system tells neither."""
    try:
        for line in _MEMINFO.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # no POSIX
        return None


def give_back_at_once() -> None:
    """From now on large blocks that are freed go back to the system at once, in all of this process.

    glibc keeps blocks of up to 32 MB for later ones: with several layers one after the other 100 MB and more lay
    idle. Other C libraries are left as they are.
    """
    import ctypes

    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _LARGE)


def check_fits_memory(needed: int, what: str) -> None:
    """Refuse to begin what would end in swapping, or in the system's killing of the process.

    `needed` is in bytes; `what` names the file, and what in it is to be unfolded.
    """
    free = free_memory()
    if free is not None and needed > free:
        raise CheckpointError(
            f"{what} takes {needed:,} bytes of memory, {free:,} are free; use a machine with more"
        )
