"""BSSZ24 4.7: a convolutional network on CIFAR-10, cut while it is trained on, beside the same training uncut.

From `sample_models/cifar10_cnn.pt` (3×3 convolutions 32, 64, 128, 128, 256, then 4096 → 192 → 10): 6,000 images,
4 epochs, SGD of momentum 0.9 at 0.01 falling as half a cosine, weight decay 5e-4, images mirrored and shifted.
All layers but the first and the last are cut at once and again after 2 epochs.

This network comes with fit errors of 0.09 to 0.26. A threshold of 0.2 leaves the wide linear layer, with most of
the weights, as it is; 0.3 cuts every layer, and to remove 97 % of the weights 93 % of what that leaves is set to 0,
the share rising evenly over the epochs. The paper trains 350 epochs at 0.001 and cuts every 40; the network
of `--scale full` has its convolutions, and six fully connected layers whose sizes are our guess.
"""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING

from published import (
    COLORS,
    GREY,
    Arms,
    Example,
    Recipe,
    Scale,
    Table,
    Work,
    draw_runs,
    ends,
    figure,
    measuring,
    percent,
    sizes,
)

from rmt_compress.analysis import AnalysisSettings
from rmt_compress.training import CycleSettings, TrainingSettings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SMALL = Recipe(
    arch="",
    data="cifar10",
    source="sample_models/cifar10_cnn.pt",
    training=TrainingSettings(
        epochs=4, learning_rate=0.01, schedule="cosine", weight_decay=5e-4, augment="flip-shift"
    ),
    samples=6_000,
)
RECIPES = {
    "small": SMALL,
    "full": replace(
        SMALL.trained(epochs=350, learning_rate=0.001),
        source=None,
        arch="cnn:3x32x32/64,128,p,256,512,p/1024,1024,512,512,256,10/dropout=0.35",
        samples=None,
    ),
    "quick": SMALL.on_digits("cnn:1x8x8/32,p,48/64,10/dropout=0.2", epochs=3, batch_size=None),
}
CYCLES = {
    "fit errors up to 0.3": CycleSettings(
        every=2, keep_bulk="0.4,0.2", analysis=AnalysisSettings(gof=0.3, exclude=("conv1", "fc2"))
    ),
    "fit errors up to 0.2": CycleSettings(
        every=2, keep_bulk="0.5,0.3", analysis=AnalysisSettings(gof=0.2, exclude=("conv1", "fc2"))
    ),
}
# What is left of the factors, and of the two layers that stay whole, is 3 % of all.
CYCLES["97 % removed"] = replace(CYCLES["fit errors up to 0.3"], sparsity=0.93)


def works(scale: Scale) -> dict[str, Work]:
    """Both thresholds, the larger one with sparsification, and the same training without cuts."""
    arms: dict[str, Work] = {}
    for name, cycle in CYCLES.items():
        other = replace(cycle.analysis, exclude=("conv1", "fc6"))
        how = replace(cycle, every=40, analysis=other) if scale == "full" else cycle
        arms[name] = replace(RECIPES[scale], cycle=how)
    return arms | {"normal": RECIPES[scale]}


def table(arms: Arms) -> Table:
    """Accuracy against the baseline and parameters."""
    rows = [["", "accuracy", "against normal, points", "parameters", "not zero"]]
    rows.append(["BSSZ24 4.7", "slightly below normal", "", "", "> 97 % removed after sparsification"])
    normal = ends(arms["normal"], "test_accuracy")[0] if "normal" in arms else float("nan")
    for name, arm in arms.items():
        accuracy = ends(arm, "test_accuracy")
        whole = arm["runs"][0]["events"][0]["parameters"]
        left = f"{fmean(ends(arm, 'nonzeros')) / whole:.1%}"
        rows.append([f"ours, {name}", percent(accuracy), f"{100 * (accuracy[0] - normal):+.2f}", sizes(arm), left])
    return rows


def draw(arms: Arms) -> Figure:
    """Accuracy and parameters over the epochs; cuts are steps at their epoch."""
    result, (accuracy, size) = figure(2, width=5.6)
    colors = {"normal": GREY, **dict(zip(CYCLES, COLORS, strict=False))}
    for name in ("normal", *CYCLES):
        if name in arms:
            draw_runs(accuracy, arms[name], "test_accuracy", color=colors[name], label=name, factor=100)
            draw_runs(size, arms[name], "parameters", color=colors[name], label=name, factor=1e-6)
    accuracy.set(title="CIFAR-10: accuracy on 5,000 images", ylabel="test accuracy, %")
    size.set(title="Size", ylabel="million parameters", ylim=(0, None))
    accuracy.legend(frameon=False, fontsize=9)
    return result


EXAMPLE = Example("cifar10_network", __doc__ or "", measuring(works), table, draw, works)

if __name__ == "__main__":
    EXAMPLE.main()
