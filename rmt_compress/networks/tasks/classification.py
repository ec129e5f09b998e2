"""One class for every sample: accuracy, top 5, cross-entropy, and which classes are taken for which."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from rmt_compress.errors import EvaluationError
from rmt_compress.networks.calling import main_output
from rmt_compress.networks.tasks.asking import answers
from rmt_compress.networks.tasks.by_sample import BySample
from rmt_compress.networks.tasks.task import ACCURACY, Metric, Score, TaskKind

if TYPE_CHECKING:
    import torch
    from torch import nn

    from rmt_compress.data.samples import Batch, Samples

TOP5_CLASSES = 20
"""With fewer classes the right one is among five by luck too often."""
_MOST_CONFUSIONS = 5


@dataclass(frozen=True)
class Classification:
    """The largest output is the answer; outputs (N, classes), or (N, classes, …) with a class for every place.

    `Score.details` are

    ``top5``             share whose right class is among the five largest outputs; None below `TOP5_CLASSES`
    ``dead_outputs``     outputs with one and the same value for every sample: a ReLU after the last layer can kill
                         an output, and its class is lost for good
    ``never_predicted``  classes of the data set that are no sample's largest output
    ``by_class``         share of right answers of each class, None of one without samples
    ``confused``         the most frequent mistakes, [right class, answer, how often]
    """

    samples: Samples
    kind: ClassVar[TaskKind] = "classification"
    metric: ClassVar[Metric] = ACCURACY
    # Larger batches are no faster on a CPU: a third of a convolutional network's time went into giving the memory
    # of its outputs back to the system and taking it again, 4.2 s at 256 for 2.7 s at 64.
    batch_size: ClassVar[int] = 64

    def score(
        self,
        model: nn.Module,
        *,
        batch_size: int | None = None,
        progress: Callable[[int], None] | None = None,
        name: str = "the model",
    ) -> Score:
        """See `Task.score`."""
        import torch
        from torch.nn import functional

        among_five = done = 0
        loss = 0.0
        lowest = highest = table = None
        by_sample = BySample()
        for batch, answer in answers(model, self, batch_size, progress, name):
            outputs = _flat(self._checked(answer, batch, name)).double()
            labels = self._labels(batch, name)
            places = labels.flatten(1) >= 0 if labels.ndim > 1 else labels[:, None] >= 0
            labels = labels.flatten()
            asked = labels >= 0
            hits = (outputs.argmax(1) == labels) & asked
            by_sample.add(hits.view(places.shape).sum(1), places.sum(1))
            outputs, labels = outputs[asked], labels[asked]
            if not len(labels):
                continue
            right = outputs.gather(1, labels[:, None])
            among_five += int(((outputs > right).sum(1) < 5).sum())
            loss += float(functional.cross_entropy(outputs, labels, reduction="sum"))
            low, high = outputs.amin(0), outputs.amax(0)
            lowest = low if lowest is None else torch.minimum(lowest, low)
            highest = high if highest is None else torch.maximum(highest, high)
            width = outputs.shape[1]
            classes = self.samples.classes or width
            counts = torch.bincount(labels * width + outputs.argmax(1), minlength=classes * width)
            table = counts if table is None else table + counts
            done += len(labels)
        if lowest is None or highest is None or table is None:
            raise EvaluationError(f"{self.samples.name}: no class of it can be asked: every label is negative")
        table = table.reshape(-1, len(lowest))
        classes = len(table)
        each = table.sum(1)
        right_answers = table[:, :classes].diagonal()
        return Score(
            task=self.kind,
            metric=self.metric,
            value=int(right_answers.sum()) / done,
            loss=loss / done,
            samples=done,
            guess=int(each.max()) / done,
            details={
                "top5": among_five / done if classes >= TOP5_CLASSES else None,
                "dead_outputs": int((lowest == highest).sum()) if done > 1 else 0,
                "never_predicted": int((table.sum(0)[:classes] == 0).sum()),
                "by_class": [
                    int(hits) / int(count) if count else None
                    for hits, count in zip(right_answers, each, strict=True)
                ],
                "confused": _confused(table),
            },
            each=by_sample.each,
        )

    def loss(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """Mean cross-entropy, see `Task.loss`."""
        from torch.nn import functional

        answer = main_output(outputs)
        if answer is None:
            raise EvaluationError(f"the network returns a {type(outputs).__name__} without a tensor in it")
        checked = self._checked(answer, batch, "the network")
        labels = self._labels(batch, "the network").to(checked.device)
        return functional.cross_entropy(checked, labels, ignore_index=-100)

    def inputs(self, batch: Batch) -> Any:
        """The batch's own."""
        return batch.inputs

    def of(self, samples: Samples) -> Classification:
        """See `Task.of`."""
        return replace(self, samples=samples)

    def _labels(self, batch: Batch, name: str) -> torch.Tensor:
        if batch.targets is None or batch.targets.is_floating_point():
            raise EvaluationError(f"{self.samples.name}: has no classes to compare the answers of {name} with")
        return batch.targets

    def _checked(self, answer: torch.Tensor, batch: Batch, name: str) -> torch.Tensor:
        """The answer with its classes on the second axis, at least as many as the data have."""
        labels = self._labels(batch, name)
        expected = (len(labels), *labels.shape[1:])
        needed = self.samples.classes or max(1, int(labels.max()) + 1)
        # Token classifiers of transformers have their classes last.
        for found in (answer, answer.movedim(-1, 1)) if answer.ndim == labels.ndim + 1 else ():
            if (found.shape[0], *found.shape[2:]) == expected and found.shape[1] >= needed:
                return found
        returned = f"{name} returns {'×'.join(map(str, answer.shape))} numbers for {len(labels)} inputs of "
        if labels.ndim == 1 and answer.ndim == 2 and len(answer) == len(labels):
            raise EvaluationError(
                f"{returned}{self.samples.name}, which has {needed} classes: labels lie from 0 to {needed - 1}; "
                f"give data of {answer.shape[1]} classes or the network that was made for these"
            )
        wanted = ", ".join(["N", str(needed), *map(str, labels.shape[1:])])
        raise EvaluationError(
            f"{returned}{self.samples.name}, which has labels of {'×'.join(map(str, labels.shape))}; ({wanted}) "
            "are needed: give one label for everything that the network answers"
        )


def _flat(answer: torch.Tensor) -> torch.Tensor:
    """(N, classes, …) as (places, classes)."""
    return answer if answer.ndim == 2 else answer.movedim(1, -1).flatten(0, -2)


def _confused(table: torch.Tensor) -> list[list[int]]:
    wrong = table.clone()
    wrong[:, : len(table)].fill_diagonal_(0)
    values, places = wrong.flatten().sort(descending=True, stable=True)
    width = table.shape[1]
    return [
        [int(place) // width, int(place) % width, int(count)]
        for place, count in zip(places[:_MOST_CONFUSIONS], values, strict=False)
        if count
    ]
