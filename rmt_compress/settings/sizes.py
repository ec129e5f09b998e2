"""Sizes in bytes as people write them: 4GB, 800MB, 1.5GiB."""

from __future__ import annotations

import re

from rmt_compress.errors import SettingsError

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?", re.IGNORECASE)


def bytes_in(size: str | int, called: str) -> int:
    """The bytes of a size: KB, MB, GB, TB are powers of 1,000, KiB … TiB of 1,024; a number alone counts bytes.

    Args:
        size: such as ``4GB``.
        called: what messages call it.

    Raises:
        SettingsError: it is no size above 0.
    """
    found = _SIZE.fullmatch(str(size).strip())
    unit = (found[2] or "").lower() if found is not None else ""
    count = 0 if found is None else int(float(found[1]) * (_UNITS | _BINARY)[unit])
    if count <= 0:
        raise SettingsError([f"{called} must be a size such as 4GB or 800MB, got {str(size)!r}"])
    return count


def shown_bytes(count: float) -> str:
    """``3.1 GB``, ``850 MB``: three digits, in powers of 1,000."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} bytes"
