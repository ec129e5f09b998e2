"""Checkpoints that carry their own graph: they run, and take their compressed weights back, without model code."""

from __future__ import annotations

import re
from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from rmt_compress.checkpoints.base import Checkpoint
from rmt_compress.checkpoints.keys import MANIFEST_KEY
from rmt_compress.layers.inference import infer_layers

if TYPE_CHECKING:
    import torch

    from rmt_compress.checkpoints.graph_network import GraphNetwork
    from rmt_compress.layers.layer import Layer
    from rmt_compress.layers.splitting import Factors


class StoredFactors(NamedTuple):
    """Names of the two tensors in which an editor has put the factors of a weight.

    Transposed they are stored (in, r) and (r, out), as a product with the weight on the right takes them.
    """

    down: str
    up: str
    transposed: bool = False


class WrittenGraph(NamedTuple):
    """What an editor has written beside the graph itself.

    Attributes:
        sparse: names of the tensors in a sparse encoding.
        beside: further files, which get their names together with the graph's.
        outdated: what the names of such files match that an older graph has left, of no use once it is replaced.
        notes: what the user should know, one sentence each.
    """

    sparse: tuple[str, ...] = ()
    beside: tuple[Path, ...] = ()
    outdated: re.Pattern[str] | None = None
    notes: tuple[str, ...] = ()


class GraphEditor(Protocol):
    """A copy of a graph in which layers are exchanged one by one."""

    def replace(self, layer: Layer, factors: Factors) -> StoredFactors:
        """Put two layers in the place of every use of `layer`'s weight; the bias goes to the second."""
        ...

    def assign(self, layer: Layer, weight: torch.Tensor) -> None:
        """Give `layer` another weight of the same shape."""
        ...

    def write(self, path: Path, *, target: Path, metadata: dict[str, str], sparse: bool) -> WrittenGraph:
        """Write the graph to exactly `path`.

        Args:
            path: a temporary file of `outputs.replacing`, within a block of `outputs.together`.
            target: the name it is going to get. Files beside it must not replace older ones of that name.
            metadata: text entries for the file.
            sparse: whether tensors with many zeros may be stored in a sparse encoding.

        Raises:
            OutputError: the format cannot hold the graph.
        """
        ...


class GraphCheckpoint(Checkpoint):
    """A file whose graph says how its tensors are used.

    `layers` is read off the graph: a weight is what a product or convolution takes, whatever it is called (see
    `Layer.in_graph`). Of a file that this package compressed the tensors are those of the compressed graph.
    """

    has_graph = True

    def layers(self) -> tuple[Layer, ...]:
        """One layer per tensor: the graph takes it whole, and its editor gives it back whole."""
        return infer_layers(self.tensors, self.ties, pairs=False, packed=False)

    @abstractmethod
    def editor(self) -> GraphEditor:
        """A fresh editable copy of the graph."""

    @abstractmethod
    def own_network(self) -> GraphNetwork:
        """The graph as a module that takes the network's input and returns its output, in evaluation mode."""

    def _adopt_manifest(self) -> None:
        """Take this package's manifest, if there is one, out of `metadata`, and hold the tensors against it.

        Quantizers and optimizers copy the text of a graph whose tensors they exchange: then there is none.
        """
        if MANIFEST_KEY not in self.metadata:
            return
        # Takes a while to import, and most files have no manifest.
        from rmt_compress.checkpoints.manifest import Manifest

        texts = {key: text for key, text in self.metadata.items() if key != MANIFEST_KEY}
        manifest = Manifest.from_json(self.metadata[MANIFEST_KEY], origin=str(self.path), metadata=texts)
        self.metadata = texts
        difference = manifest.not_in(self.tensors)
        if difference is not None:
            self.notes = (*self.notes, manifest.no_longer_holds(difference))
            return
        self.manifest = manifest
        self.format = f"{self.format}, compressed"
        self.notes = (*self.notes, manifest.sentence())
