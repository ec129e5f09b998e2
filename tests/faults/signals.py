"""Signals that ask a run to stop, at random system calls, and one that tells of a closed pipe."""

from __future__ import annotations

from collections.abc import Iterator
from signal import Signals

from tests.faults.kills import moments
from tests.faults.trials import Bench, Trial

SENT = ("INT", "TERM", "HUP", "PIPE")


def signals(bench: Bench, count: int, seed: int) -> Iterator[Trial]:
    """Send a signal at each of so many moments; PIPE changes nothing, the others end the run in one line."""
    for number, call in enumerate(moments(bench.calls, count, seed)):
        name = SENT[number // 2 % len(SENT)]
        inject = f"{call.name}:signal={name}:when={call.count}"
        yield bench.try_with(
            inject,
            f"{name} at {call.name}",
            existed=number % 16 < 8,
            sent=Signals[f"SIG{name}"],
        )
