"""Programs of `torch.export.save` (``.pt2``), read and written as data.

`torch.export.load` runs code from the file: it unpickles sample inputs, custom objects and some weights without
restriction, hands symbolic shapes to sympy's evaluator and guards to Python's, and resolves any dotted name below
``torch`` as an operator (seen in torch 2.13; its documentation warns of untrusted files). So it is never called
here, neither to read nor to write nor to run: JSON is edited, raw values are exchanged, and everything
else (constants, sample inputs, guards) is copied byte for byte, unread.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rmt_compress.checkpoints.archives import Archive, Record, write_archive
from rmt_compress.checkpoints.exported.program_editor import GraphSurgery
from rmt_compress.checkpoints.exported.program_graph import Graph, Json
from rmt_compress.checkpoints.exported.program_weights import ExportedWeights, PackedWeights, RawWeights, read_json
from rmt_compress.checkpoints.graph import GraphCheckpoint, StoredFactors, WrittenGraph
from rmt_compress.errors import CheckpointError
from rmt_compress.layers.inference import infer_layers
from rmt_compress.layers.kinds import KINDS
from rmt_compress.layers.layer import Layer, TensorInfo
from rmt_compress.layers.packed import unpacked
from rmt_compress.layers.splitting import factor_names, is_weight
from rmt_compress.wording import printable

if TYPE_CHECKING:
    import torch

    from rmt_compress.checkpoints.exported.program_network import ExportedNetwork
    from rmt_compress.layers.splitting import Factors

_WHAT = "a torch.export archive"
_EXTRA = "extra/"
_COMPILED = "data/aotinductor/"
_OLD_PROGRAM, _OLD_WEIGHTS = "serialized_exported_program.json", "serialized_state_dict.pt"
_OLD_CONSTANTS = "serialized_constants.pt"
_OLD_EXTRA = "extra_files/"


class ExportedProgramFile(GraphCheckpoint):
    """One file of `torch.export.save`: the layout of torch 2.9 and later, or one of the two before it.

    `metadata` holds the texts saved as its extra files.
    """

    suffixes = (".pt2",)

    def __init__(self, path: Path) -> None:
        self.path: Path = path
        self.format = "torch.export"
        self.archive = Archive(path, _WHAT)
        self.archive.check_byte_order()
        self._record = self._find_program()
        self._weights = self._find_weights()
        try:
            program = self.program()
            self.graph = Graph(program)
            layers = map(self._layer, infer_layers(self.tensors, self.ties, pairs=False, packed=False))
            # A product takes a tensor as one matrix, whatever its name; the gates of a recurrent layer are several.
            self._layers = tuple(
                part
                for layer in layers
                for part in (unpacked(layer, self.tensors, layer.tensor) if layer.kind == "recurrent" else (layer,))
            )
            version = str(program.get("torch_version") or "an older version")
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError) as error:
            raise self.archive.damaged(f"its graph: {type(error).__name__} {printable(str(error), 100)}") from error
        self._extra = _EXTRA if self._record != _OLD_PROGRAM else _OLD_EXTRA
        self._texts = self.archive.texts(self._extra)
        self.metadata = dict(self._texts)
        notes = [f"Exported by torch {version}; read as data, nothing of it was run."]
        if any(name.startswith(_COMPILED) for name in self.archive.names):
            notes.append("Its compiled code (AOTInductor) holds the old weights: a compressed file leaves it out.")
        self.notes = tuple(map(printable, notes))
        self._adopt_manifest()

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Parameters and buffers in the file's order; constants of the graph are no part of it."""
        return self._weights.infos

    @property
    def ties(self) -> Mapping[str, tuple[str, ...]]:
        """First name of a shared tensor -> its other names."""
        return self._weights.ties

    def read(self, name: str) -> torch.Tensor:
        """A copy of the tensor called `name`, on the CPU."""
        self._info(name)
        return self._weights.read(name)

    def layers(self) -> tuple[Layer, ...]:
        """One layer per tensor; kinds, groups and biases as the graph uses them."""
        return self._layers

    def editor(self) -> ExportedProgramEditor:
        """A fresh editable copy of the program."""
        return ExportedProgramEditor(self)

    def own_network(self) -> ExportedNetwork:
        """The graph as a module, run operator by operator; one that is not for untrusted files is refused."""
        from rmt_compress.checkpoints.exported.program_network import ExportedNetwork

        return ExportedNetwork(self, self.graph, self.program(), self.constants(), self.archive.damaged)

    def program(self) -> Json:
        """The stored program, parsed afresh."""
        return read_json(self.archive, self._record)

    def constants(self) -> dict[str, torch.Tensor]:
        """Tensors of the graph that are no part of its state: constants, and buffers that are not persistent."""
        held: ExportedWeights
        name = self._record.removeprefix("models/").removesuffix(".json")
        if self._record == _OLD_PROGRAM:
            held = PackedWeights(self.archive, _OLD_CONSTANTS)
        elif (packed := f"data/constants/{name}.pt") in self.archive:
            held = PackedWeights(self.archive, packed)
        else:
            held = RawWeights(self.archive, f"data/constants/{name}_constants_config.json", "data/constants/")
        return {name: held.read(name) for name in held.infos}

    def records(
        self, program: Json, changes: Mapping[str, dict[str, torch.Tensor]], texts: Mapping[str, str]
    ) -> Iterator[Record]:
        """The records of a file with another graph, other weights and other texts."""
        replaced = {self._record, *self._weights.records, *(self._extra + name for name in self._texts)}
        left = [name for name in self.archive.names if name not in replaced and not name.startswith(_COMPILED)]
        yield from self._weights.written(changes)
        yield Record(self.archive.root + self._record, json.dumps(program, allow_nan=False).encode())
        yield from self.archive.copies(left)
        for name, text in texts.items():
            yield Record(f"{self.archive.root}{self._extra}{name}", text.encode())

    def _find_program(self) -> str:
        if _OLD_PROGRAM in self.archive:
            return _OLD_PROGRAM
        models = [name for name in self.archive.names if name.startswith("models/") and name.endswith(".json")]
        if len(models) == 1:
            return models[0]
        if not models:
            raise CheckpointError(
                f"{self.path}: holds no exported program (compiled code or weights only); name the file of "
                "torch.export.save"
            )
        several = ", ".join(name.removeprefix("models/") for name in models[:6])
        raise CheckpointError(f"{self.path}: holds several programs ({several}); save the one you mean by itself")

    def _find_weights(self) -> ExportedWeights:
        if self._record == _OLD_PROGRAM:
            return PackedWeights(self.archive, _OLD_WEIGHTS)
        name = self._record.removeprefix("models/").removesuffix(".json")
        if (packed := f"data/weights/{name}.pt") in self.archive:
            return PackedWeights(self.archive, packed)
        return RawWeights(self.archive, f"data/weights/{name}_weights_config.json", "data/weights/")

    def _layer(self, layer: Layer) -> Layer:
        """What the graph says of one tensor, instead of what its name and shape suggest."""
        if layer.why_skipped is not None or len(layer.shape) < 2:
            return layer
        names = (layer.tensor, *layer.aliases)
        if any(name in self.graph.buffers for name in names):
            return replace(layer, why_skipped="a buffer, not a learned weight")
        uses = [use for name in names for use in self.graph.uses(name)]
        kinds = dict.fromkeys(use.kind for use in uses)
        others = sorted({self._operator(use.node) for use in uses if use.kind is None})
        known = [kind for kind in kinds if kind is not None]
        # A table tied to an output head is a product as well, and its matrix acts as one.
        known.sort(key=lambda kind: kind == "embedding")
        if not known:
            reason = f"used by {', '.join(others)}, no product or convolution" if uses else "not used by the graph"
            return replace(layer, why_skipped=reason)
        kind = known[0]
        if len(layer.shape) != KINDS[kind].axes:
            return replace(layer, why_skipped=f"of {len(layer.shape)} dimensions, but used as {kind} by the graph")
        whole = next((refusal for name in names if (refusal := self.graph.refusal(name))), None)
        if others:
            whole = f"used by {', '.join(others)} too"
        elif len(known) > 1:
            whole = f"used as {known[1]} too"
        by_value = {value: name for name, value in self.graph.placeholders.items()}
        return replace(
            layer,
            kind=kind,
            bias=by_value.get(self.graph.own_bias(uses) or ""),
            groups=max(use.groups for use in uses),
            why_whole=whole,
            why_unknown=None,
            in_graph=True,
        )

    def _operator(self, node: int) -> str:
        return str(self.graph.nodes[node]["target"]).removeprefix("torch.ops.")


