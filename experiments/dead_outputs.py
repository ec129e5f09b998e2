"""Are BSSZ24's gains of 20 to 30 points dead outputs, and does cutting revive them?

784,500,500,500,250,10 with a ReLU after the last layer, normal initialisation, 10,000 MNIST images, 6 epochs at
0.02 × 0.96, momentum 0.9: a third of the network of bssz24_mnist.py, and many seeds. An output that is 0 for
every image learns nothing any more, and its class is lost: 10 points. Counted are classes that are no test
image's largest output, at the first cut (after 2 epochs) and at the end, in training without cuts, with gentle
cuts (f = 0.5, then 0.3), and with cuts to the bare spikes. Without cuts the table counts at the same epochs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from published import COLORS, GREY, Arm, Arms, Example, Recipe, Scale, Table, Work, ends, figure, measuring, percent

from rmt_compress.training import CycleSettings, TrainingSettings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIRST_CUT = 2
SMALL = Recipe(
    arch="mlp:784,500,500,500,250,10/init=normal,final=relu",
    data="mnist",
    training=TrainingSettings(epochs=6, schedule="step:0.96,1", l1=5e-6, l2=5e-6),
    seeds=tuple(range(8)),
    samples=10_000,
)
RECIPES = {
    "small": SMALL,
    "full": replace(SMALL, arch="mlp:784,1000,1000,1000,500,10/init=normal,final=relu", samples=None),
    "quick": SMALL.on_digits("mlp:64,96,96,10/init=normal,final=relu", seeds=(0,)),
}
CUTS = {"no cuts": None, "f = 0.5, 0.3": "0.5,0.3", "f = 0": "0"}


def works(scale: Scale) -> dict[str, Work]:
    """The same seeds without cuts, with gentle cuts and with hard ones."""
    cycles = {
        name: None if share is None else CycleSettings(every=FIRST_CUT, keep_bulk=share)
        for name, share in CUTS.items()
    }
    return {name: replace(RECIPES[scale], cycle=cycle) for name, cycle in cycles.items()}


def _at_first_cut(arm: Arm) -> list[int]:
    """Classes lost after the epoch of the first cut, before it."""
    return [
        next(event["never_predicted"] for event in run["events"] if event["epoch"] == FIRST_CUT)
        for run in arm["runs"]
    ]


def table(arms: Arms) -> Table:
    """How many seeds lost how many classes, and how many of them came back."""
    rows = [["", "accuracy", "accuracy where no class is lost", "seeds with 0, 1, 2, 3 … classes lost"]]
    rows[0] += ["classes lost in all: epoch 2 → end", "seeds that got one back", "outputs dead at the end"]
    for name, arm in arms.items():
        lost = [int(value) for value in ends(arm, "never_predicted")]
        early, accuracy = _at_first_cut(arm), ends(arm, "test_accuracy")
        healthy = [value for value, count in zip(accuracy, lost, strict=True) if count == 0]
        counts = ", ".join(str(lost.count(count)) for count in range(max(lost) + 1))
        back = sum(now < then for now, then in zip(lost, early, strict=True))
        change = f"{sum(early)} → {sum(lost)}"
        clean = percent(healthy) if healthy else "–"
        dead = f"{sum(ends(arm, 'dead_outputs')):.0f}"
        rows.append([name, percent(accuracy), clean, counts, change, str(back), dead])
    return rows


def draw(arms: Arms) -> Figure:
    """Accuracy at the end over the classes lost, a dot a seed; and the classes lost of every seed."""
    result, (accuracy, classes) = figure(2, width=6)
    for shift, (color, (name, arm)) in enumerate(zip((GREY, *COLORS), arms.items(), strict=False)):
        lost, right = ends(arm, "never_predicted"), [100 * value for value in ends(arm, "test_accuracy")]
        accuracy.plot([count + 0.12 * (shift - 1) for count in lost], right, "o", color=color, ms=5, label=name)
        seeds = [run["seed"] for run in arm["runs"]]
        place = [seed + 0.25 * (shift - 1) for seed in seeds]
        # A seed that lost none is to be seen, one that was not run is not.
        classes.bar(place, [max(each, 0.03) for each in lost], width=0.25, color=color, label=name)
    accuracy.set(title="A dot a seed", xlabel="classes that are never predicted", ylabel="test accuracy, %")
    classes.set(title="The same seeds under every cut", xlabel="seed", ylabel="classes that are never predicted")
    accuracy.set_xticks(range(int(max(max(ends(arm, "never_predicted")) for arm in arms.values())) + 1))
    classes.set_xticks(sorted({run["seed"] for arm in arms.values() for run in arm["runs"]}))
    classes.locator_params(axis="y", integer=True)
    accuracy.legend(frameon=False)
    return result


EXAMPLE = Example("dead_outputs", __doc__ or "", measuring(works), table, draw, works)

if __name__ == "__main__":
    EXAMPLE.main()
