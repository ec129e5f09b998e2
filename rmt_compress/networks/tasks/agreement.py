"""Whether a network still answers as another does: no labels are needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from rmt_compress.errors import EvaluationError
from rmt_compress.networks.calling import main_output, placed, without_cache
from rmt_compress.networks.tasks.asking import answers, asked
from rmt_compress.networks.tasks.by_sample import BySample
from rmt_compress.networks.tasks.task import Metric, Score, TaskKind

if TYPE_CHECKING:
    import torch
    from torch import nn

    from rmt_compress.data.samples import Batch, Samples

SAME_ANSWER = Metric("same answer", "share")
COSINE = Metric("cosine", "share")
_MOST_NEIGHBOURS = 2000
"""Samples among which nearest neighbours are looked for."""


@dataclass(frozen=True)
class Agreement:
    """The outputs of a network beside those of the network it was made from.

    `Score.value` is the share of equal answers where outputs are logits (a class or a token is named), else the
    mean cosine of embeddings, (N, D), of (N, T, D) their mean over the tokens that are no padding.
    `Score.details` are

    ``relative_error``   ‖outputs − reference‖ / ‖reference‖ over everything that was asked
    ``same_answer``      share of equal arg max
    ``kl``               mean Kullback–Leibler divergence of the softmaxes, nats; None of embeddings
    ``cosine``           mean cosine of the outputs of a sample, or of a token
    ``same_neighbour``   share of samples whose nearest neighbour by cosine is the same; None of logits

    Attributes:
        samples: what both are asked.
        reference: the network to agree with, which stays where it is.
        embeddings: whether outputs are embeddings and no logits.
        prepared: what the task that the samples are for makes of their inputs.
        answers: what the network to agree with answers, batch by batch at `batch_size`; None to ask it each time.
    """

    samples: Samples
    reference: nn.Module
    embeddings: bool = False
    prepared: Callable[[Batch], Any] | None = None
    answers: tuple[torch.Tensor, ...] | None = None
    kind: ClassVar[TaskKind] = "agreement"

    @property
    def metric(self) -> Metric:
        """What `Score.value` is."""
        return COSINE if self.embeddings else SAME_ANSWER

    @property
    def batch_size(self) -> int:
        """Samples at once."""
        return 8 if self.samples.targets == "tokens" else 64

    def inputs(self, batch: Batch) -> Any:
        """The batch's own, or what `prepared` makes of them."""
        return batch.inputs if self.prepared is None else self.prepared(batch)

    def score(
        self,
        model: nn.Module,
        *,
        batch_size: int | None = None,
        progress: Callable[[int], None] | None = None,
        name: str = "the model",
    ) -> Score:
        """See `Task.score`; both networks are asked batch by batch."""
        import torch
        from torch.nn import functional

        from rmt_compress.networks.measurement import evaluation_mode, placement

        total = _Sums()
        rows: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
        samples = 0
        by_sample = BySample()
        device, dtype = placement(self.reference)
        known = None if self.answers is None else iter(self.answers)
        if known is not None:
            batch_size = self.batch_size
        with evaluation_mode(self.reference), without_cache(self.reference):
            for batch, answer in answers(model, self, batch_size, progress, name):
                with torch.inference_mode():
                    if known is not None:
                        reference = next(known).to(answer.device)
                    else:
                        inputs = placed(self.inputs(batch), device, dtype)
                        reference = asked(self.reference, inputs, self.samples, "the original")
                    if reference.shape != answer.shape:
                        raise EvaluationError(
                            f"{name} returns {'×'.join(map(str, answer.shape))} numbers where the original returns "
                            f"{'×'.join(map(str, reference.shape))}"
                        )
                    samples += len(answer)
                    first, second = (self._vectors(out, batch, answer.device) for out in (answer, reference))
                    each = total.add(first, second, logits=not self.embeddings)
                    places = self._places(batch, answer, len(each))
                    sums = [part.sum() for part in torch.split(each, places.tolist())]
                    by_sample.add(torch.stack(sums), places)
                    if self.embeddings and samples <= _MOST_NEIGHBOURS:
                        for kept, vectors in zip(rows, (first, second), strict=True):
                            kept.append(functional.normalize(vectors.double().cpu(), dim=1))
        neighbours = [_nearest(torch.cat(kept)) for kept in rows] if rows[0] and samples > 2 else None
        details = total.means()
        details["same_neighbour"] = float((neighbours[0] == neighbours[1]).double().mean()) if neighbours else None
        value = details["cosine" if self.embeddings else "same_answer"]
        assert value is not None
        kl = details["kl"]
        return Score(self.kind, self.metric, value, kl, samples, details=details, each=by_sample.each)

    def loss(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """Mean square distance of the outputs, in units of the reference's mean square; see `Task.loss`."""
        import torch

        answer = main_output(outputs)
        if answer is None:
            raise EvaluationError(f"the network returns a {type(outputs).__name__} without a tensor in it")
        from rmt_compress.networks.measurement import evaluation_mode, placement

        device, dtype = placement(self.reference)
        with torch.no_grad(), evaluation_mode(self.reference), without_cache(self.reference):
            inputs = placed(self.inputs(batch), device, dtype)
            wanted = asked(self.reference, inputs, self.samples, "the original").to(answer.device)
        return (answer - wanted).square().mean() / wanted.square().mean().clamp_min(1e-30)

    def of(self, samples: Samples) -> Agreement:
        """See `Task.of`."""
        return replace(self, samples=samples, answers=None)

    def remembered(self) -> Agreement:
        """The same with what the reference answers now, whatever becomes of it: a cut is tried in its own place."""
        now = tuple(answer.clone() for _, answer in answers(self.reference, self, None, None, "the original"))
        return replace(self, answers=now)

    def _places(self, batch: Batch, answer: torch.Tensor, places: int) -> torch.Tensor:
        """(N,), how many of the `places` that were compared are those of each sample."""
        import torch

        mask = batch.inputs.get("attention_mask") if isinstance(batch.inputs, Mapping) else None
        if mask is not None and places == int((mask > 0).sum()) and len(mask) == len(answer):
            return torch.count_nonzero(mask > 0, dim=1)
        return torch.full((len(answer),), places // len(answer))

    def _vectors(self, output: torch.Tensor, batch: Batch, device: torch.device) -> torch.Tensor:
        """Outputs as (places, numbers): of embeddings one place a sample."""
        output = output.to(device)
        if output.ndim == 1:
            output = output[:, None]
        if output.ndim == 2:
            return output
        if output.ndim != 3:
            # Maps of images: every place has the numbers of the second axis.
            return output.flatten(1) if self.embeddings else output.movedim(1, -1).flatten(0, -2)
        mask: torch.Tensor | None = (
            batch.inputs.get("attention_mask") if isinstance(batch.inputs, Mapping) else None
        )
        if mask is None or mask.shape != output.shape[:2]:
            return output.mean(1) if self.embeddings else output.flatten(0, 1)
        weights = mask.to(output.device, output.dtype)[..., None]
        if self.embeddings:
            return (output * weights).sum(1) / weights.sum(1).clamp_min(1.0)
        return output[weights[..., 0] > 0]


class _Sums:
    """Sums over places of what `Agreement` reports."""

    def __init__(self) -> None:
        self._difference = self._reference = self._cosine = self._kl = 0.0
        self._same = self._places = 0
        self._logits = False

    def add(self, answer: torch.Tensor, reference: torch.Tensor, *, logits: bool) -> torch.Tensor:
        """Add places, (places, numbers); gives (places,) what the score is the mean of."""
        import torch
        from torch.nn import functional

        self._logits = logits
        step = max(1, 2**22 // max(1, answer.shape[1]))
        found = []
        for start in range(0, len(answer), step):
            ours, theirs = (part[start : start + step].double() for part in (answer, reference))
            self._difference += float((ours - theirs).square().sum())
            self._reference += float(theirs.square().sum())
            cosine = functional.cosine_similarity(ours, theirs, dim=1)
            same = ours.argmax(1) == theirs.argmax(1)
            found.append(same.double() if logits else cosine)
            self._cosine += float(cosine.sum())
            self._same += int(same.sum())
            if logits:
                both = (ours.log_softmax(1), theirs.log_softmax(1))
                self._kl += float(functional.kl_div(*both, reduction="sum", log_target=True))
            self._places += len(ours)
        return torch.cat(found)

    def means(self) -> dict[str, float | None]:
        places = max(1, self._places)
        return {
            "relative_error": (self._difference / self._reference) ** 0.5 if self._reference else None,
            "same_answer": self._same / places,
            "kl": self._kl / places if self._logits else None,
            "cosine": self._cosine / places,
        }


def _nearest(vectors: torch.Tensor) -> torch.Tensor:
    """Of each row the other row of the largest cosine."""
    return (vectors @ vectors.T).fill_diagonal_(-2.0).argmax(1)
