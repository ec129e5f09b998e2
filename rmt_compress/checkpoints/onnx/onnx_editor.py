"""An ONNX model in which weights are exchanged; everything that is not touched stays as it was, opset included."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rmt_compress.checkpoints.graph import StoredFactors, WrittenGraph
from rmt_compress.checkpoints.onnx.onnx_graph import OnnxGraph, Place
from rmt_compress.checkpoints.onnx.onnx_layers import Weight, find_weights
from rmt_compress.checkpoints.onnx.onnx_nodes import cast_node, split_node
from rmt_compress.checkpoints.onnx.onnx_tensors import NUMBERS, tensor_proto

if TYPE_CHECKING:
    import torch
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

    from rmt_compress.layers.layer import Layer
    from rmt_compress.layers.splitting import Factors

# Below this IR version every initializer is an input of its graph too.
_IR_OF_FREE_INITIALIZERS = 4


class OnnxEditor:
    """A copy of a model; values that are in files beside the original are copied on writing."""

    def __init__(self, original: OnnxGraph) -> None:
        from onnx import ModelProto

        model = ModelProto()
        model.CopyFrom(original.model)
        self._graph = OnnxGraph(model, original.path)
        self._weights = find_weights(self._graph)
        self._names = self._graph.names()
        # What is done to each graph, all at once in the end: places are numbers.
        self._new_nodes: dict[Place, list[NodeProto]] = {}
        self._gone_nodes: set[Place] = set()
        self._new_tensors: dict[int, list[TensorProto]] = {}
        self._gone_tensors: dict[int, set[str]] = {}
        self._gone_values: dict[int, set[str]] = {}
        self._edited: set[str] = set()
        self._zeros: dict[int, str] = {}

    def replace(self, layer: Layer, factors: Factors) -> StoredFactors:
        """Put two nodes in the place of every node that takes `layer`'s weight.

        Bias, alpha and beta go to the second. The factors are initializers of the weight's own graph, laid out
        as the nodes take the weight.
        """
        weight = self._weights[layer.tensor]
        number = weight.stored.graph
        transposed = weight.transposed
        names = StoredFactors(self._free(f"{layer.tensor}.down"), self._free(f"{layer.tensor}.up"), transposed)
        for name, factor in zip(names[:2], factors, strict=True):
            self._add_tensor(number, tensor_proto(name, factor.T if transposed else factor))
            self._edited.add(name)
        for use, view in ((used.use, used.view) for used in weight.uses):
            node = self._graph.node(use.place)
            parts: list[str] = []
            nodes: list[NodeProto] = []
            for name in names[:2]:
                parts.append(name)
                for to in view.casts:
                    nodes.append(cast_node(parts[-1], to, self._free))
                    parts[-1] = nodes[-1].output[0]
            data_type = (weight.stored.data_type, *view.casts)[-1]
            nodes += split_node(
                node,
                use.number,
                *parts,
                dimensions=len(layer.shape) - 2,
                opset=self._graph.opset,
                free=self._free,
                zero=partial(self._zero, data_type),
            )
            self._new_nodes[use.place] = nodes
        self._remove(weight)
        return names

    def assign(self, layer: Layer, weight: torch.Tensor) -> None:
        """Give `layer` another weight of the same shape."""
        stored = self._weights[layer.tensor].stored
        values = self._weights[layer.tensor].listed.undo(weight, stored.dims)
        proto = tensor_proto(stored.name, values)
        if stored.proto is not None:
            proto.doc_string = stored.proto.doc_string
            stored.proto.CopyFrom(proto)
        else:
            self._gone_tensors.setdefault(stored.graph, set()).add(stored.name)
            self._new_tensors.setdefault(stored.graph, []).append(proto)
        if stored.node is None:
            self._edited.add(stored.name)

    def finished(self) -> ModelProto:
        """The model with everything done to it; the editor is used up."""
        # From inside out: a graph is copied together with the node around it.
        for number in reversed(range(len(self._graph.graphs))):
            graph = self._graph.graphs[number]
            self._finish_tensors(graph, number)
            if any(place.graph == number for place in (*self._new_nodes, *self._gone_nodes)):
                self._finish_nodes(graph, number)
        return self._graph.model

    def write(self, path: Path, *, target: Path, metadata: dict[str, str], sparse: bool) -> WrittenGraph:
        """Write the model to exactly `path`, and large tensors to a new file beside it; see `GraphEditor`."""
        from rmt_compress.checkpoints.onnx.onnx_writing import write_model

        may_be_sparse = self._edited if sparse else set()
        return write_model(
            self.finished(), self._graph.path, path, target=target, metadata=metadata, may_be_sparse=may_be_sparse
        )

    def _free(self, wish: str) -> str:
        name, count = wish, 1
        while name in self._names:
            count += 1
            name = f"{wish}{count}"
        self._names.add(name)
        return name

    def _zero(self, data_type: int) -> str:
        """A tensor with a single zero in the main graph, where every other graph sees it."""
        import torch

        if data_type not in self._zeros:
            names = {number: name for name, number in NUMBERS.items()}
            self._zeros[data_type] = self._free("zero")
            dtype: torch.dtype = getattr(torch, names[data_type])
            self._add_tensor(0, tensor_proto(self._zeros[data_type], torch.zeros(1, dtype=dtype)))
        return self._zeros[data_type]

    def _add_tensor(self, number: int, proto: TensorProto) -> None:
        self._new_tensors.setdefault(number, []).append(proto)

    def _remove(self, weight: Weight) -> None:
        """Take a weight away whose every use has been replaced, with the nodes it passed through."""
        stored = weight.stored
        chain = {place for used in weight.uses for place in used.view.chain}
        self._gone_nodes |= chain
        for place in chain:
            self._gone_values.setdefault(place.graph, set()).update(self._graph.node(place).output)
        self._gone_values.setdefault(stored.graph, set()).add(stored.name)
        if stored.node is None:
            self._gone_tensors.setdefault(stored.graph, set()).add(stored.name)
        else:
            self._gone_nodes.add(stored.node)

    def _finish_tensors(self, graph: GraphProto, number: int) -> None:
        gone = self._gone_tensors.get(number, set())
        new = self._new_tensors.get(number, [])
        for index in reversed(range(len(graph.initializer))):
            if graph.initializer[index].name in gone:
                del graph.initializer[index]
        for index in reversed(range(len(graph.sparse_initializer))):
            if graph.sparse_initializer[index].values.name in gone:
                del graph.sparse_initializer[index]
        graph.initializer.extend(new)
        values = self._gone_values.get(number, set())
        for entries in (graph.value_info, graph.input):
            for index in reversed(range(len(entries))):
                if entries[index].name in values:
                    del entries[index]
        for index in reversed(range(len(graph.quantization_annotation))):
            if graph.quantization_annotation[index].tensor_name in values:
                del graph.quantization_annotation[index]
        if self._graph.model.ir_version < _IR_OF_FREE_INITIALIZERS and number == 0:
            from onnx.helper import make_tensor_value_info

            known = {entry.name for entry in graph.input}
            graph.input.extend(
                make_tensor_value_info(proto.name, proto.data_type, list(proto.dims))
                for proto in new
                if proto.name not in known
            )

    def _finish_nodes(self, graph: GraphProto, number: int) -> None:
        kept = []
        for index, node in enumerate(graph.node):
            place = Place(number, index)
            if place in self._new_nodes:
                kept += self._new_nodes[place]
            elif place not in self._gone_nodes:
                copy = type(node)()
                copy.CopyFrom(node)
                kept.append(copy)
        del graph.node[:]
        graph.node.extend(kept)