class ExportedProgramEditor:
    """A copy of an exported program in which layers are exchanged one by one; see `GraphEditor`."""

    def __init__(self, checkpoint: ExportedProgramFile) -> None:
        self._checkpoint = checkpoint
        self._program = checkpoint.program()
        self._surgery = GraphSurgery(self._program)
        self._changes: dict[str, dict[str, torch.Tensor]] = {}

    def replace(self, layer: Layer, factors: Factors) -> StoredFactors:
        """Two nodes for every node that takes the weight; the bias stays with the second, under its own name."""
        transposed = layer.kind == "linear_transposed"
        down, up = (part.T.contiguous() if transposed else part for part in factors)
        names = factor_names(layer.tensor if is_weight(layer.tensor) else f"{layer.tensor}.weight")[:2]
        if taken := [name for name in names if name in self._checkpoint.tensors]:
            raise CheckpointError(
                f"{self._checkpoint.path}: {taken[0]} is there already; leave {layer.name} out (exclude)"
            )
        self._surgery.split(layer, names, (tuple(down.shape), tuple(up.shape)))
        self._changes[layer.tensor] = dict(zip(names, (down, up), strict=True))
        return StoredFactors(*names, transposed=transposed)

    def assign(self, layer: Layer, weight: torch.Tensor) -> None:
        """Give the weight other values, under all its names."""
        for name in (layer.tensor, *layer.aliases):
            self._changes[name] = {name: weight}

    def write(self, path: Path, *, target: Path, metadata: dict[str, str], sparse: bool) -> WrittenGraph:
        """Write the archive; nothing in it is stored sparse."""
        del target, sparse
        self._surgery.finish()
        write_archive(path, self._checkpoint.records(self._program, self._changes, metadata))
        return WrittenGraph()
