"""How many threads numpy's and scipy's linear algebra may use; torch has threads of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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


@cache
def _libraries(*, scipy: bool) -> ThreadpoolController:
    if scipy:
        import_module("scipy.linalg")
    return ThreadpoolController()
