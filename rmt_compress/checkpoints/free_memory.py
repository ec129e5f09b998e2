"""How much memory a tensor may take: two thin factors in a small file can stand for more than any machine has."""

from __future__ import annotations

import os
from pathlib import Path

from rmt_compress.errors import CheckpointError

_MEMINFO = Path("/proc/meminfo")


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


def check_fits_memory(needed: int, what: str) -> None:
    """Refuse to begin what would end in swapping, or in the system's killing of the process.

    `needed` is in bytes; `what` names the file, and what in it is to be unfolded.
    """
    free = free_memory()
    if free is not None and needed > free:
        raise CheckpointError(
            f"{what} takes {needed:,} bytes of memory, {free:,} are free; use a machine with more"
        )
