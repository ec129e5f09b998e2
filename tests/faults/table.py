"""The table of campaigns: figures of recorded runs in `results.json`, and the page made of them, `results.md`."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.faults.trials import Trial

_HERE = Path(__file__).resolve().parent
RESULTS, PAGE, MENDED = _HERE / "results.json", _HERE / "results.md", _HERE / "mended.json"


@dataclass
class Row:
    """A campaign against one kind of work.

    Attributes:
        campaign: what was done.
        work: to what.
        runs: how many were disturbed.
        statuses: exit statuses, or minus the signal that ended a run -> how many.
        left: ``before``, ``whole`` or ``half`` -> in how many runs the output was that.
        leftovers: runs that left something for the next one to remove or to go on with.
        tracebacks: runs that printed one.
        hangs: runs that took more than ten seconds beside three times those of one that nothing disturbs; None
            where that was not asked.
        peak: the most memory that one of them took beside what is imported, in MB; None where it was not measured.
        problems: what should not be -> in how many runs.
        seconds: that it took, those of other work on the machine included.
    """

    campaign: str
    work: str
    runs: int
    statuses: dict[str, int]
    left: dict[str, int]
    leftovers: int
    tracebacks: int
    hangs: int | None
    peak: int | None
    problems: dict[str, int]
    seconds: int

    @classmethod
    def of(cls, campaign: str, work: str, trials: Sequence[Trial], seconds: float) -> Row:
        """The row of trials that were made."""
        return cls(
            campaign,
            work,
            len(trials),
            dict(Counter(str(trial.status) for trial in trials)),
            dict(Counter(trial.left for trial in trials)),
            sum(trial.strangers > 0 for trial in trials),
            sum(any("traceback" in problem for problem in trial.problems) for trial in trials),
            sum("hangs" in trial.problems for trial in trials),
            round(max(trial.peak for trial in trials) / 1000),
            dict(Counter(_kind(trial, problem) for trial in trials for problem in trial.problems)),
            round(seconds),
        )

    def said(self) -> str:
        """The row as a line of text."""
        return (
            f"{self.work}: {self.campaign}: {self.runs} runs in {self.seconds} s; "
            f"exit statuses {_counts(self.statuses)}; output {_counts(self.left)}; "
            f"{self.leftovers} left something behind; {sum(self.problems.values())} problems"
        )


def _kind(trial: Trial, problem: str) -> str:
    """A problem without what is another in every run."""
    return re.sub(r"/\S*/|\b[a-z0-9_]{8}\b(?=\.)", "", f"{trial.fault}: {problem}")[:300]


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in sorted(counts.items(), key=lambda item: -item[1]))


def record(row: Row) -> None:
    """Put a row into the results, in the place of an earlier one of the same campaign and work; write the page."""
    rows = [Row(**each) for each in json.loads(RESULTS.read_text())] if RESULTS.exists() else []
    rows = [each for each in rows if (each.campaign, each.work) != (row.campaign, row.work)]
    rows.append(row)
    RESULTS.write_text(json.dumps([asdict(each) for each in rows], indent=1) + "\n")
    PAGE.write_text(page(rows, mended()))


def _known(number: int | None, unit: str = "") -> str:
    return "not asked" if number is None else f"{number}{unit}"


@dataclass(frozen=True)
class Mended:
    """What a campaign has found, and what is otherwise now.

    Attributes:
        campaign: which, as `Row.campaign`.
        work: in which, as `Row.work`.
        what: was wrong, and is not.
    """

    campaign: str
    work: str
    what: str


def mended() -> list[Mended]:
    """All that was found and mended."""
    return [Mended(**each) for each in json.loads(MENDED.read_text())]


def page(rows: Sequence[Row], mended: Sequence[Mended]) -> str:
    """The table, from recorded rows and the list of what was found and mended."""
    found = Counter((each.campaign, each.work) for each in mended)
    lines = [
        "# Faults on purpose: what was disturbed and what came of it",
        "",
        "Made by `python -m tests.faults CAMPAIGN [WORK] --record` from `results.json` and `mended.json`,",
        "with strace on Linux. A run of a command is disturbed at one system call, or in what is around it;",
        "then it is asked: is the output what it was before, or the new one, byte for byte; is there no",
        "traceback, one line of an error, an exit status that docs/commands.md names; and is a second run,",
        "with `--resume` where there is a training state, then as good as one that nothing has disturbed:",
        "exit status 0, the same bytes, and nothing left in the folder but inputs and outputs. Kills, signals",
        "and failing calls strike at calls on files of the first thread, drawn or evenly chosen among all of",
        "a run from the program's first line on, one half of the kills and signals at calls that change",
        "something. Where a disturbed run ends with 0, the call was not reached, or its failing changes nothing.",
        "Statuses below 0 are signals that ended the process. `before` and `whole` say which output was found,",
        "all files that belong to it (of `sweep` three, of `analyze` four, of `certify` two, of `graph` the model",
        "and its data); a folder whose card is still missing counts as whole, since that is written last, when",
        "the network has been measured.",
        "",
        "Found are kinds of failure, mended or left; both are listed below. A run hangs that takes more than ten",
        "seconds beside three times those of an undisturbed one (other work on the machine makes all slower).",
        "Memory is the most that a run, or the one after it, took beside what a run that only tells its version",
        "takes; more than 400 MB and twice the inputs would be a failure. No input here carries code: what a",
        "file can have run is tried by the fuzzer (`fuzz/results.md`) and `tests/test_isolation.py`.",
        "",
        "| campaign | work | runs | found | mended | left | tracebacks | hangs | half outputs | memory "
        "| exit statuses | output | left something behind |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
        *(
            f"| {row.campaign} | {row.work} | {row.runs} | {found[row.campaign, row.work] + len(row.problems)} "
            f"| {found[row.campaign, row.work]} | {len(row.problems)} | {row.tracebacks} | {_known(row.hangs)} "
            f"| {row.left.get('half', 0)} | {_known(row.peak, ' MB')} | {_counts(row.statuses)} "
            f"| {_counts(row.left)} | {row.leftovers} |"
            for row in rows
        ),
        "",
        f"In all {sum(row.runs for row in rows):,} runs, {len(mended)} kinds of failure mended and "
        f"{sum(len(row.problems) for row in rows)} left: {sum(row.tracebacks for row in rows)} tracebacks, "
        f"{sum(row.hangs or 0 for row in rows)} hangs, "
        f"{sum(row.left.get('half', 0) for row in rows)} half outputs, "
        f"{max((row.peak or 0 for row in rows), default=0)} MB at most.",
        "",
        "## Found and mended",
        "",
        *(f"- {each.campaign}, {each.work}: {each.what}" for each in mended),
        "",
    ]
    if any(row.problems for row in rows):
        lines += ["## Left", ""]
        lines += [
            f"- {row.campaign}, {row.work}: {problem} ({count})"
            for row in rows
            for problem, count in row.problems.items()
        ]
        lines.append("")
    return "\n".join(lines)
