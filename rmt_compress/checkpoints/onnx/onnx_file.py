"""``.onnx`` files: the graph is read on opening, tensors in files beside it one at a time."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from rmt_compress.checkpoints.graph import GraphCheckpoint
from rmt_compress.checkpoints.onnx.onnx_graph import OnnxGraph, StoredTensor
from rmt_compress.checkpoints.onnx.onnx_layers import Weight, find_weights
from rmt_compress.checkpoints.onnx.onnx_tensors import nbytes, read_sparse, read_tensor
from rmt_compress.checkpoints.recognition import unreadable
from rmt_compress.errors import CheckpointError, MissingDependencyError
from rmt_compress.layers.layer import Layer, TensorInfo
from rmt_compress.wording import printable

if TYPE_CHECKING:
    import torch
    from onnx import ModelProto

    from rmt_compress.checkpoints.graph import GraphEditor
    from rmt_compress.checkpoints.graph_network import GraphNetwork

# What protobuf can hold in one piece.
LARGEST_FILE = 2**31 - 1


class OnnxFile(GraphCheckpoint):
    """One ONNX model, with the files its tensors are in.

    A tensor is called as in the model; where graphs inside an If or a Loop have tensors of one name, the later ones
    get a number. Its shape is that in which its node takes it, see `layers`.
    """

    suffixes = (".onnx",)

    def __init__(self, path: Path) -> None:
        self.path: Path = path
        model = load_graph(path)
        self._graph = OnnxGraph(model, path)
        self._weights = find_weights(self._graph)
        opset = self._graph.opset
        self.format = f"ONNX (opset {opset})" if opset else "ONNX"
        self.metadata = {entry.key: entry.value for entry in model.metadata_props}
        self.notes = ()
        if model.functions:
            names = ", ".join(function.name for function in list(model.functions)[:4])
            self.notes = (
                printable(f"Weights inside its {len(model.functions)} functions ({names}) are left alone."),
            )
        self._tensors = {
            key: TensorInfo(
                key,
                weight.layer.shape,
                weight.layer.dtype,
                nbytes(weight.stored.dims, weight.stored.data_type),
                weight.layer.why_skipped,
            )
            for key, weight in self._weights.items()
        }
        self._adopt_manifest()

    @property
    def files(self) -> tuple[Path, ...]:
        """The model, and the files beside it that its tensors are in."""
        beside = {stored.external.file: None for stored in self._graph.tensors.values() if stored.external}
        return (self.path, *beside)

    def layers(self) -> tuple[Layer, ...]:
        """One per tensor that may be a weight or is learned, as the nodes that take it say."""
        return tuple(weight.layer for weight in self._weights.values())

    def read(self, name: str) -> torch.Tensor:
        """A copy of the tensor called `name`, in the shape its node takes it."""
        self._info(name)
        weight = self._weights[name]
        return weight.listed.apply(self.stored_values(weight.stored))

    def stored_values(self, stored: StoredTensor) -> torch.Tensor:
        """The values of one of the model's tensors as they are stored."""
        if stored.sparse is not None:
            return read_sparse(stored.sparse, self.path, stored.name)
        assert stored.proto is not None
        return read_tensor(stored.proto, stored.external, self.path, stored.name)

    @property
    def graph(self) -> OnnxGraph:
        """The model's graphs; not to be changed."""
        return self._graph

    @property
    def weights(self) -> Mapping[str, Weight]:
        """What is known of every tensor that is listed."""
        return self._weights

    def editor(self) -> GraphEditor:
        """A fresh editable copy of the graph."""
        from rmt_compress.checkpoints.onnx.onnx_editor import OnnxEditor

        return OnnxEditor(self._graph)

    def own_network(self) -> GraphNetwork:
        """The graph as a module that onnxruntime runs; it must take one input."""
        if find_spec("onnxruntime") is None:
            raise MissingDependencyError("onnxruntime", "onnx", "running an ONNX file")
        from rmt_compress.checkpoints.onnx.onnx_network import OnnxNetwork

        return OnnxNetwork(self, self._graph, self._weights)


def load_graph(path: Path) -> ModelProto:
    """The model in a file, without the tensors that are in files beside it."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # stubs are another package

    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > LARGEST_FILE:
                raise CheckpointError(
                    f"{path}: {size:,} bytes, and an ONNX model holds 2 GB at most beside external data; export "
                    "it again with external data"
                )
            content = file.read()
    except OSError as error:
        raise unreadable(path, error) from error
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except (DecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"{path}: truncated, damaged or no ONNX model: it is no sound protobuf message; export or download it "
            "again"
        ) from error
    if not model.HasField("graph") or not model.opset_import:
        what = "no graph" if not model.HasField("graph") else "no operator set"
        raise CheckpointError(f"{path}: truncated or no ONNX model: it names {what}; export or download it again")
    return model
