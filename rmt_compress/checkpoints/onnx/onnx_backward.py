"""The part of an ONNX graph that leads from its layers to its outputs, run by torch so that gradients come back.

Only what the outputs of layers flow through is run here; every other value that it takes, onnxruntime is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, Any

import torch
from onnx import TensorProto, helper

from rmt_compress.checkpoints.onnx.onnx_call import Call
from rmt_compress.checkpoints.onnx.onnx_operators import OPERATORS, apply

if TYPE_CHECKING:
    from onnx import NodeProto

    from rmt_compress.checkpoints.onnx.onnx_graph import OnnxGraph

_OWN = ("", "ai.onnx")
# What comes out of these does not change with what goes in, or in jumps.
_CONSTANT = frozenset(
    {
        *("Shape", "Size", "ArgMax", "ArgMin", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"),
        *("And", "Or", "Xor", "Not", "IsNaN", "IsInf", "NonZero", "Sign", "Floor", "Ceil", "Round"),
        *("ConstantOfShape", "EyeLike", "RandomNormalLike", "RandomUniformLike"),
    }
)
_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE})


class NoGradientError(Exception):
    """No gradient comes back through this graph; the message says why."""


@dataclass(frozen=True)
class _Step:
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]


class Backward:
    """The nodes of a graph's main part between some values and its outputs.

    Args:
        graph: the graph.
        layers: names of the values of the main graph that gradients are wanted of: of layers, or inputs of it.
        outputs: names of the graph's outputs that are wanted.

    Attributes:
        outputs: those of them that the values of layers flow into.
        constants: names of the values that are taken and the same whatever the inputs are.
        taken: names of the other values that are taken and not given here.

    Raises:
        NoGradientError: the values flow into no output, or through an operator that is not known here.
    """

    def __init__(self, graph: OnnxGraph, layers: Iterable[str], outputs: Iterable[str]) -> None:
        self._opset = graph.opset
        given = set(layers)
        varying = {entry.name for entry in graph.graphs[0].input} - {each.name for each in graph.tensors.values()}
        moving = given & varying
        steps: list[NodeProto] = []
        for node in _in_order(graph.graphs[0].node):
            reads = set(_reads(node))
            if not varying.isdisjoint(reads):
                varying.update(node.output)
            if given.intersection(node.output) or (moving.intersection(reads) and not _is_constant(node)):
                moving.update(name for name in node.output if name)
                steps.append(node)
        self.outputs = [name for name in outputs if name in moving]
        needed, kept = set(self.outputs), []
        for node in reversed(steps):
            if needed.intersection(node.output):
                needed.update(name for name in node.input if name)
                kept.append(_step(node))
        if not kept:
            raise NoGradientError("no layer leads to its outputs")
        self._steps = kept[::-1]
        made = {name for step in self._steps for name in step.outputs}
        taken = [name for step in self._steps for name in step.inputs if name and name not in made]
        self.constants = [name for name in dict.fromkeys(taken) if name not in varying]
        self.taken = [name for name in dict.fromkeys(taken) if name in varying]

    @property
    def layers(self) -> set[str]:
        """Names of the values that are given here."""
        return {name for step in self._steps for name in step.outputs}

    def run(
        self,
        values: Mapping[str, torch.Tensor],
        applied: Callable[[str, Mapping[str, torch.Tensor], torch.Tensor], torch.Tensor],
    ) -> dict[str, torch.Tensor]:
        """The outputs of `outputs` by name.

        Args:
            values: of `constants` and `taken`.
            applied: told of every value that a node gives, with all there are; what it returns takes its place.

        Raises:
            NoGradientError: a node does what is not known here.
        """
        held = dict(values)
        for step in self._steps:
            inputs = [held[name] if name else None for name in step.inputs]
            try:
                found = apply(step.operator, Call(inputs, step.attributes, self._opset, len(step.outputs)))
            # What torch raises of shapes that it does not take, and what the operators here say they do not know.
            except (NotImplementedError, RuntimeError, ValueError, IndexError) as error:
                raise NoGradientError(f"{step.operator}: {error}") from error
            for name, value in zip(step.outputs, found, strict=False):
                if name:
                    held[name] = applied(name, held, value)
        return {name: held[name] for name in self.outputs}


def _reads(node: NodeProto) -> Iterator[str]:
    """The names that a node takes, and that the graphs inside it may take from around it."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for graph in (*attribute.graphs, *((attribute.g,) if attribute.HasField("g") else ())):
            yield from (entry.name for entry in graph.output)
            for inner in graph.node:
                yield from _reads(inner)


def _in_order(nodes: Sequence[NodeProto]) -> list[NodeProto]:
    """The nodes, each after those that it takes something of; files may hold them in any order."""
    producer = {name: place for place, node in enumerate(nodes) for name in node.output if name}
    waits = {
        place: {producer[name] for name in _reads(node) if producer.get(name, place) != place}
        for place, node in enumerate(nodes)
    }
    try:
        return [nodes[place] for place in TopologicalSorter(waits).static_order()]
    except CycleError as error:
        # Only where names inside of a node mean something else than outside.
        raise NoGradientError("graphs inside its nodes name values as it does itself") from error


def _is_constant(node: NodeProto) -> bool:
    if node.op_type == "Cast":
        return next(each.i for each in node.attribute if each.name == "to") not in _FLOATS
    return node.op_type in _CONSTANT and node.domain in _OWN


def _step(node: NodeProto) -> _Step:
    known = node.domain in _OWN and node.op_type in OPERATORS
    if not known:
        name = node.op_type if node.domain in _OWN else f"{node.domain}.{node.op_type}"
        raise NoGradientError(f"its operator {name} is run forward only")
    attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    return _Step(node.op_type, tuple(node.input), tuple(node.output), attributes)
