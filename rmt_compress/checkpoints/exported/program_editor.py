"""Exchanging layers in the stored graph of a torch.export program: two nodes for one, shapes of what is between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rmt_compress.checkpoints.exported.program_graph import (
    ADDMM,
    ATEN,
    LINEAR,
    MM,
    Graph,
    Json,
    Use,
    argument,
    tensor_argument,
    value_names,
    with_arguments,
)
from rmt_compress.errors import CompressionError
from rmt_compress.layers.kinds import KINDS

if TYPE_CHECKING:
    from rmt_compress.layers.layer import Layer

_NONE: Json = {"as_none": True}


class GraphSurgery:
    """The changes to a stored program, its whole JSON object, collected and carried out together by `finish`."""

    def __init__(self, program: Json) -> None:
        self._graph = Graph(program)
        self._nodes: dict[int, list[Json]] = {}
        self._inputs: dict[str, list[tuple[str, str]]] = {}
        self._values: Json = {}
        self._gone: set[str] = set()
        graph = self._graph.graph
        self._taken = {
            *value_names(graph),
            *(key for part in graph.values() if isinstance(part, dict) for key in part),
        }

    def split(self, layer: Layer, names: tuple[str, str], shapes: Sequence[Sequence[int]]) -> None:
        """Put two products or convolutions in the place of every node that takes the weight of `layer`.

        Names and shapes are those of the parameters as they are stored, the one that is applied first in front.
        """
        weight = self._graph.placeholders[layer.tensor]
        values = [self._fresh(f"{weight}_{part}") for part in ("down", "up")]
        for value, shape in zip(values, shapes, strict=True):
            self._values[value] = reshaped(self._graph.values[weight], _constant(shape))
        self._inputs[weight] = list(zip(values, names, strict=True))
        self._gone.add(weight)
        rank = shapes[0][1 if layer.kind == "linear_transposed" else 0]
        for use in self._graph.uses(layer.tensor):
            if use.kind != layer.kind:
                raise CompressionError(f"{layer.tensor}: is used by the graph as {use.kind} too")
            first, second = (self._through_views(value, use) for value in values)
            node = self._graph.nodes[use.node]
            if KINDS[layer.kind].convolution:
                pair = self._convolutions(node, layer, first, second, rank)
            else:
                pair = self._products(node, use, first, second, rank)
            self._nodes[use.node] = pair

    def finish(self) -> None:
        """Carry out what has been collected."""
        graph = self._graph
        nodes = [new for place, node in enumerate(graph.nodes) for new in self._nodes.get(place, [node])]
        graph.nodes[:] = nodes
        inputs, specs = [], []
        # Inputs and their descriptions stand in one order.
        for given, spec in zip(graph.graph["inputs"], graph.specs, strict=True):
            value = given.get("as_tensor", {}).get("name")
            if value not in self._inputs:
                inputs.append(given)
                specs.append(spec)
                continue
            for new, name in self._inputs[value]:
                inputs.append(tensor_argument(new))
                specs.append({"parameter": {"arg": {"name": new}, "parameter_name": name}})
        graph.graph["inputs"][:] = inputs
        graph.specs[:] = specs
        for value in self._gone:
            graph.values.pop(value, None)
        graph.values.update(self._values)

    def _through_views(self, value: str, use: Use) -> str:
        """`value` after the views that stood between weight and node, made anew for it."""
        for place in use.views:
            node = self._graph.nodes[place]
            old = node["outputs"][0]["as_tensor"]["name"]
            done = self._nodes.setdefault(place, [])
            self._gone.add(old)
            # Several nodes may share one view.
            for copy in done:
                if argument(copy, "self") == tensor_argument(value):
                    value = copy["outputs"][0]["as_tensor"]["name"]
                    break
            else:
                new = self._fresh(f"{value}_{node['target'].split('.')[-2]}")
                sizes = self._values[value]["sizes"]
                turned = self._graph.turns(node, "self")
                self._values[new] = reshaped(self._graph.values[old], sizes[::-1] if turned else sizes)
                done.append(
                    _node(node, node["target"], with_arguments(node, {"self": tensor_argument(value)}), new)
                )
                value = new
        return value

    def _products(self, node: Json, use: Use, first: str, second: str, rank: int) -> list[Json]:
        given = {ADDMM: "mat1", LINEAR: "input"}.get(node["target"], "self")
        inner = self._between(_output(node), -1, rank, node)
        if node["target"] == ADDMM:
            inputs: list[Json] = [
                {"name": name, "arg": arg, "kind": 1}
                for name, arg in (("self", argument(node, given)), ("mat2", tensor_argument(first)))
            ]
            down = _node(node, MM, inputs, inner)
        else:
            changes = {use.argument: tensor_argument(first), "bias": _NONE}
            down = _node(node, node["target"], with_arguments(node, changes), inner)
        changes = {given: tensor_argument(inner), use.argument: tensor_argument(second)}
        return [down, {**node, "inputs": with_arguments(node, changes)}]

    def _convolutions(self, node: Json, layer: Layer, first: str, second: str, rank: int) -> list[Json]:
        """One of the two is 1×1: the second, and the first of a transposed convolution."""
        dimensions = len(layer.shape) - 2
        transposed = KINDS[layer.kind].swaps
        source = argument(node, "input") or {}
        shape_like = source["as_tensor"]["name"] if transposed else _output(node)
        inner = self._between(shape_like, -dimensions - 1, rank, node)
        between = tensor_argument(inner)
        general = node["target"] == f"{ATEN}convolution.default"
        target = node["target"] if general else f"{ATEN}conv{dimensions}d.default"
        bias = argument(node, "bias") or _NONE

        def point(tensor: Json, weight: str, bias: Json) -> list[Json]:
            if not general:
                arguments = (("input", tensor), ("weight", tensor_argument(weight)), ("bias", bias))
                return [{"name": name, "arg": arg, "kind": 1} for name, arg in arguments]
            ones, zeros = ({"as_ints": [number] * dimensions} for number in (1, 0))
            changes = {"input": tensor, "weight": tensor_argument(weight), "bias": bias}
            changes |= {"stride": ones, "padding": zeros, "dilation": ones, "output_padding": zeros}
            return with_arguments(node, {**changes, "transposed": {"as_bool": False}, "groups": {"as_int": 1}})

        if transposed:
            down = _node(node, target, point(source, first, _NONE), inner)
            changes = {"input": between, "weight": tensor_argument(second)}
            return [down, {**node, "inputs": with_arguments(node, changes)}]
        changes = {"weight": tensor_argument(first), "bias": _NONE}
        down = _node(node, node["target"], with_arguments(node, changes), inner)
        return [down, {**node, "target": target, "inputs": point(between, second, bias)}]

    def _between(self, like: str, axis: int, rank: int, node: Json) -> str:
        """A fresh value shaped as `like`, with `rank` entries along `axis`."""
        sizes = list(self._graph.values[like]["sizes"])
        sizes[axis] = {"as_int": rank}
        value = self._fresh(f"{node.get('name') or _output(node)}_down")
        self._values[value] = reshaped(self._graph.values[like], sizes)
        self._values[value]["requires_grad"] = False
        return value

    def _fresh(self, wish: str) -> str:
        name = next(
            name
            for number in range(len(self._taken) + 1)
            if (name := f"{wish}_{number}" if number else wish) not in self._taken
        )
        self._taken.add(name)
        return name


def reshaped(meta: Json, sizes: Sequence[Json]) -> Json:
    """What is recorded of a dense tensor like `meta` but of other sizes, its axes in the same order in memory."""
    old = [_hint(stride) for stride in meta["strides"]]
    order = sorted(range(len(sizes)), key=lambda axis: (-old[axis] if len(old) == len(sizes) else 0, axis))
    strides: list[Json] = [{"as_int": 1}] * len(sizes)
    step: Json = {"as_int": 1}
    for axis in reversed(order):
        strides[axis] = step
        step = _product(step, sizes[axis])
    return {**meta, "sizes": list(sizes), "strides": strides, "storage_offset": {"as_int": 0}}


def _product(a: Json, b: Json) -> Json:
    """Two sizes multiplied, symbols kept in the notation torch writes them in."""
    if "as_int" in a and "as_int" in b:
        return {"as_int": a["as_int"] * b["as_int"]}
    for one, other in ((a, b), (b, a)):
        if one.get("as_int") == 1:
            return other
    expression = f"Mul({_expression(a)}, {_expression(b)})"
    return {"as_expr": {"expr_str": expression, "hint": {"as_int": _hint(a) * _hint(b)}}}


def _expression(size: Json) -> str:
    return f"Integer({size['as_int']})" if "as_int" in size else str(size["as_expr"]["expr_str"])


def _hint(size: Json) -> int:
    if "as_int" in size:
        return int(size["as_int"])
    return int((size["as_expr"].get("hint") or {}).get("as_int", 1))


def _constant(shape: Sequence[int]) -> list[Json]:
    return [{"as_int": size} for size in shape]


def _output(node: Json) -> str:
    return str(node["outputs"][0]["as_tensor"]["name"])


def _node(like: Json, target: str, inputs: list[Json], value: str) -> Json:
    """A node in the place of `like` (its stack trace and module) that computes something else."""
    node = {**like, "target": target, "inputs": inputs, "outputs": [tensor_argument(value)]}
    return {**node, "name": value} if "name" in like else node
