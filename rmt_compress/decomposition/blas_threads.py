"""How many threads numpy's and scipy's linear algebra may use; torch has threads of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy  # noqa: F401 - a library that is not loaded yet cannot be limited
import scipy.linalg  # noqa: F401
from threadpoolctl import ThreadpoolController


@contextmanager
def blas_threads(count: int) -> Iterator[None]:
    """At most `count` threads for each call of numpy's and scipy's BLAS, in the whole process, while it lasts.

    Never more than they had. Not to be entered from several threads at once: each would give back what it found.
    """
    present = [library["num_threads"] for library in _libraries().info() if library["user_api"] == "blas"]
    with _libraries().limit(limits=min([count, *present]), user_api="blas"):
        yield


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()
