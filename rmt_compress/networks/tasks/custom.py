"""A score that the user's own function computes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from rmt_compress.errors import EvaluationError
from rmt_compress.networks.tasks.task import Metric, Score, TaskKind
from rmt_compress.wording import one_line

if TYPE_CHECKING:
    import torch
    from torch import nn

    from rmt_compress.data.samples import Batch, Samples


@dataclass(frozen=True)
class CustomTask:
    """`function(model) -> float`, called with the network in evaluation mode and without gradients.

    Attributes:
        function: asks and judges by itself.
        metric: its name and direction.
        samples: what other measurements (milliseconds, calibration) are made with; None for none.
    """

    function: Callable[[nn.Module], float]
    metric: Metric
    samples: Samples | None = None
    kind: ClassVar[TaskKind] = "custom"
    batch_size: ClassVar[int] = 64

    def score(
        self,
        model: nn.Module,
        *,
        batch_size: int | None = None,
        progress: Callable[[int], None] | None = None,
        name: str = "the model",
    ) -> Score:
        """See `Task.score`; `batch_size` and `progress` are the function's own business."""
        import torch

        from rmt_compress.networks.measurement import evaluation_mode

        del batch_size, progress
        with evaluation_mode(model), torch.no_grad():
            try:
                returned = self.function(model)
            # A stranger's function may raise anything.
            except Exception as error:
                raise EvaluationError(f"{self.metric.name}: asking {name} failed ({one_line(error)})") from error
        try:
            if isinstance(returned, str):
                raise TypeError
            value = float(returned)
        except (TypeError, ValueError, RuntimeError) as error:
            what = "nothing" if returned is None else f"a {type(returned).__name__}"
            raise EvaluationError(
                f"{self.metric.name}: returns {what} for {name}, where one number is needed"
            ) from error
        if not math.isfinite(value):
            raise EvaluationError(f"{self.metric.name}: is {value} for {name}, where a finite number is needed")
        return Score(self.kind, self.metric, value, None, 0)

    def inputs(self, batch: Batch) -> Any:
        """The batch's own."""
        return batch.inputs

    def loss(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """There is none: always an `EvaluationError`."""
        raise EvaluationError(f"{self.metric.name}: a function of the whole network has no loss to train with")

    def of(self, samples: Samples) -> CustomTask:
        """The same; its own samples are the function's business."""
        del samples
        return self
