"""What ends a run from outside: Ctrl-C, `kill`, a terminal that closes; or a file that loses what is read of it.

Each ends it as an error would: what is half is removed, and one line says so. The exit status is 128 and the
signal's number, as a shell has it; 2 where a file is to blame.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from types import FrameType

from rmt_compress.cli.shortened_files import noticing_shortened_files, within_handler
from rmt_compress.undisturbed import STOPPING


class _Asked:
    """What this process was asked to stop by.

    Attributes:
        number: the signal; 0 as long as it was not asked.
        file: that became shorter while it was read; empty where none did.
    """

    number = 0
    file = ""


@contextmanager
def stopping() -> Iterator[None]:
    """Let what asks to stop raise KeyboardInterrupt, except for signals that are ignored (`nohup`)."""
    _Asked.number, _Asked.file = 0, ""
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (getattr(signal, name) for name in STOPPING if hasattr(signal, name)):
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                before[number] = signal.signal(number, _stop)
    try:
        with noticing_shortened_files(_lost) if signal.SIGTERM in before else nullcontext():
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, frame: FrameType | None) -> None:
    # Once is enough for a file: what the first one sets going, such as removing what is half, must come to its end.
    if _Asked.file and (_Asked.number or within_handler(frame)):
        return
    _Asked.number = number
    raise KeyboardInterrupt


def _lost(path: str) -> None:
    """Stop, because of a file; the signal waits until the access to that file has come to its end."""
    _Asked.file = _Asked.file or path
    if not _Asked.number:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)


def leaving() -> None:
    """Let what asks to stop end the process at once from now on: all is done but for what Python tidies up.

    For the end of the program alone.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    with suppress(OSError, ValueError):  # nobody reads it, or it is closed
        sys.stdout.flush()
    for number in (getattr(signal, name) for name in STOPPING if hasattr(signal, name)):
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _leave)


def _leave(number: int, _frame: FrameType | None) -> None:
    with suppress(OSError):
        os.write(2, f"error: stopped by {signal.Signals(number).name} at the end, when all was done\n".encode())
    os._exit(128 + number)


def stopped() -> bool:
    """Whether this run was asked to stop."""
    return _Asked.number != 0


def stopped_by_file() -> bool:
    """Whether this run has ended because a file became shorter while it was read."""
    return stopped() and bool(_Asked.file)


def stopped_status() -> int:
    """The exit status of a run that was asked to stop."""
    return 2 if stopped_by_file() else 128 + (_Asked.number or signal.SIGINT)


def stopped_because() -> str:
    """Why it was stopped, and what of it is left, in one line."""
    left = "what was not whole has been removed; the same command begins again"
    if stopped_by_file():
        return f"{_Asked.file}: became shorter while it was read, or its disk failed: {left} once it is whole"
    name = signal.Signals(_Asked.number or signal.SIGINT).name
    return f"stopped by {name}: {left}, or goes on where it keeps partial results"
