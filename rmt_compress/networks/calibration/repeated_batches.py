"""Batches of inputs: how a network is called with one, and which tokens of it are padding."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import TYPE_CHECKING, Any

from rmt_compress.errors import DataError
from rmt_compress.networks.calling import call as plainly
from rmt_compress.networks.calling import placed
from rmt_compress.networks.measurement import placement
from rmt_compress.wording import one_line

if TYPE_CHECKING:
    import torch
    from torch import nn

Call = Callable[["nn.Module", Any], Any]
"""How a network is called with one batch of inputs; returns its outputs."""


def shown_name(model: nn.Module) -> str:
    """What an error calls a network: its file, where it is a graph."""
    from rmt_compress.checkpoints.graph_network import GraphNetwork

    return str(model.checkpoint.path) if isinstance(model, GraphNetwork) else type(model).__name__


class Batches:
    """Inputs that are gone over once or several times.

    Args:
        batches: the inputs; an iterator is gone over once only.
        model: where they go to, and whose float type they get.
        call: None for `calling.call`.
    """

    def __init__(self, batches: Iterable[Any], model: nn.Module, call: Call | None) -> None:
        self._batches = batches
        self._model = model
        self._call = call or plainly
        self._place = placement(model)
        self._passes = 0
        self.count = len(batches) if isinstance(batches, Sized) else None
        start = iter(batches)
        try:
            self.first = next(start)
        except StopIteration:
            raise DataError("there are no calibration inputs: the batches are empty") from None
        # What has been taken off an iterator would else be lost.
        self._rest = start if start is batches else None

    def once_over(self) -> Iterator[Any]:
        """All batches, where the network is.

        Raises:
            DataError: of an iterator, the second time.
        """
        self._passes += 1
        if self._rest is None:
            yield from (self.placed(batch) for batch in self._batches)
        elif self._passes == 1:
            yield from (self.placed(batch) for batch in itertools.chain([self.first], self._rest))
        else:
            raise DataError(
                "the calibration inputs are an iterator and must be gone over several times; give a list, or an "
                "object that can be iterated again"
            )

    def placed(self, inputs: Any) -> Any:
        """Inputs on the device of the network, floating-point ones in its type."""
        return placed(inputs, *self._place)

    def ask(self, inputs: Any) -> Any:
        """The network's outputs.

        Raises:
            DataError: it does not take these inputs.
        """
        try:
            return self._call(self._model, inputs)
        # The network is the user's own code; these are what wrong shapes and arguments end in.
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise DataError(
                f"{shown_name(self._model)} cannot be run on calibration inputs {described(inputs)}: "
                f"{one_line(error)[:300]}; give inputs as the network is called with them"
            ) from error


def described(inputs: Any) -> str:
    """Shapes and types of inputs in a few words."""
    import torch

    if isinstance(inputs, torch.Tensor):
        return f"{'×'.join(map(str, inputs.shape))} {str(inputs.dtype).removeprefix('torch.')}"
    if isinstance(inputs, Mapping):
        return "{" + ", ".join(f"{key}: {described(value)}" for key, value in inputs.items()) + "}"
    if isinstance(inputs, tuple | list):
        return "(" + ", ".join(map(described, inputs)) + ")"
    return type(inputs).__name__


class Padding:
    """The tokens of a batch that count, where its inputs say so (``attention_mask`` and its like)."""

    def __init__(self, inputs: Any) -> None:
        import torch

        named = inputs if isinstance(inputs, Mapping) else {}
        self._masks = [
            value.detach()
            for key, value in sorted(named.items(), key=lambda item: "decoder" in str(item[0]))
            if str(key).endswith("attention_mask") and isinstance(value, torch.Tensor) and value.dim() == 2
        ]

    def of_output(self) -> torch.Tensor | None:
        """The mask, (N, T), of the output's tokens: of what is decoded, where there are several."""
        return self._masks[-1] if self._masks else None

    def kept(self, vectors: torch.Tensor) -> torch.Tensor:
        """The vectors of unmasked tokens out of (N, T, n), or (N·T, n); others as they are."""
        for mask in self._masks:
            if vectors.dim() == 3 and vectors.shape[:2] == mask.shape:
                return vectors[mask.to(vectors.device).bool()]
            if vectors.dim() == 2 and len(vectors) == mask.numel() > 1:
                return vectors[mask.to(vectors.device).bool().flatten()]
        return vectors
