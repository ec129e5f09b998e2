"""SIGKILL at random system calls."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from signal import SIGKILL

from tests.faults.tracing import CHANGING, Call
from tests.faults.trials import Bench, Trial


def moments(calls: list[Call], count: int, seed: int) -> list[Call]:
    """Calls to die at: one half among all, one half among those that change something on the disk."""
    rng = Random(seed)
    changing = [call for call in calls if call.name in CHANGING] or calls
    return [rng.choice(calls if number % 2 else changing) for number in range(count)]


def kills(bench: Bench, count: int, seed: int) -> Iterator[Trial]:
    """Kill a run at each of so many moments; an older output is there every other time."""
    for number, call in enumerate(moments(bench.calls, count, seed)):
        inject = f"{call.name}:signal=KILL:when={call.count}"
        yield bench.try_with(inject, f"KILL at {call.name}", existed=number % 4 < 2, sent=SIGKILL)
