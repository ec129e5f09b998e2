"""How an ONNX model uses its tensors: which node takes which, in the main graph and in the graphs inside its nodes.

Names are looked up from inside out, as in ONNX: a graph inside an If or a Loop sees the values around it.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rmt_compress.checkpoints.onnx.onnx_tensors import DTYPES, ExternalData, check_sparse, check_tensor
from rmt_compress.errors import CheckpointError
from rmt_compress.wording import printable

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto

# ONNX's own operators, under either name of their domain.
_OWN = ("", "ai.onnx")


class Place(NamedTuple):
    """Where a node stands: the number of its graph, outer graphs first, and its own number there."""

    graph: int
    node: int


class Use(NamedTuple):
    """A value is input number `number` of the node at `place`."""

    place: Place
    number: int


@dataclass(eq=False)
class Value:
    """What a name stands for in its graph.

    Attributes:
        producer: the node that gives it; None for inputs and initializers.
        uses: the inputs that take it.
        output: whether it is an output of its graph, or of one inside.
        tensor: key of the stored tensor it is.
    """

    producer: Place | None = None
    uses: list[Use] = field(default_factory=list)
    output: bool = False
    tensor: str | None = None


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of the model: an initializer, or the value of a Constant node.

    Attributes:
        key: a name no other tensor of the model has: its own, where no other graph has another of that name.
        name: its name in its graph.
        proto: where it is dense.
        sparse: where it is a sparse initializer.
        external: where its values are, if not in the model.
        graph: number of the graph it belongs to.
        node: the Constant node it is in; None for an initializer.
        value: the value it is.
    """

    key: str
    name: str
    proto: TensorProto | None
    sparse: SparseTensorProto | None
    external: ExternalData | None
    graph: int
    node: Place | None
    value: Value

    @property
    def dims(self) -> tuple[int, ...]:
        """Its shape as stored."""
        proto = self.sparse if self.sparse is not None else self.proto
        return tuple(proto.dims) if proto is not None else ()

    @property
    def data_type(self) -> int:
        """ONNX's number of its element type."""
        proto = self.sparse.values if self.sparse is not None else self.proto
        return proto.data_type if proto is not None else 0


