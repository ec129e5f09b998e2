"""Checkpoints that carry their own graph: they run, and take their compressed weights back, without model code."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rmt_compress.checkpoints.base import Checkpoint

if TYPE_CHECKING:
    import torch
    from torch import nn

    from rmt_compress.layers.low_rank import Factors
    from rmt_compress.layers.matrix_view import Layer


class GraphEditor(Protocol):
    """A copy of a graph in which layers are exchanged one by one."""

    def replace(self, layer: Layer, factors: Factors) -> None:
        """Put two layers in the place of every use of `layer`'s weight; the bias goes to the second."""
        ...

    def assign(self, layer: Layer, weight: torch.Tensor) -> None:
        """Give `layer` another weight of the same shape."""
        ...

    def write(self, path: Path, *, metadata: dict[str, str]) -> None:
        """Write the graph to exactly this path; the caller sees to replacing an older file in one step."""
        ...


class GraphCheckpoint(Checkpoint):
    """A file whose graph says how its tensors are used.

    `layers` is read off the graph: a weight is what a product or convolution takes, whatever it is called.

    Attributes:
        suffixes: the file names under which the same format is written.
    """

    suffixes: tuple[str, ...]

    @abstractmethod
    def editor(self) -> GraphEditor:
        """A fresh editable copy of the graph."""

    @abstractmethod
    def module(self) -> nn.Module:
        """The graph as a module that takes the network's input and returns its output, in evaluation mode."""
