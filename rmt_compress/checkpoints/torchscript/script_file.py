"""Archives of `torch.jit.save`: weights read and exchanged as data, the program in them never compiled.

`torch.jit.load` is not safe against a hostile file: it compiles the file's program and runs the parts of it that
restore objects, and operators it may call open files (``aten::from_file`` maps one for writing); torch's own
documentation warns of it. Names and places of the tensors are therefore read off the archive's pickle by
`read_script_pickle`, which calls nothing, and values from its raw records. To write, the values are put in the
place of the old ones and every other record is copied byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rmt_compress.checkpoints.archives import Archive, Record, write_archive
from rmt_compress.checkpoints.graph import GraphCheckpoint, StoredFactors, WrittenGraph
from rmt_compress.checkpoints.raw_tensors import RawTensor
from rmt_compress.checkpoints.torchscript.script_pickles import ScriptObject, ScriptPickleError, read_script_pickle
from rmt_compress.errors import CheckpointError, CompressionError
from rmt_compress.layers.inference import infer_layers
from rmt_compress.layers.kinds import kind_of
from rmt_compress.layers.layer import Layer, TensorInfo

if TYPE_CHECKING:
    import torch

    from rmt_compress.checkpoints.graph_network import GraphNetwork
    from rmt_compress.layers.splitting import Factors
    from rmt_compress.plan import Layout

_WHAT = "a TorchScript archive"
_EXTRA = "extra/"
_MAX_CODE = 2**24
# Modules that share modules may have more names than there is memory for.
_MAX_NAMES = 300_000

_CLASS = re.compile(r"^class (\w+)\(Module\):\n((?:(?:  .*)?\n)*)", re.M)
_PARAMETERS = re.compile(r"^  __parameters__ = \[(.*?)\]", re.M)
_BUFFERS = re.compile(r"^  __buffers__ = \[(.*?)\]", re.M)
_GROUPS = re.compile(r"^  groups : Final\[int\] = (\d{1,9})$", re.M)
_MANGLED = re.compile(r"\.___torch_mangle_\d+")
_STOCK = "__torch__.torch.nn.modules."


class _Class(NamedTuple):
    """What the program says of one class of modules."""

    parameters: frozenset[str]
    buffers: frozenset[str]
    groups: int


class _Owner(NamedTuple):
    """The module a tensor belongs to."""

    kind: str
    known: _Class | None
    attribute: str


class TorchScriptFile(GraphCheckpoint):
    """One file of `torch.jit.save`; names are those of the module's state dict.

    `metadata` holds the texts saved as its extra files. Its program may only be run where `trust` says so.
    """

    suffixes = (".pt", ".pth", ".jit", ".ts", ".torchscript", ".ptl")
    why_no_onnx = "torch turns no TorchScript program into ONNX"

    def __init__(self, path: Path, *, trust: bool = False) -> None:
        self.path: Path = path
        self.format = "TorchScript"
        self._trust = trust
        self.archive = Archive(path, _WHAT)
        self.archive.check_byte_order()
        self._classes: dict[str, dict[str, _Class]] = {}
        self._owners: dict[str, _Owner] = {}
        self.places: dict[str, RawTensor] = {}
        try:
            self._collect(read_script_pickle(bytes(self.archive.read("data.pkl"))))
            self._infos = {name: place.describe(name, self.archive) for name, place in self.places.items()}
        except (ScriptPickleError, TypeError, ValueError) as error:
            raise self.archive.damaged(str(error)) from error
        self._ties: dict[str, tuple[str, ...]] = {}
        firsts: dict[RawTensor, str] = {}
        for name, place in self.places.items():
            if (first := firsts.setdefault(place, name)) != name:
                self._ties[first] = (*self._ties.get(first, ()), name)
        self._texts = self.archive.texts(_EXTRA)
        self.metadata = dict(self._texts)
        self.notes = (
            "TorchScript is deprecated in torch 2.13 in favour of torch.export. Its layers keep their shapes: "
            "--layout dense writes TorchScript again, the factorized layout a state dict.",
        )
        self._adopt_manifest()

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Parameters and buffers in the order of the archive."""
        return self._infos

    @property
    def ties(self) -> Mapping[str, tuple[str, ...]]:
        """First name of a shared tensor -> its other names."""
        return self._ties

    def read(self, name: str) -> torch.Tensor:
        """A copy of the tensor called `name`, on the CPU."""
        info = self._info(name)
        tensor = self.places[name].read(self.archive)
        return tensor if info.why_skipped else tensor.contiguous()

    def layers(self) -> tuple[Layer, ...]:
        """The layers formed by the tensors; kinds and groups are those of torch's own modules in the program."""
        layers = infer_layers(self.tensors, self.ties, pairs=False)
        return tuple(self._as_its_module_says(layer) for layer in layers)

    def holds(self, layout: Layout) -> bool:
        """Whether the format can hold what a layout makes of the weights: the program knows each by its shape."""
        return layout == "dense"

    def editor(self) -> TorchScriptEditor:
        """A fresh editable copy, in which weights can change but no layer can be split."""
        return TorchScriptEditor(self)

    def own_network(self) -> GraphNetwork:
        """The program as a module; run only where the file is trusted."""
        if not self._trust:
            raise CheckpointError(
                f"{self.path}: is a TorchScript program, and to run it is to run code from the file; if you trust "
                "it, add --trust (open_checkpoint(…, trust=True))"
            )
        from rmt_compress.checkpoints.torchscript.script_network import ScriptedNetwork

        return ScriptedNetwork(self)

    def records(self, storages: Mapping[str, bytearray], texts: Mapping[str, str]) -> Iterator[Record]:
        """The records of a file with other values and other texts."""
        for name in self.archive.names:
            if name in storages:
                yield Record(self.archive.root + name, storages[name])
            elif name.removeprefix(_EXTRA) not in self._texts or not name.startswith(_EXTRA):
                yield from self.archive.copies([name])
        for name, text in texts.items():
            yield Record(f"{self.archive.root}{_EXTRA}{name}", text.encode())

    def _collect(self, root: ScriptObject) -> None:
        """Names and places of the tensors of `root` and of the modules in it."""
        waiting: list[tuple[str, ScriptObject, frozenset[int]]] = [("", root, frozenset())]
        seen = 0
        while waiting:
            prefix, module, above = waiting.pop()
            known = self._class_of(module.kind)
            inner = []
            for attribute, value in module.attributes.items():
                seen += 1
                if seen > _MAX_NAMES:
                    raise ScriptPickleError(f"its modules hold each other so often that there are {seen:,} names")
                name = prefix + attribute
                if isinstance(value, RawTensor):
                    if known is None or attribute in known.parameters | known.buffers:
                        self.places[name] = value
                        self._owners[name] = _Owner(_MANGLED.sub("", module.kind), known, attribute)
                elif isinstance(value, ScriptObject):
                    if id(value) in above or value is module:
                        raise ScriptPickleError("one of its modules holds itself")
                    inner.append((f"{name}.", value, above | {id(module)}))
            waiting += reversed(inner)

    def _class_of(self, kind: str) -> _Class | None:
        """What the program's text says of a class; None where it is not found."""
        path, _, name = kind.rpartition(".")
        if path not in self._classes:
            record = f"code/{path.replace('.', '/')}.py"
            classes = {}
            if record in self.archive and self.archive.size(record) <= _MAX_CODE:
                for found in _CLASS.finditer(self.archive.text(record)):
                    groups = _GROUPS.search(found[2])
                    classes[found[1]] = _Class(
                        _listed(_PARAMETERS, found[2]), _listed(_BUFFERS, found[2]), int(groups[1]) if groups else 1
                    )
            self._classes[path] = classes
        return self._classes[path].get(name)

    def _as_its_module_says(self, layer: Layer) -> Layer:
        owner = self._owners[layer.stored]
        if layer.kind == "vector" or layer.why_skipped is not None:
            return layer
        if owner.known is not None and owner.attribute in owner.known.buffers:
            return replace(layer, why_skipped="a buffer, not a learned weight")
        if not owner.kind.startswith(_STOCK):
            return layer
        kind = kind_of({owner.kind.rpartition(".")[2]}, owner.attribute)
        if kind is None:
            return layer
        groups = owner.known.groups if owner.known else 1
        return replace(layer, kind=kind, groups=groups, by_class=True, why_unknown=None)


