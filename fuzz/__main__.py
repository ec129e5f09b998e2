"""`python -m fuzz READER --seconds N --seed S`: executions, failures and lines reached; failing inputs are kept."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fuzz.trial import Campaign

_KEPT = Path(__file__).resolve().parent.parent / "build" / "fuzz"


def main() -> int:
    """Run one reader or all; exit status 1 where anything failed."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    # A thread more would be one that the children do not have.
    from fuzz.readers import READERS
    from fuzz.report import record, recorded
    from fuzz.trial import fuzz, keep

    listed = f"which: all, or some of {', '.join(READERS)}"
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("readers", nargs="+", choices=[*READERS, "all"], metavar="READER", help=listed)
    parser.add_argument("--seconds", type=float, default=60.0, help="for each reader (default 60)")
    parser.add_argument("--executions", type=int, help="stop after so many inputs")
    parser.add_argument("--seed", type=int, default=0, help="of the random changes (default 0)")
    parser.add_argument("--no-lines", action="store_true", help="do not measure which lines are reached")
    parser.add_argument("--record", action="store_true", help="add the figures to fuzz/results.json and results.md")
    parser.add_argument("--go-on", action="store_true", help="leave out what is recorded with this seed already")
    asked = parser.parse_args()
    names = list(READERS) if "all" in asked.readers else asked.readers
    if asked.go_on:
        names = [name for name in names if not recorded(name, asked.seed, asked.executions or 1)]
    failed = False
    for name in names:
        found = fuzz(
            READERS[name],
            seconds=asked.seconds,
            executions=asked.executions,
            seed=asked.seed,
            measure=not asked.no_lines,
        )
        print(said(found), flush=True)
        for place, failure in zip(
            keep(found.failures.values(), _KEPT / name), found.failures.values(), strict=True
        ):
            print(f"  {found.failed[failure.kind]} × {failure.kind}; kept in {place}", flush=True)
        failed |= bool(found.failures)
        if asked.record:
            record(found)
    return int(failed)


def said(found: Campaign) -> str:
    """What came of a reader's trials, in one line."""
    reached, lines = found.lines
    share = f"; {reached} of {lines} lines reached ({reached / lines:.0%})" if lines else ""
    most = f"{found.longest:.1f} s and {found.most_memory >> 20} MB"
    return (
        f"{found.reader}: {found.executions:,} inputs in {found.seconds:.0f} s, {found.accepted:,} of them read as "
        f"whole; an input takes {most} at most; {len(found.failures)} kinds of failures in "
        f"{sum(found.failed.values()):,} inputs{share}"
    )


if __name__ == "__main__":
    sys.exit(main())
