"""Numbers for every sample: mean square error and the share of the variance that is explained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from rmt_compress.errors import EvaluationError
from rmt_compress.networks.calling import main_output
from rmt_compress.networks.tasks.asking import answers
from rmt_compress.networks.tasks.by_sample import BySample
from rmt_compress.networks.tasks.task import Metric, Score, TaskKind

if TYPE_CHECKING:
    import torch
    from torch import nn

    from rmt_compress.data.samples import Batch, Samples


@dataclass(frozen=True)
class Regression:
    """Outputs of the shape of the targets, (N, …); (N,) and (N, 1) are the same.

    `Score.details` are ``r2``, 1 − mean square / variance of the targets, None where they do not vary.
    """

    samples: Samples
    kind: ClassVar[TaskKind] = "regression"
    metric: ClassVar[Metric] = Metric("mean square error", higher_is_better=False)
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

        samples = numbers = 0
        squares = 0.0
        mean = spread = None
        by_sample = BySample()
        for batch, answer in answers(model, self, batch_size, progress, name):
            predicted, wanted = (part.double() for part in self._pair(answer, batch, name))
            errors = (predicted - wanted).square().reshape(len(wanted), -1)
            squares += float(errors.sum())
            by_sample.add(errors.sum(1), torch.full((len(errors),), errors.shape[1]))
            # Means and squared deviations of batches are joined (Chan, Golub and LeVeque 1979): squares of large
            # numbers that differ little would lose theirs.
            count, here = len(wanted), wanted.mean(0)
            deviation = (wanted - here).square().sum(0)
            if mean is None or spread is None:
                mean, spread = here, deviation
            else:
                both = samples + count
                spread = spread + deviation + (here - mean).square() * (samples * count / both)
                mean = mean + (here - mean) * (count / both)
            samples += count
            numbers += wanted.numel()
        assert spread is not None
        error, variance = squares / numbers, float(spread.sum()) / numbers
        return Score(
            task=self.kind,
            metric=self.metric,
            value=error,
            loss=error,
            samples=samples,
            guess=variance,
            details={"r2": 1 - error / variance if variance else None},
            each=by_sample.each,
        )

    def loss(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """Mean square error, see `Task.loss`."""
        from torch.nn import functional

        answer = main_output(outputs)
        if answer is None:
            raise EvaluationError(f"the network returns a {type(outputs).__name__} without a tensor in it")
        return functional.mse_loss(*self._pair(answer, batch, "the network"))

    def inputs(self, batch: Batch) -> Any:
        """The batch's own."""
        return batch.inputs

    def of(self, samples: Samples) -> Regression:
        """See `Task.of`."""
        return replace(self, samples=samples)

    def _pair(self, answer: torch.Tensor, batch: Batch, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Answers and targets of one shape."""
        wanted = batch.targets
        if wanted is None or not wanted.is_floating_point():
            raise EvaluationError(f"{self.samples.name}: has no numbers to compare the answers of {name} with")
        wanted = wanted.to(answer.device)
        # The first axis is that of samples, of which there may be one.
        flat = [each.flatten(-2) if each.ndim > 1 and each.shape[-1] == 1 else each for each in (answer, wanted)]
        if answer.shape != wanted.shape and flat[0].shape == flat[1].shape:
            answer, wanted = flat
        if answer.shape != wanted.shape:
            raise EvaluationError(
                f"{name} returns {'×'.join(map(str, answer.shape))} numbers for targets of "
                f"{'×'.join(map(str, wanted.shape))} in {self.samples.name}; give targets of the network's own "
                "shape"
            )
        return answer, wanted
