"""ONNX's operators by torch, against the test cases that ONNX comes with and against modules."""

import warnings
from collections import Counter

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper
from onnx.backend.test.case.node import collect_testcases
from torch import nn
from torch.nn import functional

from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.checkpoints.onnx.onnx_backward import Backward, NoGradientError
from rmt_compress.checkpoints.onnx.onnx_call import Call
from rmt_compress.checkpoints.onnx.onnx_graph import OnnxGraph
from rmt_compress.checkpoints.onnx.onnx_operators import OPERATORS, apply
from rmt_compress.networks.calibration.calibrating import calibrate
from tests.samples import exported
from tests.samples.onnx_models import model

# What of ONNX's own cases is not asked for: extrema of nothing, cases of types that numpy does not have, and whole
# numbers that torch does not take.
NOT_HERE = "empty_set"


def cases():
    with warnings.catch_warnings():
        # The cases divide by zero on purpose.
        warnings.simplefilter("ignore")
        found = collect_testcases(None)
    for case in found:
        nodes = case.model.graph.node
        wanted = len(nodes) == 1 and nodes[0].domain in ("", "ai.onnx") and nodes[0].op_type in OPERATORS
        if wanted and NOT_HERE not in case.name:
            yield case


def asked_of(case):
    """Pairs of what torch gives and what is right, for the floating-point outputs of a case."""
    graph = case.model.graph
    node = graph.node[0]
    opset = next(entry.version for entry in case.model.opset_import if entry.domain == "")
    attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    for inputs, outputs in case.data_sets:
        given = dict(zip([entry.name for entry in graph.input], map(np.asarray, inputs), strict=False))
        if any(value.dtype.kind not in "fiub" or not value.dtype.isnative for value in given.values()):
            return
        tensors = [torch.from_numpy(given[name].copy()) if name in given else None for name in node.input]
        if tensors[0] is not None and not tensors[0].is_floating_point() and node.op_type in ("Trilu", "Identity"):
            tensors[0] = tensors[0].float()
        if not any(tensor is not None and tensor.is_floating_point() for tensor in tensors):
            return
        # Of norms and of a dropout the first output is what a network goes on with.
        few = 1 if node.op_type in ("Dropout", "LayerNormalization") else len(node.output)
        try:
            found = apply(node.op_type, Call(tensors, attributes, opset, len(node.output)))
        except NotImplementedError:
            # Training, places of the largest, ways to interpolate: no gradient then.
            return
        for tensor, right in list(zip(found, outputs, strict=False))[:few]:
            yield tensor, np.asarray(right)


@pytest.mark.slow
def test_every_operator_gives_what_the_test_cases_of_onnx_say():
    asked = Counter()
    for case in cases():
        for found, right in asked_of(case):
            assert tuple(found.shape) == right.shape, case.name
            half = right.dtype == np.float16
            np.testing.assert_allclose(
                found.double().numpy(),
                right.astype(np.float64),
                rtol=2e-3 if half else 1e-4,
                atol=1e-3 if half else 2e-4,
                err_msg=case.name,
            )
            asked[case.model.graph.node[0].op_type] += 1

    # A cast of floats to floats is nothing here, and its cases are of types that numpy does not have.
    assert OPERATORS.keys() - asked.keys() <= {"Cast", "CastLike"}
    assert asked.total() > 300


def backward(nodes, outputs=("y",), layers=("a",), **given):
    tensors = {"w": np.ones((3, 3), np.float32), **given}
    built = model(nodes, tensors, {"x": ["n", 3]}, outputs)
    return Backward(OnnxGraph(built, "model.onnx"), layers, outputs)


FIRST = helper.make_node("MatMul", ["x", "w"], ["a"])


def test_only_what_comes_behind_the_layers_is_run_and_the_rest_asked_for():
    nodes = [
        helper.make_node("Abs", ["x"], ["b"]),
        FIRST,
        helper.make_node("Shape", ["a"], ["s"]),
        helper.make_node("Expand", ["b", "s"], ["c"]),
        helper.make_node("Mul", ["a", "c"], ["d"]),
        helper.make_node("MatMul", ["d", "w"], ["y"]),
    ]
    found = backward(nodes)
    assert found.constants == ["w"]
    assert sorted(found.taken) == ["c", "x"]
    assert found.layers == {"a", "d", "y"}

    x, c = torch.randn(2, 3), torch.randn(2, 3)
    seen = []
    outputs = found.run(
        {"w": torch.ones(3, 3), "x": x, "c": c}, lambda name, _, value: (seen.append(name), value)[1]
    )
    torch.testing.assert_close(outputs, {"y": (x @ torch.ones(3, 3) * c) @ torch.ones(3, 3)})
    assert seen == ["a", "d", "y"]


