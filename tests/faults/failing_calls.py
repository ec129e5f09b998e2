"""System calls that fail: a full disk or quota at every write, a faulty disk at every read and write."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tests.faults.tracing import Call
from tests.faults.trials import Bench, Trial

_WRITES = ("write", "writev", "pwrite64", "sendfile")
_READS = ("read", "pread64")
FAULTS: dict[str, tuple[str, Sequence[str]]] = {
    "full disk": ("ENOSPC", (*_WRITES, "mkdir", "rename", "fsync")),
    "quota": ("EDQUOT", (*_WRITES, "mkdir", "rename")),
    "faulty disk, writing": ("EIO", (*_WRITES, "fsync", "rename", "chmod", "flock", "unlink")),
    "faulty disk, reading": ("EIO", _READS),
}
"""Kind of fault -> the error, and the calls that it befalls."""


def concerned(bench: Bench, kind: str, calls: Sequence[Call], most: int | None = None) -> list[Call]:
    """The calls that a fault of a kind can befall: on files in the run's own folder, or naming one.

    Args:
        bench: what is disturbed.
        kind: of `FAULTS`.
        calls: of a run.
        most: so many of them, evenly chosen; None for all.
    """
    _, names = FAULTS[kind]
    own = str(bench.folder)
    relative = ('(".', f'("{bench.work.output}', f'("{bench.work.resumes or bench.work.output}')
    found = [
        call
        for call in calls
        if call.name in names
        and (call.place.startswith(own) or f'"{own}' in call.text or any(each in call.text for each in relative))
    ]
    if most is not None and len(found) > most:
        found = [found[number * len(found) // most] for number in range(most)]
    return found


def failing_calls(bench: Bench, kind: str, most: int | None = None) -> Iterator[Trial]:
    """Let each of the concerned calls fail, one in a run.

    Args:
        bench: what is disturbed.
        kind: of `FAULTS`.
        most: of so many calls, evenly chosen; None for all.
    """
    error, _ = FAULTS[kind]
    for number, call in enumerate(concerned(bench, kind, bench.calls, most)):
        inject = f"{call.name}:error={error}:when={call.count}"
        yield bench.try_with(inject, f"{error} at {call.name}", existed=number % 2 == 0)
