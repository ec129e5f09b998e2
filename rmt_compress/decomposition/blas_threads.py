"""How many threads numpy's and scipy's linear algebra may use; torch has threads of its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module

import numpy  # noqa: F401 - a library that is not loaded yet cannot be limited
from threadpoolctl import LibController, ThreadpoolController

_LOCK = threading.Lock()
# What those who are inside ask for, and each library, by its file, with what it had before the first of them came.
_ASKED: list[int] = []
_BEFORE: dict[str, tuple[LibController, int]] = {}


@contextmanager
def blas_threads(count: int, *, scipy: bool = True) -> Iterator[None]:
    """At most `count` threads for each call of numpy's and scipy's BLAS, in the whole process, while it lasts.

    Never more than they had; without `scipy`, which takes a while to load, of numpy's alone. Where several threads
    of a program are inside at once, the least that one of them asks for holds for all, and the last one to leave
    gives back what the first one found.
    """
    libraries = _libraries(scipy=scipy)
    with _LOCK:
        for library in libraries:
            _BEFORE.setdefault(library.filepath, (library, library.get_num_threads()))
        _ASKED.append(count)
        _set()
    try:
        yield
    finally:
        with _LOCK:
            _ASKED.remove(count)
            _set()
            if not _ASKED:
                _BEFORE.clear()


def _set() -> None:
    for library, before in _BEFORE.values():
        library.set_num_threads(min([*_ASKED, before]))


@cache
def _libraries(*, scipy: bool) -> list[LibController]:
    if scipy:
        import_module("scipy.linalg")
    return [each for each in ThreadpoolController().lib_controllers if each.user_api == "blas"]
