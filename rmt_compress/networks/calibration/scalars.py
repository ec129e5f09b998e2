"""The scalar of a network's output whose gradient is taken: no labels are needed.

Where the output is logits a class is drawn from the network's own softmax, and the scalar is its cross-entropy: the
mean of g gᵀ is then the true Fisher matrix (Martens 2020, §5). Of other outputs it is vᵀ·output with v ~ N(0, I),
the Gauss–Newton matrix of half the squared distance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch


class Scalar(NamedTuple):
    """A scalar to be differentiated.

    Attributes:
        value: the sum over all samples; 0-d.
        samples: how many losses it is the sum of.
        kind: what it is, for the record.
    """

    value: torch.Tensor
    samples: int
    kind: str


UserScalar = Callable[[Any, torch.Generator], torch.Tensor]
"""A scalar of the outputs, the sum over the samples of a batch; what it draws it draws from the generator."""


def label_free(outputs: Any, generator: torch.Generator, mask: torch.Tensor | None = None) -> Scalar | None:
    """The scalar that suits the output; None where no output has a gradient.

    Logits are what is called so, (N, …, classes), and a tensor alone of two or three axes, unless it has but one
    column. Rows of probabilities are taken for such.

    Args:
        outputs: of the network: a tensor, tuple, mapping, or an object of transformers.
        generator: on the CPU.
        mask: (N, T), 0 where a token is padding; tokens there count for nothing.
    """
    named = outputs.get("logits") if isinstance(outputs, Mapping) else None
    logits = outputs if named is None else named
    if _are_logits(logits, alone=named is None):
        return drawn_class(logits, generator, mask)
    return random_direction(outputs, generator, mask)


def drawn_class(
    logits: torch.Tensor, generator: torch.Generator, mask: torch.Tensor | None = None
) -> Scalar | None:
    """Σ over samples of the cross-entropy of a class drawn from the softmax of the logits, (N, …, classes)."""
    if not logits.requires_grad:
        return None
    kept = _unmasked(logits, mask).flatten(0, -2)
    kept = kept.to(torch.promote_types(kept.dtype, torch.float32))
    likely = kept.log() if _are_probabilities(kept.detach()) else kept.log_softmax(-1)
    # Drawn on the CPU, so that every device sees the same classes.
    drawn = torch.multinomial(likely.detach().exp().cpu(), 1, generator=generator).to(likely.device)
    return Scalar(-likely.gather(1, drawn).sum(), len(kept), "a class drawn from the network's softmax")


def random_direction(outputs: Any, generator: torch.Generator, mask: torch.Tensor | None = None) -> Scalar | None:
    """Σ over all outputs of vᵀ·output with v ~ N(0, I); a sample is one of the first axis."""
    tensors = [tensor for tensor in _tensors(outputs) if tensor.requires_grad and tensor.dim() > 0]
    if not tensors:
        return None
    value = torch.zeros((), device=tensors[0].device)
    for tensor in tensors:
        kept = _unmasked(tensor, mask)
        kept = kept.to(torch.promote_types(kept.dtype, torch.float32))
        direction = torch.randn(kept.shape, generator=generator, dtype=kept.dtype)
        value = value + (kept * direction.to(kept.device)).sum()
    return Scalar(value, len(tensors[0]), "a random direction of the output")


def of_user(scalar: UserScalar, outputs: Any, generator: torch.Generator) -> Scalar | None:
    """A scalar that somebody else has chosen; a sample is one of the first axis of the first output."""
    value = scalar(outputs, generator)
    if not value.requires_grad:
        return None
    tensors = _tensors(outputs)
    return Scalar(value, len(tensors[0]) if tensors and tensors[0].dim() else 1, "given")


def _are_logits(tensor: Any, *, alone: bool) -> bool:
    if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point() or tensor.dim() < 2:
        return False
    return tensor.shape[-1] > 1 and (not alone or tensor.dim() <= 3)


def _are_probabilities(rows: torch.Tensor) -> bool:
    ones = torch.ones((), dtype=rows.dtype, device=rows.device)
    return bool((rows > 0).all()) and torch.allclose(rows.sum(-1), ones, atol=1e-3)


def _unmasked(tensor: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """The unmasked tokens in one row where the mask is one of the tensor's, else the tensor."""
    if mask is None or tensor.dim() < 3 or tensor.shape[: mask.dim()] != mask.shape:
        return tensor
    return tensor[mask.to(tensor.device).bool()]


def _tensors(outputs: Any) -> list[torch.Tensor]:
    """The floating-point tensors of an output, not those deeper in it (states of layers, caches)."""
    if isinstance(outputs, torch.Tensor):
        outputs = (outputs,)
    values = outputs.values() if isinstance(outputs, Mapping) else outputs
    if not isinstance(values, tuple | list) and not isinstance(outputs, Mapping):
        return []
    return [value for value in values if isinstance(value, torch.Tensor) and value.is_floating_point()]
