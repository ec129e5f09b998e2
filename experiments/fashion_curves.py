"""Accuracy of the sample models against what is kept of them, without retraining: the pictures of the README.

    python experiments/fashion_curves.py          # measure and draw: about five minutes on two idle cores
    python experiments/fashion_curves.py --draw   # draw from the numbers in experiments/data

Writes experiments/data/NAME.json and .csv and docs/images/NAME.png:

- fashion_rules: every rank rule over the weights it leaves; BEMA's edge needs no number to be chosen;
- fashion_sparsity: magnitude pruning alone, and after BEMA has cut the network to its spikes (BSSZ24 figure 6);
- mnist_fc1: the singular values of the first layer, SJK23's figure 5.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import rmt_compress as rmt
from rmt_compress.data import load_data
from rmt_compress.networks.loading import load_model
from rmt_compress.outputs import replacing
from rmt_compress.reporting.sweep_files import write_sweep_csv
from rmt_compress.reporting.sweep_plots import sweep_figure
from rmt_compress.sweep import Sweep, SweepTarget, sweep_rank, sweep_share, sweep_sparsity

HERE = Path(__file__).parent
MODELS, DATA, IMAGES = HERE.parent / "sample_models", HERE / "data", HERE.parent / "docs" / "images"

AMOUNTS = {
    "bema": (0.0, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4),
    "energy": (0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85),
    "ratio": (0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.4),
}
SHARES = (0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.12, 0.1, 0.08, 0.07, 0.06, 0.05, 0.04, 0.03, 0.02, 0.015, 0.01)
RANKS = (1, 2, 3, 4, 5, 7, 10, 13, 16, 20, 30, 50, 70, 100, 150, 200, 300, 500, 784)


def target(model: str, data: str) -> SweepTarget:
    """A sample model with its test set."""
    network = load_model(MODELS / f"{model}.safetensors")
    path = f"sample_models/{model}.safetensors"
    return SweepTarget(network, rmt.analyze(network), load_data(data, split="test"), path=path)


def progress(done: int, total: int, name: str) -> None:
    """One line on stderr, written over and over."""
    print(f"\r{done}/{total} {name:30}", end="" if done < total else "\n", file=sys.stderr, flush=True)


def measure() -> None:
    """Run the sweeps and write their numbers."""
    fashion = target("fashion_mlp", "fashion-mnist")
    sweeps = {
        "mnist_fc1": sweep_rank(target("mnist_mlp", "mnist"), layers=["fc1"], ranks=RANKS, progress=progress),
        "fashion_rules": sweep_share(fashion, amounts=AMOUNTS, progress=progress),
        "fashion_sparsity": sweep_sparsity(fashion, shares=SHARES, progress=progress),
    }
    for name, sweep in sweeps.items():
        write_sweep_csv(sweep, DATA / f"{name}.csv")
        with replacing(DATA / f"{name}.json") as path:
            path.write_text(json.dumps(sweep.to_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def draw() -> None:
    """Draw the numbers that were measured."""
    IMAGES.mkdir(exist_ok=True)
    for name in ("mnist_fc1", "fashion_rules", "fashion_sparsity"):
        sweep = Sweep.from_json(json.loads((DATA / f"{name}.json").read_text(encoding="utf-8")))
        with replacing(IMAGES / f"{name}.png") as path:
            sweep_figure(sweep).savefig(path, dpi=130)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draw", action="store_true", help="draw only")
    if not parser.parse_args().draw:
        measure()
    draw()
