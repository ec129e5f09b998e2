"""Language modelling: each token from those before it, or masked ones from all the others.

Nats per token are what networks are compared by; perplexity is e to that power, bits per byte do not depend on the
tokenizer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
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

NATS = Metric("loss", "nats per token", higher_is_better=False)
IGNORED = -100
"""Target of a place that is not asked, as everywhere in torch."""
_ROWS = 2**22
"""So many logits are brought to float64 at once: those of a large vocabulary would not fit."""


class _Language:
    """What both kinds share: `kind`, `inputs` and `pairs` are their own.

    `Score.details` are ``perplexity``, ``token_accuracy``, the share of tokens whose largest logit is right,
    ``bits_per_byte`` where the data know how many bytes a token stands for, and ``tokens``, how many were asked.
    """

    samples: Samples
    kind: ClassVar[TaskKind]
    metric: ClassVar[Metric] = NATS
    batch_size: ClassVar[int] = 8

    def inputs(self, batch: Batch) -> Any:
        """See `Task.inputs`."""
        raise NotImplementedError

    def of(self, samples: Samples) -> _Language:
        """See `Task.of`."""
        raise NotImplementedError

    def pairs(self, answer: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (N, T, vocabulary) and the tokens (N, T) they are to name, `IGNORED` where none is asked."""
        raise NotImplementedError

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

        total, right, asked, samples = 0.0, 0, 0, 0
        counts = torch.zeros(0, dtype=torch.int64)
        by_sample = BySample()
        for batch, answer in answers(model, self, batch_size, progress, name):
            logits, tokens = self._checked(answer, batch, name)
            for row_logits, row_tokens in zip(logits, tokens, strict=True):
                wanted = row_tokens >= 0
                labels = row_tokens[wanted]
                before = total
                for start in range(0, len(labels), step := max(1, _ROWS // logits.shape[-1])):
                    chunk = row_logits[wanted][start : start + step].double()
                    part = labels[start : start + step]
                    total += float(functional.cross_entropy(chunk, part, reduction="sum"))
                    right += int((chunk.argmax(1) == part).sum())
                by_sample.add(torch.tensor([total - before]), torch.tensor([len(labels)]))
                here = torch.bincount(labels.cpu(), minlength=len(counts))
                here[: len(counts)] += counts
                counts = here
                asked += len(labels)
            samples += len(tokens)
        if not asked:
            raise EvaluationError(f"{self.samples.name}: no token of it can be asked; take longer windows")
        loss = total / asked
        frequencies = counts[counts > 0].double() / asked
        bytes_per_token = getattr(self.samples, "bytes_per_token", None)
        return Score(
            task=self.kind,
            metric=self.metric,
            value=loss,
            loss=loss,
            samples=samples,
            # The best constant answer: tokens as frequent as they are.
            guess=float(-(frequencies * frequencies.log()).sum()),
            details={
                "tokens": asked,
                "perplexity": math.exp(min(loss, 700.0)),
                "token_accuracy": right / asked,
                "bits_per_byte": loss / math.log(2) / bytes_per_token if bytes_per_token else None,
            },
            each=by_sample.each,
        )

    def loss(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """Mean cross-entropy over the tokens that are asked, see `Task.loss`."""
        from torch.nn import functional

        answer = main_output(outputs)
        if answer is None:
            raise EvaluationError(f"the network returns a {type(outputs).__name__} without a tensor in it")
        logits, tokens = self._checked(answer, batch, "the network")
        return functional.cross_entropy(logits.flatten(0, 1), tokens.flatten(), ignore_index=IGNORED)

    def _checked(self, answer: torch.Tensor, batch: Batch, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        if answer.ndim != 3 or not answer.is_floating_point():
            raise EvaluationError(
                f"{name} returns {'×'.join(map(str, answer.shape))} numbers for text of {self.samples.name}, no "
                "logits (N, tokens, vocabulary): it is no language model, or has lost its head; ask for --task "
                "agreement"
            )
        logits, tokens = self.pairs(answer, batch)
        tokens = tokens.to(logits.device)
        if logits.shape[:2] != tokens.shape:
            raise EvaluationError(
                f"{name} returns logits of {logits.shape[1]} tokens for {tokens.shape[1]} of {self.samples.name}"
            )
        if tokens.numel() and int(tokens.max()) >= logits.shape[-1]:
            raise EvaluationError(
                f"{name} has a vocabulary of {logits.shape[-1]:,}, and {self.samples.name} has token "
                f"{int(tokens.max()):,}: the tokenizer is not the network's"
            )
        return logits, tokens


@dataclass(frozen=True)
class CausalLanguage(_Language):
    """Each token from those before it, in windows that begin afresh.

    A network of encoder and decoder (`halves`) reads the first half of a window and is asked the second, unless the
    data name what its decoder gets.
    """

    samples: Samples
    halves: bool = False
    kind: ClassVar[TaskKind] = "causal"

    def inputs(self, batch: Batch) -> Any:
        """The tokens; of encoder and decoder the two halves of them."""
        if not self.halves or _decoded(batch) is not None:
            return batch.inputs
        first, second = tokens_of(batch.inputs).tensor_split(2, dim=1)
        return {"input_ids": first, "decoder_input_ids": second}

    def pairs(self, answer: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Every logit but the last, and the token after it; those behind padding are not asked."""
        decoded = _decoded(batch) if self.halves else None
        if decoded is not None:
            return answer[:, :-1], decoded[:, 1:]
        tokens = wanted_tokens(batch)
        if self.halves:
            tokens = tokens.tensor_split(2, dim=1)[1]
        return answer[:, :-1], tokens[:, 1:]

    def of(self, samples: Samples) -> CausalLanguage:
        """See `Task.of`."""
        return replace(self, samples=samples)


@dataclass(frozen=True)
class MaskedLanguage(_Language):
    """Masked tokens from all the others (Devlin et al. 2019 §3.1, but every chosen token is masked).

    Which are masked depends on the seed and on the tokens of the window alone.

    Attributes:
        samples: text.
        mask: the token that stands for a masked one.
        seed: of the choice.
        share: of the tokens that are masked.
    """

    samples: Samples
    mask: int
    seed: int = 0
    share: float = 0.15
    kind: ClassVar[TaskKind] = "masked"

    def inputs(self, batch: Batch) -> Any:
        """The batch's with masks in it."""
        tokens = tokens_of(batch.inputs)
        masked = tokens.masked_fill(self._chosen(batch), self.mask)
        return {**batch.inputs, "input_ids": masked} if isinstance(batch.inputs, Mapping) else masked

    def pairs(self, answer: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Every logit, and the tokens that were masked."""
        tokens = wanted_tokens(batch)
        return answer, tokens.masked_fill(~self._chosen(batch).to(tokens.device), IGNORED)

    def of(self, samples: Samples) -> MaskedLanguage:
        """See `Task.of`."""
        return replace(self, samples=samples)

    def _chosen(self, batch: Batch) -> torch.Tensor:
        """Which tokens are masked: at least one of every window that has any."""
        import torch

        tokens = tokens_of(batch.inputs).cpu()
        asked = wanted_tokens(batch).cpu() >= 0
        draws = torch.empty(tokens.shape)
        for row, ids in enumerate(tokens):
            own = int(((ids + 1) * torch.arange(1, len(ids) + 1)).sum())
            # torch's generator takes 32 bits of its seed.
            seed = (own * 2_654_435_761 + self.seed * 40_503) % 2**32
            draws[row] = torch.rand(len(ids), generator=torch.Generator().manual_seed(seed))
        draws = draws.masked_fill(~asked, 2.0)
        return (draws < self.share) | (asked & (draws == draws.amin(1, keepdim=True)))


def _decoded(batch: Batch) -> torch.Tensor | None:
    """The tokens that the data name for the decoder, `IGNORED` where padding is; None where they name none."""
    inputs = batch.inputs
    if not isinstance(inputs, Mapping) or (found := inputs.get("decoder_input_ids")) is None:
        return None
    mask, tokens = inputs.get("decoder_attention_mask"), found.long()
    decoded: torch.Tensor = tokens if mask is None else tokens.masked_fill(mask.to(tokens.device) == 0, IGNORED)
    return decoded


def tokens_of(inputs: Any) -> torch.Tensor:
    """The tokens (N, T) among inputs."""
    if isinstance(inputs, Mapping):
        tokens: torch.Tensor = inputs["input_ids"]
    else:
        tokens = inputs[0] if isinstance(inputs, tuple | list) else inputs
    return tokens


def wanted_tokens(batch: Batch) -> torch.Tensor:
    """The tokens (N, T) that may be asked: those of the labels where there are any, `IGNORED` where padding is."""
    import torch

    tokens = tokens_of(batch.inputs) if batch.targets is None else batch.targets
    mask = batch.inputs.get("attention_mask") if isinstance(batch.inputs, Mapping) else None
    tokens = tokens.to(torch.int64)
    return tokens if mask is None else tokens.masked_fill(mask.to(tokens.device) == 0, IGNORED)
