"""The prune/retrain cycle at the edge, and within a budget, at equal final size.

Every seed's edge cycle comes first; the budget of the others is the share of the weights that it left. The Fashion
MLP is the sample (784, 1000, 1000, 500, 10), 90.64 % uncut; it is trained on 10,000 of its 60,000 images, 4 epochs
at 0.005, and cut at once and after 2 (f = 0.5, 0). The CNN begins afresh on Fashion-MNIST: 16,p,48,p / 128,10
with batch norms, 4,000 images, 6 epochs at 0.02 falling as half a cosine, cut after 2 and 4 (f = 0.4, 0.1; fit
errors up to 0.2). "Smaller" is a budget that the edge does not reach. Batch-norm statistics are estimated anew
after cuts within a budget; "edge, repaired" does so too. Of three seeds, mean and standard deviation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from published import (
    COLORS,
    GREY,
    Arm,
    Arms,
    Example,
    Recipe,
    Scale,
    Table,
    arm_of,
    ends,
    figure,
    overhead,
    percent,
    sizes,
)

from rmt_compress.analysis import AnalysisSettings
from rmt_compress.networks.calibration_settings import CalibrationSettings
from rmt_compress.planning.budgets import BudgetSettings
from rmt_compress.training import CycleSettings, TrainingSettings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SEEDS = (0, 1, 2)
EDGE = "edge"


@dataclass(frozen=True)
class Budgeted:
    """How cuts come to a budget.

    Attributes:
        metric: which directions are kept.
        way: how the share falls.
        keep: the share that is left; None for the edge's.
    """

    metric: Any = "two-sided"
    way: Any = "geometric"
    keep: float | None = None

    def within(self, cycle: CycleSettings, keep: float) -> CycleSettings:
        """The cycle with this budget in the place of the edge."""
        return replace(
            cycle,
            keep_bulk=CycleSettings.keep_bulk,
            way=self.way,
            budget=BudgetSettings(keep=self.keep or keep, metric=self.metric),
        )


MLP = Recipe(
    arch="",
    data="fashion-mnist",
    source="sample_models/fashion_mlp.safetensors",
    training=TrainingSettings(epochs=4, learning_rate=0.005),
    cycle=CycleSettings(every=2, analysis=AnalysisSettings(exclude=("fc4",))),
    samples=10_000,
)
CNN = Recipe(
    arch="cnn:1x28x28/16,p,48,p/128,10/dropout=0.35",
    data="fashion-mnist",
    training=TrainingSettings(epochs=6, learning_rate=0.02, schedule="cosine"),
    cycle=CycleSettings(every=2, keep_bulk="0.4,0.1", analysis=AnalysisSettings(gof=0.2, exclude=("conv1", "fc2"))),
    samples=4_000,
)
AT_EQUAL_SIZE = {f"{metric}, geometric": Budgeted(metric) for metric in ("two-sided", "input", "plain")}
SMALLER = {f"smaller: two-sided, {way}": Budgeted(way=way, keep=0.04) for way in ("geometric", "linear")}
ARMS = {
    "Fashion MLP": (MLP, {**AT_EQUAL_SIZE, **SMALLER}),
    "Fashion CNN": (CNN, {"two-sided, geometric": Budgeted()}),
}
_DIGITS = replace(
    CNN,
    arch="cnn:1x8x8/32,p,48/64,10/dropout=0.35",
    data="digits",
    training=replace(CNN.training, epochs=3),
    cycle=replace(CNN.cycle, keep_bulk="0.2") if CNN.cycle else None,
    samples=600,
)


def measure(scale: Scale) -> Iterator[tuple[str, Arm]]:
    """The edge, then every budget at its size, seed by seed."""
    arms = {"digits": (_DIGITS, {"two-sided, geometric": Budgeted()})} if scale == "quick" else ARMS
    seeds = SEEDS[:1] if scale == "quick" else SEEDS
    for network, (recipe, budgets) in arms.items():
        assert recipe.cycle is not None
        edge = arm_of(replace(recipe, seeds=seeds))
        yield f"{network}, {EDGE}", edge
        if "cnn" in recipe.arch:
            mended = replace(recipe.cycle, calibration=CalibrationSettings(repair="statistics"))
            yield f"{network}, {EDGE}, repaired", arm_of(replace(recipe, cycle=mended, seeds=seeds))
        for name, budget in budgets.items():
            runs = []
            for run in edge["runs"]:
                first, last = (run["events"][place]["parameters"] for place in (0, -1))
                cycle = budget.within(recipe.cycle, last / first)
                arm = arm_of(replace(recipe, cycle=cycle, seeds=(run["seed"],)))
                runs += arm["runs"]
            yield f"{network}, {name}", {"settings": arm["settings"], "runs": runs}


def table(arms: Arms) -> Table:
    """Accuracy right after the last cut and in the end, and parameters."""
    heading = ["", "accuracy after the last cut", "in the end", "parameters", "analysis / training"]
    rows = [heading]
    for name, arm in arms.items():
        rows.append(
            [name, percent(_after_the_last_cut(arm)), percent(ends(arm, "test_accuracy")), sizes(arm), _time(arm)]
        )
    return rows


def draw(arms: Arms) -> Figure:
    """Accuracy in the end, a panel a network: mean and every seed."""
    networks = list(dict.fromkeys(name.partition(", ")[0] for name in arms))
    result, panels = figure(len(networks), width=5.6, height=3.6)
    for axes, network in zip(panels, networks, strict=True):
        own = {name.partition(", ")[2]: arm for name, arm in arms.items() if name.startswith(f"{network}, ")}
        for place, (name, arm) in enumerate(own.items()):
            values = [100 * value for value in ends(arm, "test_accuracy")]
            color = GREY if name == EDGE else COLORS[0 if "smaller" in name else 1]
            axes.plot(values, [place] * len(values), "o", color=color, alpha=0.45)
            axes.plot([sum(values) / len(values)], [place], "|", color=color, ms=18, mew=2.5)
        axes.set_yticks(range(len(own)), list(own))
        axes.invert_yaxis()
        axes.grid(axis="x", color="#e9ecef")
        axes.set(title=network, xlabel="test accuracy in the end, %")
    return result


def _after_the_last_cut(arm: Arm) -> list[float]:
    return [
        [event for event in run["events"] if event["event"] == "cycle"][-1]["test_accuracy"] for run in arm["runs"]
    ]


def _time(arm: Arm) -> str:
    trained = all(run["events"][1]["event"] == "cycle" for run in arm["runs"])
    cuts = [event for run in arm["runs"] for event in run["events"] if event["event"] == "cycle"]
    if not trained:
        return f"{overhead(arm):.1%}"
    return f"{sum(event['seconds']['analyze'] for event in cuts) / len(cuts):.1f} s a cut"


EXAMPLE = Example("budgeted_cycles", __doc__ or "", measure, table, draw)

if __name__ == "__main__":
    EXAMPLE.main()
