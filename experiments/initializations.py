"""Does what the weights begin as decide whether cutting helps (BSSZ24 §10.2)? Normal, He, Xavier and sparse.

784,1000,1000,1000,500,10 on MNIST as in bssz24_mnist.py, without a ReLU after the last layer, for 20 epochs, cut
every 4; scaled down a network a third as large, 10,000 images and 6 epochs, cut every 2. Sparse: nine of ten
weights begin at 0, and every tenth has ten times the variance of normal ones. The paper finds that sparse networks
do not profit from cuts; its sizes and its share of zeros are not known to us.
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
    ends,
    figure,
    measuring,
    percent,
    sizes,
)

from rmt_compress.training import CycleSettings, TrainingSettings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SMALL = Recipe(
    arch="mlp:784,500,500,500,250,10",
    data="mnist",
    training=TrainingSettings(epochs=6, schedule="step:0.96,1", l1=5e-6, l2=5e-6),
    cycle=CycleSettings(every=2, keep_bulk="0.5,0.27"),
    seeds=(0, 1),
    samples=10_000,
)
RECIPES = {
    "small": SMALL,
    "full": replace(
        SMALL.trained(epochs=20),
        arch="mlp:784,1000,1000,1000,500,10",
        cycle=CycleSettings(every=4, keep_bulk="0.7,0.5,0.35,0.27"),
        seeds=(0, 1, 2),
        samples=None,
    ),
    "quick": SMALL.on_digits("mlp:64,96,96,10", seeds=(0,), epochs=3),
}
INITS = ("normal", "he", "xavier", "sparse")


def works(scale: Scale) -> dict[str, Work]:
    """Every beginning with cuts and without."""
    arms: dict[str, Work] = {}
    for init in INITS:
        recipe = replace(RECIPES[scale], arch=f"{RECIPES[scale].arch}/init={init}")
        arms |= {f"{init}, pruned": recipe, f"{init}, normal": recipe.plain()}
    return arms


def table(arms: Arms) -> Table:
    """Accuracy with cuts and without, and what is left."""
    rows = [["begins", "not cut", "cut", "difference, points", "parameters", "fit errors at the first cut"]]
    for init in INITS:
        normal, pruned = (arms.get(f"{init}, {side}") for side in ("normal", "pruned"))
        if normal is None or pruned is None:
            continue
        before, after = ends(normal, "test_accuracy"), ends(pruned, "test_accuracy")
        difference = 100 * (sum(after) / len(after) - sum(before) / len(before))
        cuts = [event for run in pruned["runs"] for event in run["events"] if event["event"] == "cycle"]
        errors = [layer["gof"] for layer in cuts[0]["layers"] if layer.get("gof") is not None] if cuts else []
        fits = ", ".join(f"{error:.3f}" for error in errors)
        rows.append([init, percent(before), percent(after), f"{difference:+.2f}", sizes(pruned), fits])
    return rows


def draw(arms: Arms) -> Figure:
    """A dot a seed, with cuts and without."""
    result, (axes,) = figure(1, width=6.4)
    for place, init in enumerate(INITS):
        for shift, side, color in ((-0.15, "normal", GREY), (0.15, "pruned", COLORS[0])):
            if (arm := arms.get(f"{init}, {side}")) is None:
                continue
            values = [100 * value for value in ends(arm, "test_accuracy")]
            label = {"normal": "not cut", "pruned": "cut"}[side] if place == 0 else None
            axes.plot([place + shift] * len(values), values, "o", color=color, ms=6, alpha=0.8, label=label)
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, high - 1), high + 0.05)
    axes.set_xticks(range(len(INITS)), ["normal", "He", "Xavier", "sparse"])
    axes.set(title="MNIST: a dot a seed", ylabel="test accuracy, %", xlabel="weights begin")
    axes.legend(frameon=False, loc="lower left")
    return result


EXAMPLE = Example("initializations", __doc__ or "", measuring(works), table, draw, works)

if __name__ == "__main__":
    EXAMPLE.main()
