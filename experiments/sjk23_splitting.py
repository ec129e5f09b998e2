"""SJK23 4.3: 784,3000,3000,500,10 on MNIST, cut every 3 epochs to the spikes and 45 % of the bulk where it fits.

Fit errors up to 0.15 are cut, weights and biases begin as U(−1/√n, 1/√n). The published runs split the factors
again as layers of their own (`recursive`); `recombine` looks at their product instead. At our scale the hidden
layers are 1000 wide, 20,000 images are seen 12 times (the paper: 90 epochs), and no ReLU follows the last layer;
the paper says neither that nor its learning rate, which here is 0.02 × 0.96 every 4 epochs.
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
    in_sight,
    measuring,
    percent,
    sizes,
)

from rmt_compress.analysis import AnalysisSettings
from rmt_compress.training import CycleSettings, TrainingSettings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SMALL = Recipe(
    arch="mlp:784,1000,1000,500,10",
    data="mnist",
    training=TrainingSettings(epochs=12, schedule="step:0.96,4"),
    cycle=CycleSettings(every=3, mode="recursive", keep_bulk="0.45", analysis=AnalysisSettings(gof=0.15)),
    seeds=(0, 1),
    samples=20_000,
)
RECIPES = {
    "small": SMALL,
    "full": replace(SMALL.trained(epochs=90), arch="mlp:784,3000,3000,500,10", samples=None),
    "quick": SMALL.on_digits("mlp:64,128,128,10", seeds=(0,), epochs=7),
}


def works(scale: Scale) -> dict[str, Work]:
    """Both modes, and training without cuts."""
    recipe = RECIPES[scale]
    assert recipe.cycle is not None
    other = replace(recipe, cycle=replace(recipe.cycle, mode="recombine"))
    return {"recursive": recipe, "recombine": other, "normal": recipe.plain()}


def table(arms: Arms) -> Table:
    """Accuracy and size."""
    rows = [["", "accuracy", "parameters"]]
    rows.append(["SJK23 4.3, normal", "86 %", "12,863,510"])
    rows.append(["SJK23 4.3, pruned", "97.5 %", "12,863,510 → 3,881,124 (30.2%)"])
    rows += [[f"ours, {name}", percent(ends(arm, "test_accuracy")), sizes(arm)] for name, arm in arms.items()]
    return rows


def draw(arms: Arms) -> Figure:
    """Accuracy and parameters over the epochs."""
    result, (accuracy, size) = figure(2)
    colors = {"normal": GREY, "recursive": COLORS[0], "recombine": COLORS[1]}
    for name, arm in sorted(arms.items(), key=lambda each: list(colors).index(each[0])):
        # Where the modes give one network the line of the other shows between the dashes.
        color, dashed = colors[name], name == "recombine"
        draw_runs(accuracy, arm, "test_accuracy", color=color, label=name, factor=100, dashed=dashed)
        draw_runs(size, arm, "parameters", color=color, label=name, factor=1e-6, dashed=dashed)
    accuracy.set(
        title="Accuracy, one line a seed", ylabel="test accuracy, %", ylim=in_sight(arms.values(), "test_accuracy")
    )
    size.set(title="Size", ylabel="million parameters", ylim=(0, None))
    accuracy.legend(frameon=False, loc="lower right")
    return result


EXAMPLE = Example("sjk23_splitting", __doc__ or "", measuring(works), table, draw, works)

if __name__ == "__main__":
    EXAMPLE.main()
