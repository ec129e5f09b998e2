"""How long work tells how far it is, and what it says of itself to those who listen."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

Progress = Callable[[int, int, str], None]
"""Called with (parts done, parts in all, name of the part just done), from the thread that asked for it."""

_log = logging.getLogger(__name__)


def counter(total: int, progress: Progress | None) -> Callable[[str], None]:
    """A function to call with the name of each of `total` parts as it is done."""
    done = 0

    def advance(name: str) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total, name)

    return advance


@contextmanager
def phase(what: str) -> Iterator[None]:
    """Log, at level INFO, how long a part of the work took, in seconds; also as a decorator."""
    began = monotonic()
    yield
    _log.info("%s took %.2f s", what, monotonic() - began)
