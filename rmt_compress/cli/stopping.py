"""Signals that ask a run to stop: Ctrl-C, `kill`, a terminal that closes.

Each ends it as an error would: what is half is removed, one line says so, and the exit status is 128 and the
signal's number, as a shell has it.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")


class _Asked:
    """What this process was asked to stop by; 0 where it was not."""

    number = 0


@contextmanager
def stopping() -> Iterator[None]:
    """Let the signals that ask to stop raise KeyboardInterrupt, except those that are ignored (`nohup`)."""
    _Asked.number = 0
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (getattr(signal, name) for name in _NAMES if hasattr(signal, name)):
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                before[number] = signal.signal(number, _stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, _frame: FrameType | None) -> None:
    _Asked.number = number
    raise KeyboardInterrupt


def stopped() -> bool:
    """Whether this run was asked to stop."""
    return _Asked.number != 0


def stopped_status() -> int:
    """The exit status of a run that was asked to stop."""
    return 128 + (_Asked.number or signal.SIGINT)


def stopped_by() -> str:
    """The name of the signal."""
    return signal.Signals(_Asked.number or signal.SIGINT).name
