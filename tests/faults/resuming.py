"""A disk that is full while an interrupted run goes on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from tests.faults import tracing
from tests.faults.failing_calls import concerned
from tests.faults.trials import Bench, Trial

KIND = "full disk"


def full_disks_resuming(bench: Bench, most: int) -> Iterator[Trial]:
    """Kill a run when half of its states are written, and let each of the calls fail that the next run writes with.

    Args:
        bench: what is disturbed; nothing comes of a work that keeps no state.
        most: of so many calls, evenly chosen.
    """
    work = bench.work
    if not work.resumes:
        return
    states = [call for call in bench.calls if call.name.startswith("rename") and work.resumes in call.text]
    bench.prepare(existed=True)
    middle = states[len(states) // 2]
    bench.run(work.arguments, inject=f"{middle.name}:signal=KILL:when={middle.count}")
    interrupted = bench.folder.with_name(f"{work.name}-interrupted")
    shutil.copytree(bench.folder, interrupted)
    left = work.strangers(interrupted, bench.inputs)
    goes_on = work.next_arguments(bench.folder)
    noted = bench.folder.with_name(f"{work.name}.resumed")
    bench.run(goes_on, noted=noted)
    for call in concerned(bench, KIND, tracing.calls(noted), most):
        shutil.rmtree(bench.folder)
        shutil.copytree(interrupted, bench.folder)
        before = work.found(bench.folder)
        ended = bench.run(goes_on, inject=f"{call.name}:error=ENOSPC:when={call.count}")
        yield bench.judged(ended, before, f"ENOSPC at {call.name}, resumed", left_before=left)
