"""BSSZ24 T1–T3: 784,1000,1000,1000,500,10 on MNIST, with and without a ReLU after the last layer.

Normal initialisation, SGD of momentum 0.9, batches of 128, learning rate 0.02 × 0.96 an epoch, 5e-6 Σ|w| + 5e-6
Σw²; factors are recombined. The published runs of 40 epochs were cut every 7; here 8 epochs are cut every 2, and
the share of the bulk that is kept falls so that about as many parameters are left as in the paper. The published
networks have a ReLU after the last layer, under which an output can die and take its class with it: 10 points
each.
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
    overhead,
    percent,
    sizes,
)

from rmt_compress.training import CycleSettings, TrainingSettings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SMALL = Recipe(
    arch="mlp:784,1000,1000,1000,500,10/init=normal,final=relu",
    data="mnist",
    training=TrainingSettings(epochs=8, learning_rate=0.02, schedule="step:0.96,1", l1=5e-6, l2=5e-6),
    cycle=CycleSettings(every=2, keep_bulk="0.5,0.35,0.22"),
    seeds=(0, 1, 2),
)
RECIPES = {
    "small": SMALL,
    "full": replace(
        SMALL.trained(epochs=40),
        cycle=CycleSettings(every=7, keep_bulk="0.7,0.55,0.42,0.33,0.27"),
        seeds=tuple(range(10)),
    ),
    "quick": SMALL.on_digits("mlp:64,96,96,10/init=normal,final=relu", epochs=4, seeds=(0, 1)),
}
COLOR = {"normal": GREY, "pruned": COLORS[0]}
FINALS = {"final ReLU": ",final=relu", "no final ReLU": ""}


def works(scale: Scale) -> dict[str, Work]:
    """Normal and pruned training, first with the ReLU after the last layer."""
    arms: dict[str, Work] = {}
    for name, final in FINALS.items():
        recipe = RECIPES[scale]
        recipe = replace(recipe, arch=recipe.arch.replace(",final=relu", final))
        arms |= {f"{name}, pruned": recipe, f"{name}, normal": recipe.plain()}
    return arms


def table(arms: Arms) -> Table:
    """Accuracy with the lost classes beside it.

    An output may be a little above 0 for a few images and never the largest: its class is lost as well.
    """
    rows = [
        [
            "",
            "accuracy",
            "by seed",
            "classes never predicted, by seed",
            "outputs dead, by seed",
            "parameters",
            "analysis / training",
        ],
        ["BSSZ24, normal", "70 %", "", "not reported", "not reported", "3,292,510", ""],
        ["BSSZ24, pruned", "98.5 %", "", "not reported", "not reported", "3,292,510 → 1,678,234 (51.0%)", ""],
    ]
    for name, arm in arms.items():
        each = ", ".join(f"{100 * value:.2f}" for value in ends(arm, "test_accuracy"))
        dead = ", ".join(f"{value:.0f}" for value in ends(arm, "dead_outputs"))
        lost = ", ".join(f"{value:.0f}" for value in ends(arm, "never_predicted"))
        share = f"{overhead(arm):.1%}" if "pruned" in name else ""
        rows.append([f"ours, {name}", percent(ends(arm, "test_accuracy")), each, lost, dead, sizes(arm), share])
    return rows


def draw(arms: Arms) -> Figure:
    """Accuracy and lost classes over the epochs, with the ReLU above and without it below."""
    result, panels = figure(3, rows=2, height=3.7)
    for row, final in enumerate(FINALS):
        accuracy, lost, size = panels[3 * row : 3 * row + 3]
        shown = {side: arms[f"{final}, {side}"] for side in COLOR if f"{final}, {side}" in arms}
        for side, arm in shown.items():
            color = COLOR[side]
            draw_runs(accuracy, arm, "test_accuracy", color=color, label=side, factor=100)
            draw_runs(lost, arm, "never_predicted", color=color, label=side)
            draw_runs(size, arm, "parameters", color=color, label=side, factor=1e-6)
        accuracy.set(title=f"{final}: accuracy, one line a seed", ylabel="test accuracy, %")
        if shown:
            accuracy.set_ylim(in_sight(shown.values(), "test_accuracy"))
        lost.set(title=f"{final}: classes lost", ylabel="classes that are never predicted", ylim=(-0.1, 4.1))
        lost.locator_params(axis="y", integer=True)
        size.set(title=f"{final}: size", ylabel="million parameters", ylim=(0, None))
        size.legend(frameon=False, loc="lower left")
    return result


EXAMPLE = Example("bssz24_mnist", __doc__ or "", measuring(works), table, draw, works)

if __name__ == "__main__":
    EXAMPLE.main()