def test_nodes_in_any_order_are_run_in_the_right_one():
    turned = model(
        [FIRST, helper.make_node("Relu", ["a"], ["y"])], {"w": np.ones((3, 3), np.float32)}, {"x": [2, 3]}
    )
    turned.graph.node.reverse()
    found = Backward(OnnxGraph(turned, "model.onnx"), ["a"], ["y"])
    seen = []
    x = torch.tensor([[1.0, 2.0, 3.0]])
    outputs = found.run({"w": torch.ones(3, 3), "x": x}, lambda name, _, value: (seen.append(name), value)[1])
    assert seen == ["a", "y"]
    torch.testing.assert_close(outputs["y"], torch.full((1, 3), 6.0))


@pytest.mark.parametrize(
    ("nodes", "why"),
    [
        ([helper.make_node("Asinh", ["a"], ["y"])], "its operator Asinh is run forward only"),
        (
            [helper.make_node("Gelu", ["a"], ["y"], domain="com.microsoft")],
            "com.microsoft.Gelu is run forward only",
        ),
        ([helper.make_node("ArgMax", ["a"], ["y"])], "no layer leads to its outputs"),
    ],
)
def test_what_has_no_gradient_is_said(nodes, why):
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph(
        [FIRST, *nodes],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [helper.make_tensor("w", TensorProto.FLOAT, [3, 3], [1.0] * 9)],
    )
    with pytest.raises(NoGradientError, match=why):
        Backward(OnnxGraph(helper.make_model(graph, opset_imports=opsets), "m"), ["a"], ["y"])


def test_a_graph_inside_a_node_takes_what_is_around_it():
    inner = helper.make_graph(
        [helper.make_node("Relu", ["a"], ["z"])], "then", [], [helper.make_tensor_value_info("z", 1, None)]
    )
    choice = helper.make_node("If", ["yes"], ["y"], then_branch=inner, else_branch=inner)
    with pytest.raises(NoGradientError, match="If is run forward only"):
        backward([FIRST, choice], yes=np.array(True))


class Reader(nn.Module):
    """A table, a block of a transformer and a head, as exporters take them apart."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(20, 16)
        self.norm1, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.q, self.k, self.v, self.out = (nn.Linear(16, 16) for _ in range(4))
        self.up, self.down, self.head = nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(16, 20)

    def forward(self, tokens):
        x = self.table(tokens)
        h = self.norm1(x)
        q, k, v = (part(h).unflatten(2, (2, 8)).transpose(1, 2) for part in (self.q, self.k, self.v))
        x = x + self.out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return self.head(x + self.down(functional.gelu(self.up(self.norm2(x)))))


@pytest.mark.slow
@pytest.mark.traced
@pytest.mark.parametrize("half", [False, True])
def test_an_exported_encoder_has_the_moments_of_the_module(tmp_path, half):
    net = Reader().eval()
    tokens = torch.randint(20, (6, 9))
    path = tmp_path / "reader.onnx"
    graph = net.half() if half else net
    exported.quiet(lambda: torch.onnx.export(graph, (tokens,), path, dynamo=True, verbose=False))

    with open_checkpoint(path) as checkpoint:
        names = {layer.tensor: checkpoint.read(layer.tensor) for layer in checkpoint.layers()}
        found = calibrate(checkpoint.own_network(), [tokens, tokens.flip(0)])

    expected = calibrate(net.float(), [tokens, tokens.flip(0)])
    assert found.record["gradient"] == "a class drawn from the network's softmax"
    for name, own in expected.layers.items():
        weight = net.get_parameter(name)
        # An exporter turns weights over, and calls them as it likes.
        (same,) = (
            each
            for each in found.layers
            for tensor in (names[each], names[each].T)
            if tensor.shape == weight.shape and torch.allclose(tensor.float(), weight, atol=1e-6)
        )
        tolerance = {"rtol": 0.05, "atol": 0.01} if half else {"rtol": 1e-3, "atol": 1e-5}
        torch.testing.assert_close(found.layers[same].inputs, own.inputs, **tolerance)
        torch.testing.assert_close(found.layers[same].outputs, own.outputs, **tolerance)
    assert len(expected.layers) == len(found.layers) == 7
