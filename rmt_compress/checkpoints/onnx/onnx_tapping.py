"""Where the values are that an ONNX model's weights are applied to, and how one of its values is disturbed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rmt_compress.checkpoints.onnx.onnx_layers import integer, integers
from rmt_compress.layers.kinds import KINDS

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

    from rmt_compress.checkpoints.graph_inputs import GraphInput
    from rmt_compress.checkpoints.onnx.onnx_graph import OnnxGraph
    from rmt_compress.checkpoints.onnx.onnx_layers import Weight
    from rmt_compress.layers.layer import Layer

# What indices may go through on their way to a table.
_PASSING = ("Identity", "Cast", "Reshape", "Unsqueeze", "Squeeze", "Flatten")


@dataclass(frozen=True)
class Tap:
    """A node of the main graph applies a weight.

    Attributes:
        layer: whose.
        inputs: name of the value it is applied to.
        output: name of the value that comes out.
        columns: whether the vectors are the columns of the two.
        stride: of a convolution, one per axis; empty of a product.
        dilation: likewise.
        before: zeros in front of each axis; None where they follow from the size, as many in front as behind.
        odd_behind: whether an odd zero is put behind, where they follow from the size.
    """

    layer: Layer
    inputs: str
    output: str
    columns: bool = False
    stride: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    before: tuple[int, ...] | None = ()
    odd_behind: bool = True

    def padding(self, sizes: tuple[int, ...], outputs: tuple[int, ...]) -> tuple[int, ...]:
        """Zeros in front of each axis for an image of `sizes` that becomes one of `outputs`."""
        if self.before is not None:
            return self.before
        found = []
        for axis, (size, output) in enumerate(zip(sizes, outputs, strict=True)):
            reach = (output - 1) * self.stride[axis] + self.dilation[axis] * (self.layer.shape[2 + axis] - 1) + 1
            total = max(0, reach - size)
            found.append(total // 2 if self.odd_behind else math.ceil(total / 2))
        return tuple(found)


def taps(graph: OnnxGraph, weights: Mapping[str, Weight]) -> Iterator[Tap]:
    """The places of the main graph where weights that can be cut are applied, in the order of the weights."""
    for weight in weights.values():
        kind = KINDS[weight.layer.kind]
        for used in weight.uses:
            node = graph.node(used.use.place)
            if used.use.place.graph or not kind.splits or len(node.input) < 2:
                continue
            if kind.convolution:
                yield _convolution(weight.layer, node)
            else:
                number = used.use.number
                flipped = node.op_type == "Gemm" and bool(integer(node, "transB" if number == 0 else "transA", 0))
                # Of W·X the vectors are columns on both sides; a Gemm that turns X over itself is not read.
                if not flipped:
                    yield Tap(weight.layer, node.input[1 - number], node.output[0], columns=number == 0)


def vocabulary(graph: OnnxGraph, weights: Mapping[str, Weight], inputs: Sequence[GraphInput]) -> int | None:
    """Rows of the table in which the first of some inputs of whole numbers is looked up; None where none is."""
    for entry in inputs:
        if entry.dtype is None or entry.dtype.is_floating_point:
            continue
        names = {entry.name}
        for node in graph.graphs[0].node:
            if node.op_type in _PASSING and node.input and node.input[0] in names:
                names.update(node.output)
        for weight in weights.values():
            # A table that is the head as well is listed as what it is there.
            for used in weight.uses:
                node = graph.node(used.use.place)
                if node.op_type == "Gather" and not used.use.place.graph and node.input[1] in names:
                    return weight.layer.shape[0]
    return None


def _convolution(layer: Layer, node: NodeProto) -> Tap:
    axes = len(layer.shape) - 2
    stride = tuple(integers(node, "strides")) or (1,) * axes
    dilation = tuple(integers(node, "dilations")) or (1,) * axes
    automatic = next((entry.s.decode() for entry in node.attribute if entry.name == "auto_pad"), "NOTSET")
    before: tuple[int, ...] | None = None
    if automatic in ("NOTSET", "VALID", ""):
        pads = tuple(integers(node, "pads"))[:axes] if automatic != "VALID" else ()
        before = pads or (0,) * axes
    return Tap(
        layer,
        node.input[0],
        node.output[0],
        stride=stride,
        dilation=dilation,
        before=before,
        odd_behind=automatic != "SAME_LOWER",
    )


def disturb(model: ModelProto, value: str, scale: float, seed: int, data_type: int) -> None:
    """Add standard normal noise, times `scale`, to the value called `value` wherever it is taken.

    `data_type` is ONNX's number of its type.
    """
    from onnx import helper

    nodes = list(model.graph.node)
    at = next(number for number, node in enumerate(nodes) if value in node.output)
    taken = {name for node in nodes for name in (*node.input, *node.output)}
    hidden, noise, scaled, factor = (_free(taken, f"{value}/{what}") for what in ("as_is", "noise", "scaled", "by"))
    nodes[at].output[list(nodes[at].output).index(value)] = hidden
    added = [
        helper.make_node("RandomNormalLike", [hidden], [noise], seed=float(seed)),
        helper.make_node("Constant", [], [factor], value=helper.make_tensor(factor, data_type, [], [scale])),
        helper.make_node("Mul", [noise, factor], [scaled]),
        helper.make_node("Add", [hidden, scaled], [value]),
    ]
    del model.graph.node[:]
    model.graph.node.extend([*nodes[: at + 1], *added, *nodes[at + 1 :]])


def _free(taken: set[str], wish: str) -> str:
    """A name like `wish` that the graph does not have."""
    while wish in taken:
        wish += "_"
    return wish
