"""A system clock that is set while a run goes on, by libfaketime; monotonic clock and times of files stay true."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from threading import Event, Thread

from tests.faults.trials import Bench, Trial
from tests.faults.works import ALSO
from tests.samples.fork_server import ForkServer, all_modules

CLOCKS = {
    "a clock that is set back by years": ("+0", "-3000d"),
    "a clock that is set forward by years": ("+0", "+3000d"),
    "a clock that jumps back and forth": ("+0", "-3000d", "+40d", "-1h", "+3000d"),
}
"""What befalls the clock -> its offsets, one after the other."""
_EVERY = 0.05
_FUTURE = 4_000_000_000  # in the year 2096


def library() -> Path | None:
    """libfaketime's file."""
    return next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)


def why_no_clocks() -> str | None:
    """Why no clock can be set for a program alone; None where it can."""
    return None if library() is not None else "libfaketime is not installed (Debian: apt-get install libfaketime)"


def clock_jumps(bench: Bench, count: int) -> Iterator[Trial]:
    """Set the clock under a run; every other time its inputs were written in the future."""
    told = bench.folder.with_name(f"{bench.work.name}.clock")
    told.write_text("+0")
    env = {
        "LD_PRELOAD": str(library()),
        "FAKETIME_TIMESTAMP_FILE": str(told),
        **dict.fromkeys(("FAKETIME_NO_CACHE", "FAKETIME_DONT_FAKE_MONOTONIC", "NO_FAKE_STAT"), "1"),
    }
    there = bench.at(bench.folder)
    there.server = ForkServer([*all_modules(), *ALSO], env=env)
    try:
        there.run(("--version",))  # the server has started then: its imports are not the first trial's
        for number in range(count):
            name, offsets = list(CLOCKS.items())[number % len(CLOCKS)]
            before = bench.prepare(existed=False)
            for path in bench.folder.rglob("*") if number % 2 else ():
                os.utime(path, (_FUTURE, _FUTURE))
            with _set(told, offsets):
                ended = there.run(bench.work.arguments)
            trial = bench.judged(ended, before, name)
            if ended.status:
                trial.problems.append(f"ends with {ended.status}: {ended.stderr[-200:]}")
            yield trial
    finally:
        there.server.close()


@contextmanager
def _set(told: Path, offsets: tuple[str, ...]) -> Iterator[None]:
    """Tell libfaketime one offset after the other, in a thread, as long as the block runs."""
    over = Event()

    def go_on() -> None:
        for offset in offsets if len(offsets) == 2 else cycle(offsets):
            new = told.with_suffix(".next")
            new.write_text(offset)
            new.replace(told)
            if over.wait(_EVERY):
                return

    setting = Thread(target=go_on)
    setting.start()
    try:
        yield
    finally:
        over.set()
        setting.join()
