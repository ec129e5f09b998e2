"""How long work tells how far it is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int, str], None]
"""Called with (parts done, parts in all, name of the part just done), from the thread that asked for it."""


def counter(total: int, progress: Progress | None) -> Callable[[str], None]:
    """A function to call with the name of each of `total` parts as it is done."""
    done = 0

    def advance(name: str) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total, name)

    return advance
