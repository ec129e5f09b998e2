"""The graph of a checkpoint as a module whose weights can be exchanged under the names they have in the file."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from rmt_compress.checkpoints.graph_inputs import Feeds, GraphInput, Parts, matched
from rmt_compress.layers.layer import FLOAT_DTYPES

if TYPE_CHECKING:
    from rmt_compress.checkpoints.base import Checkpoint
    from rmt_compress.layers.layer import Layer

_NO_PRODUCTS = ("vector", "embedding", "unknown")


class GraphNetwork(nn.Module):
    """A network that runs by the graph of its checkpoint.

    Its parameters are the checkpoint's floating-point tensors, under their own names: whoever gives one another
    value (its ``data``), changes what the network computes. `open_checkpoint` of it is the checkpoint itself.

    Attributes:
        inputs: what the graph takes.
    """

    inputs: tuple[GraphInput, ...] = ()

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        self.checkpoint = checkpoint
        for name, info in checkpoint.tensors.items():
            if info.dtype in FLOAT_DTYPES:
                # `register_parameter` refuses dots, which the names of tensors are full of.
                self._parameters[name] = nn.Parameter(checkpoint.read(name), requires_grad=False)
        self.eval()

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """The network's outputs for one batch: a tensor, of several outputs a mapping from their names.

        Of a TorchScript program what that returns, a tuple too.

        Inputs are taken in the order of the graph or by its names, see `graph_inputs.matched`. A graph whose batch
        size is fixed gets larger and smaller batches piece by piece.

        Raises:
            ValueError: these inputs are not what the graph takes.
        """
        parts = self._parts(inputs, named)
        return parts.joined([self._outputs(part) for part in parts])

    def _parts(self, given: Sequence[Any], named: Mapping[str, Any]) -> Parts:
        return Parts(self.inputs, matched(self.inputs, given, named))

    @abstractmethod
    def _outputs(self, feeds: Feeds) -> Any:
        """The outputs for inputs by their names, as many as the graph takes at once."""

    @abstractmethod
    def multiply_adds(self, inputs: Any) -> int:
        """Multiply-adds of all products with weights and all convolutions in one pass.

        Args:
            inputs: a tensor, a tuple or a mapping, as the network is called with them.
        """

    @property
    def input_shape(self) -> tuple[int, ...] | None:
        """The shape of one sample, where all that the graph takes are numbers of one shape that it tells."""
        given = [entry for entry in self.inputs if not entry.made and not entry.optional]
        if len(given) != 1 or given[0].dtype is None or not given[0].dtype.is_floating_point:
            return None
        lengths = [length for length in (given[0].shape or ())[1:] if length is not None]
        return tuple(lengths) if lengths and len(lengths) == len(given[0].shape or ()) - 1 else None

    @property
    def first_layer(self) -> Layer | None:
        """The layer that is applied first, vectors and tables left out: of a program the first of its file."""
        return next((layer for layer in self.checkpoint.layers() if layer.kind not in _NO_PRODUCTS), None)

    @property
    def vocabulary(self) -> int | None:
        """How many tokens the network knows: rows of the table its first input is looked up in, where one is."""
        return None
