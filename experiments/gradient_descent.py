"""Gradient descent alone: all images in every step, one fixed rate, no momentum; with cuts and without.

784,1000,1000,1000,500,10 on 60,000 MNIST images, 1,500 steps at 0.2, cut every 250; scaled down 784,300,300,10 on
2,000 images and 300 steps, cut every 60. Weights begin as N(0, 1/n); no term in |w| or w², no ReLU after the last
layer. What of the noise is gone after a cut cannot come from the sampling of batches here: there is none. The paper
tried gradient descent as well; its rate and its steps are not known to us.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from published import (
    COLORS,
    GREY,
    Arms,
    Example,
    Recipe,
    Scale,
    Table,
    Tell,
    Work,
    draw_runs,
    ends,
    figure,
    measuring,
    percent,
    sizes,
)

from rmt_compress.training import CycleSettings, TrainingSettings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from rmt_compress.training.event_log import Event

SMALL = Recipe(
    arch="mlp:784,300,300,10/init=normal",
    data="mnist",
    training=TrainingSettings(epochs=300, batch_size=2_000, learning_rate=0.2, momentum=0.0),
    cycle=CycleSettings(every=60, keep_bulk="0.7,0.5,0.35,0.27"),
    samples=2_000,
)
RECIPES = {
    "small": SMALL,
    "full": replace(
        SMALL.trained(epochs=1_500, batch_size=60_000),
        arch="mlp:784,1000,1000,1000,500,10/init=normal",
        cycle=CycleSettings(every=250, keep_bulk="0.7,0.55,0.42,0.33,0.27"),
        samples=None,
    ),
    "quick": replace(
        SMALL.on_digits("mlp:64,96,10/init=normal", epochs=30, batch_size=300),
        cycle=CycleSettings(every=10, keep_bulk="0.5,0.3"),
    ),
}
# Of so many steps one is kept, and all cuts.
KEPT = 10


@dataclass(frozen=True)
class Descent:
    """A recipe whose epochs are one step each, of which few are kept."""

    recipe: Recipe

    @property
    def seeds(self) -> tuple[int, ...]:
        """One run each."""
        return self.recipe.seeds

    def settings(self) -> dict[str, Any]:
        """All of it as plain data."""
        return self.recipe.settings()

    def one(self, seed: int, tell: Tell) -> dict[str, Any]:
        """A run."""
        run = self.recipe.one(seed, lambda event: tell(event) if _kept(event) else None)
        return {**run, "events": [event for event in run["events"] if _kept(event)]}


def _kept(event: Event) -> bool:
    return bool(event["event"] != "epoch" or event["epoch"] % KEPT == 0)


def works(scale: Scale) -> dict[str, Work]:
    """With cuts and without."""
    return {"pruned": Descent(RECIPES[scale]), "normal": Descent(RECIPES[scale].plain())}


def table(arms: Arms) -> Table:
    """Accuracy, losses and size."""
    rows = [["", "test accuracy", "test loss", "parameters"]]
    for name, arm in arms.items():
        loss = sum(ends(arm, "test_loss")) / len(arm["runs"])
        rows.append([f"gradient descent, {name}", percent(ends(arm, "test_accuracy")), f"{loss:.4f}", sizes(arm)])
    return rows


def draw(arms: Arms) -> Figure:
    """Accuracy and loss over the steps."""
    result, (accuracy, loss) = figure(2)
    for name, color in (("normal", GREY), ("pruned", COLORS[0])):
        if name in arms:
            draw_runs(accuracy, arms[name], "test_accuracy", color=color, label=name, factor=100)
            draw_runs(loss, arms[name], "test_loss", color=color, label=name)
    accuracy.set(title="Gradient descent: accuracy", ylabel="test accuracy, %", xlabel="step")
    loss.set(title="Loss", ylabel="test loss", yscale="log", xlabel="step")
    accuracy.legend(frameon=False, loc="lower right")
    return result


EXAMPLE = Example("gradient_descent", __doc__ or "", measuring(works), table, draw, works)

if __name__ == "__main__":
    EXAMPLE.main()
