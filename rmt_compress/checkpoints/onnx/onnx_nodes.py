"""Two nodes in the place of one: the product or convolution with ``down``, then that with ``up``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import NodeProto

# From this opset on a Gemm needs no third input.
_GEMM_WITHOUT_C = 11

Name = Callable[[str], str]


def split_node(
    node: NodeProto,
    index: int,
    down: str,
    up: str,
    *,
    dimensions: int,
    opset: int,
    free: Name,
    zero: Callable[[], str],
) -> list[NodeProto]:
    """The two nodes that compute what `node` does, its weight replaced by two factors.

    Stride, padding, dilation, auto_pad and a transposed operand stay with the node that sees the inputs; bias,
    alpha, beta and the output's name go to the second. A transposed convolution is the second itself.

    Args:
        node: a MatMul, Gemm, Conv or ConvTranspose of one group.
        index: which of its inputs the weight is.
        down: name of the first factor, laid out as the node takes a weight.
        up: name of the second.
        dimensions: of a convolution's kernel.
        opset: of the model.
        free: makes a name that is not taken from one that is wished for.
        zero: gives the name of a tensor with a single zero.
    """
    first, second = _copied(node), _copied(node)
    base = node.name or node.output[0]
    first.name, second.name = free(f"{base}.down"), free(f"{base}.up")
    hidden = free(f"{base}.down.output")
    others = list(node.input[2:])
    inputs = node.input[1 - index]
    first.ClearField("output")
    first.output.append(hidden)
    if node.op_type in ("MatMul", "Gemm"):
        _set_inputs(first, _placed(index, down, inputs))
        _set_inputs(second, [*_placed(index, up, hidden), *others])
    else:
        _set_inputs(first, [inputs, down])
        _set_inputs(second, [hidden, up, *others])
    if node.op_type == "Gemm":
        _keep(first, ("transA", "transB"))
        # The hidden product comes as it is.
        _keep(second, ("alpha", "beta", "transB" if index else "transA"))
        if opset < _GEMM_WITHOUT_C:
            first.input.append(zero())
            _set_float(first, "beta", 0.0)
            if len(second.input) == 2:
                second.input.append(zero())
    elif node.op_type == "Conv":
        _keep(second, ())
        _set_integers(second, "kernel_shape", [1] * dimensions)
    elif node.op_type == "ConvTranspose":
        first.op_type = "Conv"
        _keep(first, ())
        _set_integers(first, "kernel_shape", [1] * dimensions)
    return [first, second]


def cast_node(given: str, to: int, free: Name) -> NodeProto:
    """A node that turns a tensor into another type, as the one between the weight and its node did."""
    from onnx import NodeProto

    node = NodeProto(
        op_type="Cast", input=[given], name=free(f"{given}.cast"), output=[free(f"{given}.cast.output")]
    )
    attribute = node.attribute.add(name="to", i=to)
    attribute.type = attribute.INT
    return node


def _copied(node: NodeProto) -> NodeProto:
    copy = type(node)()
    copy.CopyFrom(node)
    return copy


def _placed(index: int, weight: str, other: str) -> list[str]:
    return [weight, other] if index == 0 else [other, weight]


def _set_inputs(node: NodeProto, names: Sequence[str]) -> None:
    node.ClearField("input")
    node.input.extend(names)


def _keep(node: NodeProto, names: Sequence[str]) -> None:
    """Take all attributes but these away."""
    kept = [attribute for attribute in node.attribute if attribute.name in names]
    del node.attribute[:]
    node.attribute.extend(kept)


def _set_integers(node: NodeProto, name: str, values: Sequence[int]) -> None:
    attribute = node.attribute.add(name=name, ints=values)
    attribute.type = attribute.INTS


def _set_float(node: NodeProto, name: str, value: float) -> None:
    attribute = node.attribute.add(name=name, f=value)
    attribute.type = attribute.FLOAT
