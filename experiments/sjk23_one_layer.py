"""SJK23 4.1: 784,1000,10 on MNIST, then all but 20 singular values of the first layer cut, without retraining.

Ten epochs of SGD at 0.05 without momentum in batches of 64, weights and biases begin as U(−1/√n, 1/√n). One arm
is `sample_models/mnist_mlp.safetensors`, which is exactly this training; the others are trained here. Factors of
rank r hold r·(784 + 1000) weights: 35,680 at rank 20.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from published import COLORS, INK, Arm, Arms, Example, Recipe, Scale, Table, figure, tell_all

import rmt_compress as rmt
from rmt_compress.data import load_data
from rmt_compress.networks.loading import load_model
from rmt_compress.sweep import SweepTarget, sweep_rank
from rmt_compress.training import TrainingSettings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SMALL = Recipe(
    arch="mlp:784,1000,10",
    data="mnist",
    training=TrainingSettings(epochs=10, batch_size=64, learning_rate=0.05, momentum=0.0),
)
RECIPES = {
    "small": SMALL,
    "full": replace(SMALL, seeds=(0, 1, 2, 3, 4)),
    "quick": SMALL.on_digits("mlp:64,96,10"),
}
SAMPLE = Path(__file__).parents[1] / "sample_models" / "mnist_mlp.safetensors"
RANKS = (1, 2, 5, 10, 15, 20, 30, 60, 100, 200, 400, 784)


def measure(scale: Scale) -> Iterator[tuple[str, Arm]]:
    """Accuracy over the singular values kept, of the sample and of networks trained here."""
    recipe = RECIPES[scale]
    if scale != "quick":
        yield "sample model", _sweep(SAMPLE, recipe)
    for seed in recipe.seeds:
        # The sample's order of images is another one: seed 0 is no repetition of it.
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "network.safetensors"
            run = recipe.one(seed, tell_all, keep=file)
            yield f"seed {seed}", {"settings": recipe.settings(), "runs": [run], **_sweep(file, recipe)}


def _sweep(file: Path, recipe: Recipe) -> Arm:
    model = load_model(file)
    target = SweepTarget(model, rmt.analyze(model), load_data(recipe.data, split="test"))
    first = target.analysis.analyzed[0]
    ranks = [rank for rank in RANKS if rank <= first.fit.p]
    (curve,) = sweep_rank(target, layers=[first.layer.name], ranks=ranks).curves
    rows, columns = first.layer.matrix or (0, 0)
    return {
        "accuracy": target.score,
        "spikes": first.fit.spikes,
        "gof": first.fit.gof,
        "shape": [rows, columns],
        "points": [[int(point.amount), point.score] for point in curve.points],
    }


def table(arms: Arms) -> Table:
    """Accuracy at rank 20 and at the rank BEMA finds."""
    rows = [["", "accuracy", "20 kept", "spikes k*", "k* kept", "weights of layer 1", "fit error"]]
    rows.append(["SJK23 4.1", "≈ 98 %", "92 %", "20", "92 %", "784,000 → 35,680", ""])
    for name, arm in arms.items():
        points = dict(arm["points"])
        whole = arm["shape"][0] * arm["shape"][1]
        left = f"{whole:,} → {20 * sum(arm['shape']):,}"
        cells = [arm["accuracy"], points.get(20, float("nan")), points[arm["spikes"]]]
        full, twenty, spikes = (f"{100 * value:.2f} %" for value in cells)
        rows.append([f"ours, {name}", full, twenty, str(arm["spikes"]), spikes, left, f"{arm['gof']:.4f}"])
    return rows


def draw(arms: Arms) -> Figure:
    """Accuracy over the singular values kept."""
    result, (axes,) = figure(1, width=7.2, height=4.4)
    for color, (name, arm) in zip(COLORS, arms.items(), strict=False):
        ranks, accuracy = zip(*arm["points"], strict=True)
        axes.plot(ranks, [100 * value for value in accuracy], "o-", color=color, ms=4, label=name)
        spiked = dict(arm["points"])[arm["spikes"]]
        axes.plot(arm["spikes"], 100 * spiked, "o", ms=12, mfc="none", mec=color, mew=1.6)
    axes.plot(20, 92, "*", color=INK, ms=13, label="SJK23: 92 % with 20 kept")
    axes.set_xscale("log")
    ticks = (1, 2, 5, 10, 20, 50, 100, 200, 500)
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set(xlabel="singular values of layer 1 kept (ringed: those above BEMA's edge)", ylabel="test accuracy, %")
    axes.set_title("784,1000,10 on MNIST: the first layer cut, no retraining")
    axes.legend(frameon=False)
    return result


EXAMPLE = Example("sjk23_one_layer", __doc__ or "", measure, table, draw)

if __name__ == "__main__":
    EXAMPLE.main()
