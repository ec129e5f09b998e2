"""`python -m tests.faults CAMPAIGN [WORK]`: disturb runs, and say what came of it."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.faults import tracing
from tests.faults.clocks import clock_jumps, why_no_clocks
from tests.faults.failing_calls import FAULTS, failing_calls
from tests.faults.kills import kills
from tests.faults.resuming import full_disks_resuming
from tests.faults.signals import signals
from tests.faults.surroundings import (
    changing_inputs,
    full_disks,
    read_only,
    two_writers,
    why_not_mounted,
)
from tests.faults.table import Row, record
from tests.faults.trials import Bench, Trial
from tests.faults.works import ALSO, WORKS
from tests.samples.fork_server import ForkServer, all_modules

Campaign = Callable[[Bench, int, int], Iterator[Trial]]
CAMPAIGNS: dict[str, tuple[Campaign, int]] = {
    "kills": (kills, 200),
    "signals": (signals, 32),
    **{kind: ((lambda bench, count, _, kind=kind: failing_calls(bench, kind, count)), 12) for kind in FAULTS},
    "full disk, resuming": (lambda bench, count, _: full_disks_resuming(bench, count), 20),
    "small disk": (lambda bench, count, _: full_disks(bench, count), 10),
    "read-only disk": (lambda bench, _count, _: read_only(bench), 2),
    "input changes": (lambda bench, count, _: changing_inputs(bench, bench.work.reads, count), 24),
    "two writers": (lambda bench, count, _: two_writers(bench, count), 8),
    "clock jumps": (lambda bench, count, _: clock_jumps(bench, count), 6),
}
"""Name -> what it does, and how many runs it disturbs unless told otherwise."""
NEEDS = {"small disk": why_not_mounted, "read-only disk": why_not_mounted, "clock jumps": why_no_clocks}
"""What says why a campaign cannot be had here."""
ASKING = ("signals",)
"""Those that works are part of that are `Work.asked_only`."""


def main() -> int:
    """Run campaigns; exit status 1 where anything was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("campaign", choices=[*CAMPAIGNS, "all"])
    parser.add_argument("work", nargs="?", choices=[*WORKS, "all"], default="all")
    parser.add_argument("--runs", type=int, help="how many to disturb (kills 200; see the table for the others)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--record", action="store_true", help="write the figures to tests/faults/results.json and .md"
    )
    asked = parser.parse_args()
    if (why := tracing.why_not()) is not None:
        parser.error(why)
    works = list(WORKS) if asked.work == "all" else [asked.work]
    campaigns = list(CAMPAIGNS) if asked.campaign == "all" else [asked.campaign]
    server = ForkServer([*all_modules(), *ALSO])
    found = False
    for work in works:
        with tempfile.TemporaryDirectory(prefix="faults-") as name:
            bench = Bench(server, WORKS[work], Path(name) / work)
            for campaign in campaigns:
                if asked.work == "all" and WORKS[work].asked_only and campaign not in ASKING:
                    continue
                disturb, usual = CAMPAIGNS[campaign]
                if campaign in NEEDS and (why := NEEDS[campaign]()) is not None:
                    print(f"{work}: {campaign}: left out: {why}", flush=True)
                    continue
                begun = time.monotonic()
                trials = list(disturb(bench, asked.runs or usual, asked.seed))
                if not trials:
                    continue  # it reads no input of its own
                row = Row.of(campaign, work, trials, time.monotonic() - begun)
                print(row.said(), *sorted(row.problems), sep="\n  ", flush=True)
                found |= bool(row.problems)
                if asked.record:
                    record(row)
    server.close()
    return int(found)


if __name__ == "__main__":
    sys.exit(main())
