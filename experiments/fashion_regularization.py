"""Pruning and L1+L2 on Fashion-MNIST: no help, either, both (later work of the authors of BSSZ24).

Published: 784,3000,3000,3000,3000,500,10, 100 epochs, cut every 4, f = 1 − epoch/200; 5e-6 Σ|w| + 5e-6 Σw². Here
the hidden layers are 500 wide, 10,000 images are seen 8 times and cut every 2, the share f falling as fast in
all. L2 alone stands beside L1+L2. Everything is run with a ReLU after the last layer, as theirs, and without it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from published import (
    COLORS,
    GREY,
    INK,
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

from rmt_compress.planning.settings import PlanSettings
from rmt_compress.training import CycleSettings, TrainingSettings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SMALL = Recipe(
    arch="mlp:784,500,500,500,500,500,10/init=normal,final=relu",
    data="fashion-mnist",
    training=TrainingSettings(epochs=8, schedule="step:0.96,1"),
    cycle=CycleSettings(every=2, keep_bulk="slope:0.1"),
    seeds=(0, 1),
    samples=10_000,
)
RECIPES = {
    "small": SMALL,
    "full": replace(
        SMALL.trained(epochs=100, schedule="step:0.96,4"),
        arch="mlp:784,3000,3000,3000,3000,500,10/init=normal,final=relu",
        cycle=CycleSettings(every=4, keep_bulk="slope:0.005", plan=PlanSettings(when_not_smaller="truncate")),
        seeds=(0, 1, 2),
        samples=None,
    ),
    "quick": SMALL.on_digits("mlp:64,96,96,10/init=normal,final=relu", seeds=(0,), epochs=3),
}
MU = 5e-6
TERMS = {"nothing": (0.0, 0.0), "L2": (0.0, MU), "L1+L2": (MU, MU)}
PUBLISHED = {
    "nothing": "71.6 %",
    "L2": "",
    "L1+L2": "81.7 %",
    "pruning": "81.2 %",
    "pruning, L2": "",
    "pruning, L1+L2": "90.5 %",
}


def works(scale: Scale) -> dict[str, Work]:
    """Three terms, with and without cuts, with and without the last ReLU."""
    arms: dict[str, Work] = {}
    for final in (",final=relu", ""):
        for terms, (l1, l2) in TERMS.items():
            recipe = RECIPES[scale]
            training = replace(recipe.training, l1=l1, l2=l2)
            recipe = replace(recipe, arch=recipe.arch.replace(",final=relu", final), training=training)
            last = "final ReLU" if final else "no final ReLU"
            arms[f"{terms} | {last}"] = recipe.plain()
            pruned = "pruning" if terms == "nothing" else f"pruning, {terms}"
            arms[f"{pruned} | {last}"] = recipe
    return arms


def table(arms: Arms) -> Table:
    """Accuracy of every combination, lost classes beside it."""
    rows = [
        ["", "published", "ours, final ReLU", "classes lost, by seed", "ours, no final ReLU", "parameters there"]
    ]
    for name, published in PUBLISHED.items():
        relu, free = arms.get(f"{name} | final ReLU"), arms.get(f"{name} | no final ReLU")
        if relu is None and free is None:
            continue
        lost = "" if relu is None else ", ".join(f"{value:.0f}" for value in ends(relu, "never_predicted"))
        accuracy = ["" if arm is None else percent(ends(arm, "test_accuracy")) for arm in (relu, free)]
        rows.append([name, published, accuracy[0], lost, accuracy[1], "" if free is None else sizes(free)])
    return rows


def draw(arms: Arms) -> Figure:
    """A dot a seed: accuracy of every combination."""
    shown = [last for last in ("final ReLU", "no final ReLU") if any(name.endswith(f"| {last}") for name in arms)]
    result, panels = figure(len(shown), width=6)
    for axes, last in zip(panels, shown, strict=True):
        for place, (name, published) in enumerate(PUBLISHED.items()):
            if published and last == "final ReLU":
                axes.plot(place, float(published.split()[0]), "D", color=INK, mfc="none", ms=7)
            arm = arms.get(f"{name} | {last}")
            if arm is not None:
                values = [100 * value for value in ends(arm, "test_accuracy")]
                color = COLORS[0] if "pruning" in name else GREY
                axes.plot(
                    [place - 0.12, place, place + 0.12][: len(values)], values, "o", color=color, ms=6, alpha=0.8
                )
                axes.plot([place - 0.28, place + 0.28], [sum(values) / len(values)] * 2, color=color, lw=2)
        axes.set_xticks(range(len(PUBLISHED)), [name.replace(", ", ",\n") for name in PUBLISHED])
        published = ", diamonds as published" if last == "final ReLU" else ""
        axes.set(title=f"{last}: a dot a seed, a bar the mean{published}", ylabel="test accuracy, %")
    return result


EXAMPLE = Example("fashion_regularization", __doc__ or "", measuring(works), table, draw, works)

if __name__ == "__main__":
    EXAMPLE.main()
