"""What a run learns and is examined in: a task on training samples, and the same on test samples."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rmt_compress.errors import SettingsError
from rmt_compress.networks.tasks.questions import Question
from rmt_compress.networks.tasks.task import ACCURACY

if TYPE_CHECKING:
    import torch

    from rmt_compress.data import Samples
    from rmt_compress.networks.tasks.settings import TaskSettings
    from rmt_compress.networks.tasks.task import Task
    from rmt_compress.training.settings import TrainingSettings
    from rmt_compress.training.starting import Start

_IMAGES = 4  # dimensions: (N, C, H, W)


@dataclass(frozen=True)
class Lessons:
    """One task on two parts of the data.

    Attributes:
        train: what is trained on.
        test: what the score is measured on.
        batch_size: samples per step.
        remembered: what the file that is written remembers of the data.
    """

    train: Task
    test: Task
    batch_size: int
    remembered: dict[str, str]

    @property
    def count(self) -> int | None:
        """Training samples; None of a stream that does not know."""
        return _samples(self.train).count

    def on(self, device: torch.device) -> Lessons:
        """The same with samples held where the network is, as far as that pays and they fit."""
        return replace(self, train=_held(self.train, device), test=_held(self.test, device))

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of the data."""
        return tuple(dict.fromkeys((*_samples(self.train).notes, *_samples(self.test).notes)))


def open_lessons(
    data: str, start: Start, asked: TaskSettings, training: TrainingSettings, samples: int | None
) -> Lessons:
    """Bring data and network together.

    Args:
        data: as after ``--data``.
        start: the network.
        asked: how data are read, and which task is asked.
        training: how it will be trained.
        samples: training samples to use; None for all.

    Raises:
        SettingsError: the task has nothing to be trained towards, or a setting does not suit it.
        DataError: there are no such data, or none to train on.
    """
    if asked.asks_itself:
        raise SettingsError(
            [f"task {asked.task}: a function of the whole network has no loss to train with; leave out --task"]
        )
    question = Question(data, start.example(training.seed), start.opened(), asked)
    train, test = question.part("train"), question.held_out()
    if train.kind == "agreement":
        raise SettingsError(
            [
                f"{data}: there is nothing to train towards, since agreement is with another network; give data "
                "with labels, numbers or text that the network predicts"
            ]
        )
    if samples is not None:
        train = train.of(_samples(train).thinned(samples))
    problems = _unsuited(data, train, training)
    if problems:
        raise SettingsError(problems)
    size = training.at_once(text=_samples(train).targets == "tokens")
    return Lessons(train, test, size, question.remembered)


def _samples(task: Task) -> Samples:
    assert task.samples is not None
    return task.samples


def _held(task: Task, device: torch.device) -> Task:
    from rmt_compress.training.on_device import on_device

    if task.kind not in ("classification", "regression"):
        return task
    return task.of(on_device(_samples(task), device))


def _unsuited(data: str, task: Task, training: TrainingSettings) -> list[str]:
    """Settings that are of another kind of data or task, in words."""
    problems = []
    if training.augment != "none":
        inputs = next(iter(_samples(task).batches(1))).inputs
        if getattr(inputs, "ndim", 0) != _IMAGES:
            problems.append(f"augment {training.augment} is for images, and {data} holds none")
    if training.loss == "mse" and task.kind not in ("classification", "regression"):
        problems.append(f"loss mse is of classes, and {task.kind} has a loss of its own: leave it out")
    if training.min_accuracy is not None and task.metric != ACCURACY:
        problems.append(f"min-accuracy is of classes, and here the score is {task.metric.name}: give worst-score")
    return problems
