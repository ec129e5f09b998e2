"""A few quick steps that no signal comes between: Ctrl-C and its like wait until all are done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

STOPPING = ("SIGINT", "SIGTERM", "SIGHUP")
"""Signals that ask a program to stop, of which a system may lack some."""


@contextmanager
def undisturbed() -> Iterator[None]:
    """Let signals that ask to stop wait until the block has ended; then they do what they would have done.

    Neither SIGKILL nor a power cut waits. In other threads than the main one nothing is changed: Python lets only
    that one have handlers, and runs them there. Handlers are exchanged, not signals blocked: a thread of numpy's
    or torch's would take the blocked signal, and Python then runs the handler all the same.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting = _Waiting()
    try:
        waiting.begin()
        yield
    finally:
        waiting.end()


class _Waiting:
    """Signals that have come meanwhile, and the handlers that they are for."""

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._came: list[int] = []
        self._over = False

    def begin(self) -> None:
        """Note signals from now on; one that is ignored, or handled outside of Python, is left alone."""
        for number in (getattr(signal, name) for name in STOPPING if hasattr(signal, name)):
            handler = signal.getsignal(number)
            if handler not in (signal.SIG_IGN, None):
                self._before[number] = handler
                signal.signal(number, self._note)

    def end(self) -> None:
        """Put the handlers back, and hand on to them what has come."""
        self._over = True
        for number, handler in self._before.items():
            signal.signal(number, handler)
        for number in self._came:
            signal.raise_signal(number)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if not self._over:
            self._came.append(number)
            return
        # It has come while the handlers are put back; where its own raises, the rest of them stay, and do this.
        signal.signal(number, self._before[number])
        signal.raise_signal(number)
