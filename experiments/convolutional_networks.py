"""BSSZ24 4.5 and 4.6: convolutional networks on MNIST and Fashion-MNIST, each beside the same training uncut.

A small network of the family from scratch (3×3 convolutions 16,p,48,64,p, then 256,128,10), 5,000 images, 8
epochs of SGD at 0.02 falling as half a cosine, cut every 2 (f = 0.5, 0.3, 0.2; fit errors up to 0.2). All layers
but the first convolution and the last layer are cut. The paper trains 30 and 70 epochs and cuts every 13 and 17;
the network of `--scale full` has its convolutions, and six fully connected layers whose sizes are our guess.
"""

from __future__ import annotations

from dataclasses import replace
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
    overhead,
    percent,
    sizes,
)

from rmt_compress.analysis import AnalysisSettings
from rmt_compress.training import CycleSettings, TrainingSettings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MNIST = Recipe(
    arch="cnn:1x28x28/16,p,48,64,p/256,128,10/dropout=0.35",
    data="mnist",
    training=TrainingSettings(epochs=8, learning_rate=0.02, schedule="cosine"),
    cycle=CycleSettings(
        every=2, keep_bulk="0.5,0.3,0.2", analysis=AnalysisSettings(gof=0.2, exclude=("conv1", "fc3"))
    ),
    samples=5_000,
)
SMALL = {"MNIST": MNIST, "Fashion-MNIST": replace(MNIST, data="fashion-mnist")}
_FULL = replace(MNIST, arch="cnn:1x28x28/64,128,p,256,512,p/1024,1024,512,512,256,10/dropout=0.35", samples=None)
_DIGITS = replace(
    MNIST.on_digits("cnn:1x8x8/32,p,48/64,10/dropout=0.35", epochs=3, batch_size=None),
    cycle=CycleSettings(every=2, keep_bulk="0.2", analysis=AnalysisSettings(gof=0.2, exclude=("conv1", "fc2"))),
    samples=600,
)
RECIPES = {
    "small": SMALL,
    "full": {
        "MNIST": replace(
            _FULL.trained(epochs=30),
            cycle=CycleSettings(every=13, analysis=AnalysisSettings(gof=0.2, exclude=("conv1", "fc6"))),
        ),
        "Fashion-MNIST": replace(
            _FULL.trained(epochs=70),
            data="fashion-mnist",
            cycle=CycleSettings(every=17, analysis=AnalysisSettings(gof=0.2, exclude=("conv1", "fc6"))),
        ),
    },
    "quick": {"digits": _DIGITS},
}
PUBLISHED = {"MNIST": "4.5", "Fashion-MNIST": "4.6"}


def works(scale: Scale) -> dict[str, Work]:
    """Every data set with cuts and without."""
    arms: dict[str, Work] = {}
    for name, recipe in RECIPES[scale].items():
        arms |= {f"{name}, pruned": recipe, f"{name}, normal": recipe.plain()}
    return arms


def table(arms: Arms) -> Table:
    """Accuracy against the baseline and parameters, for every data set."""
    rows = [["", "normal", "pruned", "difference, points", "parameters", "analysis / training"]]
    for name in _sets(arms):
        if name in PUBLISHED:
            rows.append([f"BSSZ24 {PUBLISHED[name]}, {name}", "", "slightly below normal", "", "about half", ""])
        pruned, normal = arms[f"{name}, pruned"], arms[f"{name}, normal"]
        before, after = ends(normal, "test_accuracy"), ends(pruned, "test_accuracy")
        difference = f"{100 * (sum(after) / len(after) - sum(before) / len(before)):+.2f}"
        rows.append(
            [f"ours, {name}", percent(before), percent(after), difference, sizes(pruned), f"{overhead(pruned):.1%}"]
        )
    return rows


def draw(arms: Arms) -> Figure:
    """Accuracy over the epochs, a panel a data set; cuts are steps at their epoch."""
    names = _sets(arms)
    result, panels = figure(len(names), width=4.6)
    for axes, name in zip(panels, names, strict=True):
        normal, pruned = arms[f"{name}, normal"], arms[f"{name}, pruned"]
        first, last = (pruned["runs"][0]["events"][place]["parameters"] for place in (0, -1))
        draw_runs(axes, normal, "test_accuracy", color=GREY, label="normal", factor=100)
        label = f"pruned: {last / first:.0%} of the weights left"
        draw_runs(axes, pruned, "test_accuracy", color=COLORS[0], label=label, factor=100)
        values = [100 * event["test_accuracy"] for arm in (normal, pruned) for event in arm["runs"][0]["events"]]
        values = sorted(values)[2:]  # the two networks before training
        axes.set(title=name, ylabel="test accuracy, %", ylim=(values[0] - 6, values[-1] + 1))
        axes.legend(frameon=False, loc="lower right", fontsize=9)
    return result


def _sets(arms: Arms) -> list[str]:
    """The data sets both of whose arms are there."""
    names = [name.removesuffix(", normal") for name in arms if name.endswith(", normal")]
    return [name for name in names if f"{name}, pruned" in arms]


EXAMPLE = Example("convolutional_networks", __doc__ or "", measuring(works), table, draw, works)

if __name__ == "__main__":
    EXAMPLE.main()
