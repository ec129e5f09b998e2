"""What `analyze --noise all` costs beside `analyze`, and each noise model by itself.

    python benchmarks/noise_cost.py            # some minutes
    python benchmarks/noise_cost.py --quick    # a tiny network: whether the script still runs

Processor time of all threads, which other programs disturb least; the plain analysis as it comes (with large
spectra approximated, which is for `mp` alone) and with exact spectra, as the others have them. In turn, three times
round, each in a process of its own that knows no quantiles yet; medians.
A complete run replaces benchmarks/results/noise_cost.md.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import get_args

import networks
from measuring import Report, machine

import rmt_compress
from rmt_compress.analysis.settings import Noise

RESULTS = Path(__file__).resolve().parent / "results" / "noise_cost.md"
LIMIT = 4
ROUNDS = 3


def seconds(name: str, noise: Noise, *, exact: bool) -> float:
    """Processor time of one analysis of a network, imports apart."""
    model = networks.build(name)
    rmt_compress.analyze(networks.build("tiny"), noise="all")  # imports
    before = time.process_time()
    rmt_compress.analyze(model, noise=noise, exact=exact)
    return time.process_time() - before


def in_new_process(name: str, noise: Noise, exact: bool) -> float:
    """The same where nothing has been computed before."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(seconds, name, noise, exact=exact).result()


def main() -> None:
    """Read the command line, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tiny network, nothing written")
    quick = parser.parse_args().quick
    name = "tiny" if quick else "large-mlp"
    report = Report()
    report.say("# Cost of the noise models", "\n".join(f"- {line}" for line in machine()))
    asked: dict[str, tuple[Noise, bool]] = {"mp": ("mp", False), "mp, exact": ("mp", True)}
    asked |= {noise: (noise, False) for noise in get_args(Noise) if noise != "mp"}
    rounds = range(1 if quick else ROUNDS)
    turns = [{each: in_new_process(name, *model) for each, model in asked.items()} for _ in rounds]
    costs = {each: statistics.median(turn[each] for turn in turns) for each in asked}
    plain, exactly = costs["mp"], costs["mp, exact"]
    report.say(f"`rmt_compress.analyze(model, noise=…)` of {networks.describe(name)}:")
    report.table(
        ["noise", "processor time", "times mp", "times mp, exact"],
        [[noise, f"{cost:.2f} s", f"{cost / plain:.1f}", f"{cost / exactly:.1f}"] for noise, cost in costs.items()],
    )
    for beside, cost in (("mp as it comes", plain), ("mp with exact spectra", exactly)):
        ratio = costs["all"] / cost
        report.target(f"all at most {LIMIT} times {beside}: {ratio:.1f}", ratio <= LIMIT)
    if not quick:
        RESULTS.write_text(report.text, encoding="utf-8")


if __name__ == "__main__":
    main()
