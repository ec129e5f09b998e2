"""How many multiply-adds the nodes of an ONNX model cost, its quantized ones too."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rmt_compress.checkpoints.onnx.onnx_layers import integer
from rmt_compress.checkpoints.onnx.onnx_tensors import DTYPES
from rmt_compress.layers.kinds import KINDS
from rmt_compress.layers.layer import FLOAT_DTYPES

if TYPE_CHECKING:
    from rmt_compress.checkpoints.onnx.onnx_graph import OnnxGraph, Place, StoredTensor
    from rmt_compress.checkpoints.onnx.onnx_layers import Weight

# Operator -> the input that is a weight, if that is stored in whole numbers.
# https://onnx.ai/onnx/operators, https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
_QUANTIZED = {
    "MatMul": 1,
    "Gemm": 1,
    "Conv": 1,
    "ConvTranspose": 1,
    "MatMulInteger": 1,
    "ConvInteger": 1,
    "QLinearMatMul": 3,
    "QLinearConv": 3,
    "com.microsoft.DynamicQuantizeMatMul": 1,
    "com.microsoft.MatMulIntegerToFloat": 1,
    "com.microsoft.QGemm": 3,
}


def multiply_adds_per_entry(graph: OnnxGraph, weights: Mapping[str, Weight]) -> dict[str, int]:
    """Name of a value of the main graph -> multiply-adds per entry of it.

    The value is the output of a product or of a convolution with a weight, of a transposed one the input.
    """
    found: dict[str, int] = {}

    def enter(place: Place, count: int) -> None:
        node = graph.node(place)
        asked = node.input[0] if node.op_type == "ConvTranspose" else node.output[0]
        found[asked] = found.get(asked, 0) + count

    for weight in weights.values():
        matrix = weight.layer.matrix
        if matrix is None or not KINDS[weight.layer.kind].splits:
            continue
        for used in weight.uses:
            if not used.use.place.graph:
                enter(used.use.place, matrix[1])
    for place in graph.inputs:
        count = None if place.graph else _of_quantized(graph, place)
        if count is not None:
            enter(place, count)
    return found


def _of_quantized(graph: OnnxGraph, place: Place) -> int | None:
    """Multiply-adds per entry of a node whose weight is stored in whole numbers; None for any other node."""
    operator = graph.operator(place)
    stored = _whole_numbers(graph, place, _QUANTIZED[operator]) if operator in _QUANTIZED else None
    if stored is None or len(stored.dims) < 2:
        return None
    if "Conv" in operator:
        return math.prod(stored.dims[1:])
    flipped = operator.endswith("Gemm") and bool(integer(graph.node(place), "transB", 0))
    return stored.dims[-1] if flipped else stored.dims[-2]


def _whole_numbers(graph: OnnxGraph, place: Place, index: int) -> StoredTensor | None:
    """The stored tensor of whole numbers that a node takes, as it is or through a DequantizeLinear."""
    stored = graph.constant(place, index)
    values = graph.inputs[place]
    value = values[index] if index < len(values) else None
    if stored is None and value is not None and value.producer is not None:
        if graph.operator(value.producer) != "DequantizeLinear":
            return None
        stored = graph.constant(value.producer, 0)
    return stored if stored is not None and DTYPES[stored.data_type][0] not in FLOAT_DTYPES else None
