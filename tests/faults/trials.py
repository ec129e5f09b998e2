"""One disturbed run, what is asked of it, and the run after it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping, Sequence, Set
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGKILL

from tests.faults import tracing
from tests.faults.tracing import Call, Ended
from tests.faults.works import CARD, Work
from tests.samples.fork_server import ForkServer

STATUSES = (0, 1, 2, 3)
"""What the documents say a run may end with, beside 128 and the number of a signal that was sent to it."""
HANGS_AFTER = 10.0
"""Seconds, beside three times those of a run that nothing disturbs: other work on the machine makes all slower."""
MOST_MEMORY = 400_000
"""In kB: what a run may take beside twice its inputs, and beside what it has imported."""
_BEGINS = "rmt_compress/__main__.py"
"""The file whose first line is the program's."""


@dataclass
class Trial:
    """What came of one disturbed run.

    Attributes:
        fault: what was done to it, in a few words.
        status: its exit status, or minus the signal that ended it.
        left: ``before`` where the output is what it was, ``whole`` where it is the new one, ``half`` otherwise.
        strangers: files that it left, which the next run removes or goes on with.
        peak: the most memory that it or the next run had at once, in kB, beside what is imported.
        problems: what should not be.
    """

    fault: str
    status: int
    left: str
    strangers: int
    peak: int
    problems: list[str] = field(default_factory=list)


class Bench:
    """A work with its whole output, disturbed as often as wanted in a folder of its own.

    Args:
        server: forks the processes.
        work: what is disturbed.
        folder: a new folder.

    Attributes:
        inputs: names of its inputs.
        whole: the output, file by file.
        needs: bytes of the inputs.
        writes: bytes of all that it makes.
        calls: the system calls of a run that replaces an older output, from its first line on.
        patience: seconds after which a run counts as one that hangs.
        imported: kB of memory that a run takes that does nothing.
    """

    def __init__(self, server: ForkServer, work: Work, folder: Path) -> None:
        self.server, self.work, self.folder = server, work, folder
        self.inputs = work.set_up(folder)
        self.needs = _bytes(folder)
        self.imported = self.run(("--version",)).peak
        ended = self.run(work.arguments)
        assert ended.status == 0, ended.stderr
        self.patience = HANGS_AFTER + 3 * ended.seconds
        self.whole = work.found(folder)
        self.writes = _bytes(folder) - self.needs
        noted = folder.parent / f"{work.name}.calls"
        self.prepare(existed=True)
        self.run(work.arguments, noted=noted)
        calls = tracing.calls(noted)
        # Until its first line runs, it is Python that answers.
        closing = (number for number, call in enumerate(calls) if call.name == "close" and _BEGINS in call.place)
        first = next(closing, -1)
        self.calls: list[Call] = calls[first + 1 :]

    def at(self, folder: Path) -> Bench:
        """The same in another folder."""
        other = copy(self)
        other.folder = folder
        return other

    def run(
        self,
        arguments: Sequence[str],
        *,
        inject: str | None = None,
        noted: Path | None = None,
        patch: str | None = None,
        stopped: Callable[[], None] | None = None,
    ) -> Ended:
        """Run the program; see `tracing.run`."""
        return tracing.run(
            self.server,
            arguments,
            cwd=self.folder,
            inject=inject,
            noted=noted,
            env={"PATCHED": self.work.patch if patch is None else patch},
            stopped=stopped,
        )

    def put_inputs(self) -> None:
        """Lay the inputs anew."""
        self.work.prepare(self.folder)

    def prepare(self, *, existed: bool) -> dict[str, bytes]:
        """The folder as it is before a run; its output, where there is an old one."""
        self.work.set_up(self.folder)
        if existed:
            self.work.put_old(self.folder)
        return self.work.found(self.folder)

    def try_with(self, inject: str, fault: str, *, existed: bool, sent: int | None = None) -> Trial:
        """Disturb a run, look at what it leaves, run again and compare.

        Args:
            inject: strace's expression of the fault.
            fault: the same in a few words.
            existed: whether an older output is there.
            sent: the signal that is sent, if any.
        """
        before = self.prepare(existed=existed)
        return self.judged(self.run(self.work.arguments, inject=inject), before, fault, sent=sent)

    def judged(
        self,
        ended: Ended,
        before: Mapping[str, bytes],
        fault: str,
        *,
        sent: int | None = None,
        left_before: Set[str] = frozenset(),
        then: Callable[[], None] | None = None,
    ) -> Trial:
        """What is to be said of a run that has ended, and of the one after it.

        Args:
            ended: the run.
            before: the output before it.
            fault: what was done to it.
            sent: the signal that was sent to it, if any.
            left_before: what a run before it had left.
            then: called before the next run.
        """
        problems = complaints(ended, sent) + self.excesses(ended)
        found = self.work.found(self.folder)
        # A card is written when the folder's network has been measured, as the last thing.
        whole = found == self.whole or found == {name: self.whole[name] for name in self.whole if name != CARD}
        left = "whole" if whole else "before" if found == before else "half"
        if left == "half":
            problems.append(f"the output is half: {sorted(found)}, not {sorted(self.whole)}")
        if ended.status == 0 and not whole:
            problems.append("exit status 0 without the output")
        strangers = self.work.strangers(self.folder, self.inputs)
        hidden = {name for name in strangers - left_before if name != self.work.resumes}
        if ended.status >= 0 and hidden:
            problems.append(f"leaves {_shown(hidden)}")
        if then is not None:
            then()
        again = self.run(self.work.next_arguments(self.folder))
        problems += self.excesses(again)
        if again.status != 0:
            problems.append(f"the next run ends with {again.status}: {again.stderr[-300:].strip()}")
        elif self.work.found(self.folder) != self.whole:
            problems.append("the next run makes something else")
        elif still := self.work.strangers(self.folder, self.inputs):
            problems.append(f"the next run leaves {_shown(still)}")
        peak = max(ended.peak, again.peak) - self.imported
        return Trial(fault, ended.status, left, len(strangers), peak, problems)

    def excesses(self, ended: Ended) -> list[str]:
        """What a run has taken too much of."""
        problems = []
        if ended.seconds > self.patience:
            problems.append("hangs")
        if ended.peak - self.imported > MOST_MEMORY + 2 * self.needs / 1024:
            problems.append(f"takes {(ended.peak - self.imported) / 1000:.0f} MB")
        return problems


def complaints(ended: Ended, sent: int | None = None) -> list[str]:
    """What is wrong with how a run ended and what it said.

    Args:
        ended: the run.
        sent: the signal that was sent to it.
    """
    if sent == SIGKILL and ended.status == -SIGKILL:
        return []
    allowed = STATUSES if sent is None else (*STATUSES, 128 + sent)
    problems = []
    if ended.status not in allowed:
        problems.append(f"ends with {ended.status}: {_last_line(ended.stderr)}")
    if "Traceback" in ended.stderr:
        problems.append(f"a traceback: {_last_line(ended.stderr)}")
    if len(re.findall(r"^error:", ended.stderr, re.MULTILINE)) > 1:
        problems.append("more than one error line")
    if ended.status and not re.search(r"^(error|note): ", ended.stderr, re.MULTILINE):
        problems.append(f"status {ended.status} without a word")
    return problems


def _bytes(folder: Path) -> int:
    """What the content of a folder takes of a disk that gives whole pages."""
    return sum(-(-max(path.stat().st_size, 1) // 4096) * 4096 for path in folder.rglob("*"))


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][:300] if lines else ""


def _shown(names: set[str]) -> str:
    """Names with the letters taken out that are others in every run."""
    return ", ".join(sorted(re.sub(r"\.[a-z0-9_]{8}(?=\.|$)", ".*", name) for name in names))


def clear(folder: Path) -> None:
    """Remove a folder of trials."""
    shutil.rmtree(folder, ignore_errors=True)
