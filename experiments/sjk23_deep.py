"""SJK23 4.6: a deep network (784,2500×4,500,10) on MNIST, cut every 3 epochs where the bulk fits to 0.05.

The spikes and 45 % of the bulk are kept, factors are split again as layers of their own, weights and biases begin
as U(−1/√n, 1/√n). At our scale the hidden layers are 700 wide and 20,000 images are seen 12 times (the paper: 30
epochs), at 0.02 × 0.96 every 4 epochs. Such a deep network starts slowly under that initialisation: that is the
place where the paper saw 86.4 % without cuts.
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
    arch="mlp:784,700,700,700,700,500,10",
    data="mnist",
    training=TrainingSettings(epochs=12, schedule="step:0.96,4"),
    cycle=CycleSettings(every=3, mode="recursive", keep_bulk="0.45", analysis=AnalysisSettings(gof=0.05)),
    samples=20_000,
)
RECIPES = {
    "small": SMALL,
    "full": replace(SMALL.trained(epochs=30), arch="mlp:784,2500,2500,2500,2500,500,10", samples=None),
    "quick": SMALL.on_digits("mlp:64,96,96,10", epochs=4),
}


def works(scale: Scale) -> dict[str, Work]:
    """With cuts and without."""
    return {"pruned": RECIPES[scale], "normal": RECIPES[scale].plain()}


def table(arms: Arms) -> Table:
    """Accuracy and size."""
    rows = [["", "accuracy", "parameters"]]
    rows.append(["SJK23 4.6, normal", "86.4 %", "21,975,510"])
    rows.append(["SJK23 4.6, pruned", "98.6 %", "21,975,510 → 13,207,896 (60.1%)"])
    rows += [[f"ours, {name}", percent(ends(arm, "test_accuracy")), sizes(arm)] for name, arm in arms.items()]
    return rows


def draw(arms: Arms) -> Figure:
    """Accuracy, loss and parameters over the epochs."""
    result, (accuracy, loss, size) = figure(3)
    for name, color in (("normal", GREY), ("pruned", COLORS[0])):
        if name in arms:
            draw_runs(accuracy, arms[name], "test_accuracy", color=color, label=name, factor=100)
            draw_runs(loss, arms[name], "test_loss", color=color, label=name)
            draw_runs(size, arms[name], "parameters", color=color, label=name, factor=1e-6)
    accuracy.set(
        title="Accuracy, one line a seed", ylabel="test accuracy, %", ylim=in_sight(arms.values(), "test_accuracy")
    )
    loss.set(title="Loss", ylabel="test loss", yscale="log")
    size.set(title="Size", ylabel="million parameters", ylim=(0, None))
    accuracy.legend(frameon=False, loc="lower right")
    return result


EXAMPLE = Example("sjk23_deep", __doc__ or "", measuring(works), table, draw, works)

if __name__ == "__main__":
    EXAMPLE.main()
