"""How many threads numpy's and scipy's linear algebra may use; torch has threads of its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from importlib import import_module

import numpy  # noqa: F401 - a library that is not loaded yet cannot be limited
from threadpoolctl import ThreadpoolController


@contextmanager
def blas_threads(count: int, *, scipy: bool = True) -> Iterator[None]:
    """At most `count` threads for each call of numpy's and scipy's BLAS, in the whole process, while it lasts.

    Never more than they had; without `scipy`, which takes a while to load, of numpy's alone. Not to be entered from
    several threads at once: each would give back what it found.
    """
    libraries = _libraries(scipy=scipy)
    present = [library["num_threads"] for library in libraries.info() if library["user_api"] == "blas"]
    with libraries.limit(limits=min([count, *present]), user_api="blas"):
        yield


_ENTERING = threading.Lock()
_within: list[ExitStack] = []


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """`blas_threads(1)` that several threads may be in at once: the last gives back what the first found."""
    with _ENTERING:
        if not _within:
            limited = ExitStack()
            limited.enter_context(blas_threads(1))
            _within.append(limited)
        else:
            _within.append(_within[0])
    try:
        yield
    finally:
        with _ENTERING:
            limited = _within.pop()
            if not _within:
                limited.close()


@cache
def _libraries(*, scipy: bool) -> ThreadpoolController:
    if scipy:
        import_module("scipy.linalg")
    return ThreadpoolController()
