"""The benchmarks that two cores do in some minutes, in one run: `make bench`.

    OMP_NUM_THREADS=1 python benchmarks/bench.py  # all parts
    python benchmarks/bench.py --parts fit size   # some
    python benchmarks/bench.py --quick --out DIR  # tiny sizes: whether it still runs

Parts: ``peer`` whole networks against WeightWatcher, installed into benchmarks/.venv-weightwatcher on first use;
``fit`` and ``notebook`` the published notebook's formulas, by quadrature (our own writing of its slow route);
``svd`` cuts against full SVDs; ``budget`` the published ways to cut to a size, on one network, where Fashion-MNIST
is at hand; ``size``, ``layers``, ``bytes``, ``workers`` growth. Each is a part of a script that does more:
analyze.py, prune.py, budget.py, cluster.py.

`make bench` gives linear algebra one thread, the peers' too, and ratios are of processor time where nothing else is
said: other programs disturb them less. A run of all parts writes bench.json and bench.md to benchmarks/results and
adds a line to history.jsonl there, which `python docs/generate.py` shows.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import networks
from analyze import part_fit, part_notebook
from growth import part_bytes, part_layers, part_size, part_workers
from measuring import QUICK, Report, Scale, machine
from prune import time_of_factorization
from whole_networks import part_peer

import rmt_compress

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
SHORT = replace(Scale(), sizes=(500, 1000), runs=3, peer_runs=1)


def part_svd(report: Report, scale: Scale) -> None:
    """Cuts against full SVDs."""
    time_of_factorization(report, scale.names[0], 1)


def part_budget(report: Report, scale: Scale) -> None:
    """The published ways to cut, in short: one network and one seed of `budget.py`."""
    with tempfile.TemporaryDirectory() as folder:
        which = ["--quick"] if scale is QUICK else ["fashion_mlp", "--seeds", "0"]
        command = [sys.executable, str(HERE / "budget.py"), *which, "--out", folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            why = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "it ended"
            report.say("## Cuts to a size", f"Left out: {why}")
            return
        rows = json.loads((Path(folder) / "budget.json").read_text(encoding="utf-8"))["rows"]
    cut: dict[float, dict[str, float]] = {}
    for row in rows:
        if row["method"] != "uncut":
            cut.setdefault(row["keep"], {})[row["method"]] = row["score"]
    uncut = next(row["score"] for row in rows if row["method"] == "uncut")
    report.say(
        "## Cuts to a size",
        f"{'Noise' if scale is QUICK else 'Fashion-MNIST, an MLP'}, one seed, uncut {uncut:.3f}: scores at shares "
        "of the weights that are kept, ours and peers written anew from their papers (`budget.py`).",
    )
    keeps = sorted(cut, reverse=True)
    methods = list(cut[keeps[0]])
    scores = [[method, *(f"{cut[keep].get(method, float('nan')):.3f}" for keep in keeps)] for method in methods]
    report.table(["", *(f"keep {keep:g}" for keep in keeps)], scores)
    for keep in keeps:
        best = max(score for method, score in cut[keep].items() if not method.startswith("rmt-compress"))
        ours = max(score for method, score in cut[keep].items() if method.startswith("rmt-compress"))
        report.number(f"score beside the best peer's, keep {keep:g}", ours / best)


PARTS: dict[str, Callable[[Report, Scale], None]] = {
    "peer": part_peer,
    "fit": part_fit,
    "notebook": part_notebook,
    "svd": part_svd,
    "budget": part_budget,
    "size": part_size,
    "layers": part_layers,
    "bytes": part_bytes,
    "workers": part_workers,
}


def commit() -> str:
    """The commit that lies here, and whether it was changed since."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(HERE), *words], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("+" if git("status", "--porcelain") else "")


def main() -> None:
    """Read the command line, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="by default all; with --quick all but peer")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--out", type=Path, help=f"by default {RESULTS} after a run of all parts, else none")
    asked = parser.parse_args()
    parts = asked.parts or [name for name in PARTS if not (asked.quick and name == "peer")]
    scale = QUICK if asked.quick else SHORT
    report = Report()
    about = machine()
    report.say("# All benchmarks in short", "Written by `make bench`.")
    report.say("\n".join(f"- {item}" for item in about))
    rmt_compress.analyze(networks.build("tiny"))  # imports what it imports on first use
    for name in parts:
        PARTS[name](report, scale)
    report.say("## Ratios")
    report.table(["", "ratio"], [[name, f"{value:g}"] for name, value in report.numbers.items()])
    out = asked.out or (RESULTS if not asked.quick and set(parts) == set(PARTS) else None)
    if out is None:
        return
    record: dict[str, Any] = {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
        "commit": commit(),
        "machine": about[1].partition(": ")[2],
        "load": float(f"{os.getloadavg()[0]:.1f}"),
        "numbers": report.numbers,
    }
    (out / "bench.md").write_text(report.text, encoding="utf-8")
    (out / "bench.json").write_text(json.dumps({**record, "about": about}, indent=1) + "\n", encoding="utf-8")
    with (out / "history.jsonl").open("a", encoding="utf-8") as history:
        history.write(json.dumps(record) + "\n")
    print(f"written to {out}", file=sys.stderr)


if __name__ == "__main__":
    main()