class TorchScriptEditor:
    """A copy of a TorchScript archive in which weights are given other values; see `GraphEditor`."""

    def __init__(self, checkpoint: TorchScriptFile) -> None:
        self._checkpoint = checkpoint
        self._storages: dict[str, bytearray] = {}

    def replace(self, layer: Layer, factors: Factors) -> StoredFactors:
        """Refused: the program calls for one weight where the factors are two."""
        del factors
        raise CompressionError(f"{layer.tensor}: TorchScript keeps every layer in one piece; use the layout dense")

    def assign(self, layer: Layer, weight: torch.Tensor) -> None:
        """Give the weight other values, under all its names."""
        place = self._checkpoint.places[layer.tensor]
        if place.record not in self._storages:
            self._storages[place.record] = self._checkpoint.archive.read(place.record)
        place.view(self._storages[place.record]).copy_(weight)

    def write(self, path: Path, *, target: Path, metadata: dict[str, str], sparse: bool) -> WrittenGraph:
        """Write the archive; nothing in it is stored sparse."""
        del target, sparse
        write_archive(path, self._checkpoint.records(self._storages, metadata))
        return WrittenGraph()


def _listed(pattern: re.Pattern[str], body: str) -> frozenset[str]:
    found = pattern.search(body)
    return frozenset(re.findall(r'"(.*?)"', found[1])) if found else frozenset()