class OnnxGraph:
    """The graphs of a model, its tensors, and where every value is given and taken; the model is kept, not copied.

    Attributes:
        graphs: the main graph, then every graph inside a node, outer ones first.
        inputs: the values every node takes; None where one is left out.
        outputs: the values every node gives.
        tensors: the stored tensors by key.

    Raises:
        CheckpointError: a name is given twice or not at all, nodes wait for one another, or a tensor does not agree
            with its shape.
    """

    def __init__(self, model: ModelProto, path: Path) -> None:
        self.model = model
        self.path = path
        self.graphs: list[GraphProto] = []
        self.inputs: dict[Place, list[Value | None]] = {}
        self.outputs: dict[Place, list[Value]] = {}
        self.tensors: dict[str, StoredTensor] = {}
        self.opset = max((entry.version for entry in model.opset_import if entry.domain in _OWN), default=0)
        # Graph -> node -> the nodes of the same graph it waits for, on behalf of the graphs inside it too.
        self._waits: dict[int, dict[int, set[int]]] = {}
        self._enter(model.graph, ChainMap(), {})
        for number, waits in self._waits.items():
            self._check_order(number, waits)

    def node(self, place: Place) -> NodeProto:
        """The node at `place`."""
        node: NodeProto = self.graphs[place.graph].node[place.node]
        return node

    def operator(self, place: Place) -> str:
        """The operator at `place`; one that is not ONNX's own with its domain before it."""
        node = self.node(place)
        return node.op_type if node.domain in _OWN else f"{node.domain}.{node.op_type}"

    def constant(self, place: Place, index: int) -> StoredTensor | None:
        """The stored tensor that is input number `index` of a node; None where that is computed or left out."""
        values = self.inputs[place]
        value = values[index] if index < len(values) else None
        return None if value is None or value.tensor is None else self.tensors[value.tensor]

    def shape_is_known(self, name: str) -> bool:
        """Whether the model says how many axes its input `name` has."""
        return any(
            entry.name == name and entry.type.tensor_type.HasField("shape") for entry in self.model.graph.input
        )

    def names(self) -> set[str]:
        """Every name of a value, node or tensor, in all graphs."""
        found = set(self.tensors)
        for graph in self.graphs:
            found.update(entry.name for part in (graph.input, graph.output, graph.value_info) for entry in part)
            found.update(tensor.name for tensor in graph.initializer)
            found.update(sparse.values.name for sparse in graph.sparse_initializer)
            for node in graph.node:
                found.update((node.name, *node.input, *node.output))
        return found

    def _enter(self, graph: GraphProto, outer: ChainMap[str, Value], around: Mapping[int, int]) -> None:
        """Take in a graph and those inside it; `around` are the nodes it is inside of, by their graphs' numbers."""
        number = len(self.graphs)
        self.graphs.append(graph)
        self._waits[number] = {}
        names = outer.new_child({})
        for entry in graph.input:
            self._define(names, entry.name, Value())
        for proto in graph.initializer:
            self._add(proto.name, proto, None, number, None, self._initialized(names, proto.name))
        for sparse in graph.sparse_initializer:
            name = sparse.values.name
            self._add(name, None, sparse, number, None, self._initialized(names, name))
        for index, node in enumerate(graph.node):
            place = Place(number, index)
            # An output that is left out has an empty name.
            self.outputs[place] = [
                self._define(names, name, Value(place)) if name else Value(place) for name in node.output
            ]
            self._enter_constant(node, place)
        for index, node in enumerate(graph.node):
            place = Place(number, index)
            here = {**around, number: index}
            self.inputs[place] = [
                self._take(names, name, Use(place, position), here) if name else None
                for position, name in enumerate(node.input)
            ]
            for child in _inner_graphs(node):
                self._enter(child, names, here)
        for entry in graph.output:
            self._take(names, entry.name, None, around)

    def _define(self, names: ChainMap[str, Value], name: str, value: Value) -> Value:
        if name in names.maps[0]:
            raise self._damaged(f"{name} is given twice")
        names[name] = value
        return value

    def _initialized(self, names: ChainMap[str, Value], name: str) -> Value:
        """The value of an initializer, which may be an input of the graph as well."""
        value = names.maps[0].get(name)
        if value is None:
            return self._define(names, name, Value())
        if value.tensor is not None:
            raise self._damaged(f"{name} is given twice")
        return value

    def _take(self, names: ChainMap[str, Value], name: str, use: Use | None, here: Mapping[int, int]) -> Value:
        value = names.get(name)
        if value is None:
            raise self._damaged(f"nothing gives {name}, which is asked for")
        if use is None:
            value.output = True
        else:
            value.uses.append(use)
        if value.producer is not None and value.producer.graph in here:
            waiting = here[value.producer.graph]
            self._waits[value.producer.graph].setdefault(waiting, set()).add(value.producer.node)
        return value

    def _enter_constant(self, node: NodeProto, place: Place) -> None:
        if node.op_type != "Constant" or node.domain not in _OWN or len(node.output) != 1:
            return
        for attribute in node.attribute:
            if attribute.name == "value" and attribute.HasField("t"):
                self._add(node.output[0], attribute.t, None, place.graph, place, self.outputs[place][0])

    def _add(
        self,
        name: str,
        proto: TensorProto | None,
        sparse: SparseTensorProto | None,
        graph: int,
        node: Place | None,
        value: Value,
    ) -> None:
        key, count = name, 1
        while key in self.tensors:
            count += 1
            key = f"{name} ({count})"
        tensor = StoredTensor(key, name, proto, sparse, None, graph, node, value)
        if tensor.data_type not in DTYPES:
            return
        if sparse is not None:
            check_sparse(sparse, self.path, name)
        elif proto is not None:
            external = check_tensor(proto, self.path, name)
            tensor = StoredTensor(key, name, proto, None, external, graph, node, value)
        value.tensor = key
        self.tensors[key] = tensor

    def _check_order(self, number: int, waits: Mapping[int, set[int]]) -> None:
        if all(given < node for node, wanted in waits.items() for given in wanted):
            return
        # Out of order, which onnxruntime puts right, unless nodes wait for one another.
        missing = {node: len(wanted) for node, wanted in waits.items()}
        waiting: dict[int, list[int]] = {}
        for node, wanted in waits.items():
            for given in wanted:
                waiting.setdefault(given, []).append(node)
        ready = [index for index in range(len(self.graphs[number].node)) if index not in missing]
        while ready:
            for node in waiting.get(ready.pop(), ()):
                missing[node] -= 1
                if not missing[node]:
                    del missing[node]
                    ready.append(node)
        if missing:
            names = [self.graphs[number].node[index].name or f"number {index}" for index in sorted(missing)[:4]]
            raise self._damaged(f"its nodes wait for one another in a circle ({', '.join(names)})")

    def _damaged(self, reason: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: damaged ONNX model: {printable(reason)}; export or download it again")


def _inner_graphs(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs
