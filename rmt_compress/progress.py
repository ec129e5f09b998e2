"""How long work tells how far it is, and what it says of itself to those who listen."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

Progress = Callable[[int, int, str], None]
"""Called with (parts done, parts in all, name of the part just done), from the thread that asked for it."""


class PartOf(str):
    """The name of a part just done, that knows how many bytes are: for who shows them; to others it is its name.

    Attributes:
        bytes_done: of the parts that are done.
        bytes_in_all: of all parts.
    """

    bytes_done: int
    bytes_in_all: int

    def __new__(cls, name: str, bytes_done: int, bytes_in_all: int) -> PartOf:
        """The name with its numbers."""
        part = super().__new__(cls, name)
        part.bytes_done, part.bytes_in_all = bytes_done, bytes_in_all
        return part


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
