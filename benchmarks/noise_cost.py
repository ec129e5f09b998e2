"""What `analyze --noise all` costs beside `analyze`, and each noise model by itself.

    python benchmarks/noise_cost.py            # some minutes
    python benchmarks/noise_cost.py --quick    # a tiny network: whether the script still runs

Processor time of all threads, which other programs disturb least; the plain analysis three times, the others once.
A complete run replaces benchmarks/results/noise_cost.md.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import get_args

import networks
from measuring import Report, machine

import rmt_compress
from rmt_compress.analysis.settings import Noise

RESULTS = Path(__file__).resolve().parent / "results" / "noise_cost.md"
LIMIT = 4


def main() -> None:
    """Read the command line, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tiny network, nothing written")
    quick = parser.parse_args().quick
    name = "tiny" if quick else "large-mlp"
    model = networks.build(name)
    report = Report()
    report.say("# Cost of the noise models", "\n".join(f"- {line}" for line in machine()))

    def seconds(noise: Noise) -> float:
        before = time.process_time()
        rmt_compress.analyze(model, noise=noise)
        return time.process_time() - before

    rmt_compress.analyze(networks.build("tiny"), noise="all")  # imports
    plain = statistics.median(seconds("mp") for _ in range(3))
    costs = {noise: plain if noise == "mp" else seconds(noise) for noise in get_args(Noise)}
    report.say(f"`rmt_compress.analyze(model, noise=…)` of {networks.describe(name)}:")
    report.table(
        ["noise", "processor time", "times mp"],
        [[noise, f"{cost:.2f} s", f"{cost / plain:.1f}"] for noise, cost in costs.items()],
    )
    ratio = costs["all"] / plain
    report.target(f"all at most {LIMIT} times mp: {ratio:.1f}", ratio <= LIMIT)
    if not quick:
        RESULTS.write_text(report.text, encoding="utf-8")


if __name__ == "__main__":
    main()
