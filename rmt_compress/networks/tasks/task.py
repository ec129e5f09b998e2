"""What every task is: inputs, a score with a direction and a unit, and a loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import nn

    from rmt_compress.data.samples import Batch, Samples

TaskKind = Literal["classification", "regression", "causal", "masked", "agreement", "custom"]


@dataclass(frozen=True)
class Metric:
    """The one number that two networks are compared by.

    Attributes:
        name: what it is called: ``accuracy``, ``mean square error`` ….
        unit: ``share`` of a number in [0, 1] shown in percent, ``nats per token``, or empty.
        higher_is_better: its direction.
    """

    name: str
    unit: str = ""
    higher_is_better: bool = True

    def shown(self, value: float) -> str:
        """A value as people read it: ``89.90%``, ``0.9021``."""
        return f"{value:.2%}" if self.unit == "share" else f"{value:.4f}"

    def called(self, value: float) -> str:
        """A value with what it is: ``89.90%``, ``loss 0.9021``."""
        return self.shown(value) if self == ACCURACY else f"{self.name} {self.shown(value)}"

    def within(self, limit: float) -> str:
        """What is no worse than a limit: ``at least 97.00%``, ``loss 0.9021 or less``."""
        if self == ACCURACY:
            return f"at least {self.shown(limit)}"
        return f"{self.name} {self.shown(limit)} or {'more' if self.higher_is_better else 'less'}"

    def change(self, new: float, old: float) -> str:
        """What became of it: ``-0.40 points``, ``+0.0213``."""
        return f"{100 * (new - old):+.2f} points" if self.unit == "share" else f"{new - old:+.4f}"

    @property
    def losses(self) -> tuple[tuple[float, str], ...]:
        """Losses that people ask about, each as a share of `scale` and in words."""
        if self.unit == "share":
            return (0.005, "0.5 points"), (0.01, "1 point"), (0.03, "3 points")
        return (0.01, "1 %"), (0.03, "3 %"), (0.1, "10 %")

    def scale(self, full: float) -> float:
        """What a loss is a share of: points count from 0 to 1, all else from the score of the whole network."""
        return 1.0 if self.unit == "share" else abs(full)

    def worse_by(self, new: float, old: float) -> float:
        """How much worse `new` is than `old`, below 0 where it is better, in the metric's own unit."""
        return old - new if self.higher_is_better else new - old


ACCURACY = Metric("accuracy", "share")


@dataclass(frozen=True)
class Score:
    """How a network does a task.

    Attributes:
        task: the kind of task.
        metric: what `value` is.
        value: the score.
        loss: mean loss in the task's unit (cross-entropy in nats, mean square); None where the task has none.
        samples: how many were asked; 0 where only a callable knows.
        guess: the score of a constant answer, the best there is; None where that means nothing.
        details: what else was measured, by name, in the order it is shown.
        each: (samples,), what each sample adds: their mean is `value`; None where that is not known. Samples are
            what is independent: a text is one, however many tokens it has.
    """

    task: TaskKind
    metric: Metric
    value: float
    loss: float | None
    samples: int
    guess: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    each: NDArray[np.float64] | None = field(default=None, repr=False, compare=False)

    @property
    def accuracy(self) -> float | None:
        """Share of right answers; None of a task that is no classification."""
        return self.value if self.task == "classification" else None

    def to_json(self) -> dict[str, Any]:
        """The keys of `evaluate --json` that say how well a network does."""
        name = {"accuracy": self.value} if self.accuracy is not None else {}
        return {
            "task": self.task,
            "score": {
                "name": self.metric.name,
                "value": self.value,
                "unit": self.metric.unit,
                "higher_is_better": self.metric.higher_is_better,
            },
            "guess": self.guess,
            "samples": self.samples,
            **name,
            "loss": self.loss,
            **self.details,
        }


class Task(Protocol):
    """How a network is asked and judged; `evaluate`, `sweep`, `prune` and `finetune` know nothing else of it."""

    @property
    def kind(self) -> TaskKind:
        """Which kind of task it is."""

    @property
    def metric(self) -> Metric:
        """What `Score.value` is."""

    @property
    def samples(self) -> Samples | None:
        """What is asked; None of a callable that asks by itself."""

    @property
    def batch_size(self) -> int:
        """Samples at once that suit the task."""

    def score(
        self,
        model: nn.Module,
        *,
        batch_size: int | None = None,
        progress: Callable[[int], None] | None = None,
        name: str = "the model",
    ) -> Score:
        """Ask `model`, where it is, every sample, in evaluation mode; everything else of it stays as it is.

        Args:
            model: the network.
            batch_size: samples at once; None for `Task.batch_size`.
            progress: called with the number of samples done.
            name: what errors call the model.

        Raises:
            EvaluationError: the model does not take these inputs, or its outputs are not what the task is about.
            DataError: the data end in something that is none.
        """

    def loss(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """The mean loss of a batch, differentiable, from what the network returned for `Task.inputs` of it.

        Raises:
            EvaluationError: the task has no loss, or the outputs do not suit it.
        """

    def inputs(self, batch: Batch) -> Any:
        """What the network is called with for a batch: its inputs, or what the task makes of them (masks)."""

    def of(self, samples: Samples) -> Task:
        """The same task, asked of other samples."""
