"""A weight replaced by two factors of full rank changes no output: every operator with every option."""

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from rmt_compress.checkpoints import open_checkpoint
from tests.samples.onnx_models import model, nodes_of, proto, run, saved, split_all
from tests.samples.seeds import GENERATORS

quick = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


def same_when_split(built, tmp_path, feeds, *, layers=1, atol=1e-4):
    """Split everything, have onnx check it and onnxruntime compare it; the split model."""
    source, target = saved(built, tmp_path / "model.onnx"), tmp_path / "split.onnx"
    assert len(split_all(source, target)) == layers
    onnx.checker.check_model(str(target))
    for before, after in zip(run(source, feeds), run(target, feeds), strict=True):
        assert before.shape == after.shape
        np.testing.assert_allclose(after.astype(float), before.astype(float), atol=atol, rtol=1e-4)
    small = onnx.load(target)
    assert small.ir_version == built.ir_version
    assert small.opset_import == built.opset_import
    assert {entry.key: entry.value for entry in small.metadata_props} == {"made": "by a test"}
    return small


@quick
@given(
    rng=GENERATORS,
    transposed=st.tuples(st.booleans(), st.booleans()),
    side=st.integers(0, 1),
    alpha=st.sampled_from([None, 1.0, 0.5, -2.0]),
    beta=st.sampled_from([None, 0.0, 3.0]),
    bias=st.sampled_from(["none", "row", "column", "scalar", "full"]),
    opset=st.sampled_from([7, 9, 11, 13, 17]),
)
def test_gemm(tmp_path_factory, rng, transposed, side, alpha, beta, bias, opset):
    sizes = [(5, 8), (8, 6)]
    shapes = [size[::-1] if flip else size for size, flip in zip(sizes, transposed, strict=True)]
    biases = {"row": (6,), "column": (5, 1), "scalar": (1,), "full": (5, 6)}
    if opset < 11 and bias == "none":
        bias = "row"
    names = ["x", "w"] if side else ["w", "x"]
    attributes = {"transA": int(transposed[0]), "transB": int(transposed[1]), "alpha": alpha, "beta": beta}
    given_ones = {key: value for key, value in attributes.items() if value is not None}
    tensors = {"w": rng.normal(size=shapes[side]).astype("f")}
    if bias != "none":
        tensors["b"] = rng.normal(size=biases[bias]).astype("f")
    node = helper.make_node("Gemm", [*names, *(["b"] if bias != "none" else [])], ["y"], name="fc", **given_ones)
    built = model([node], tensors, {"x": shapes[1 - side]}, opset=opset)
    tmp_path = tmp_path_factory.mktemp("gemm")
    small = same_when_split(built, tmp_path, {"x": rng.normal(size=shapes[1 - side]).astype("f")})
    assert [node.name for node in small.graph.node] == ["fc.down", "fc.up"]
    assert {"w.down", "w.up"} <= {tensor.name for tensor in small.graph.initializer}
    assert "w" not in {tensor.name for tensor in small.graph.initializer}


@quick
@given(
    rng=GENERATORS,
    dimensions=st.integers(1, 3),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
    dilation=st.integers(1, 2),
    padding=st.sampled_from(["none", "one-sided", "SAME_UPPER", "SAME_LOWER", "VALID"]),
    bias=st.booleans(),
    transposed=st.booleans(),
    output_padding=st.booleans(),
)
def test_convolutions(
    tmp_path_factory, rng, dimensions, kernel, stride, dilation, padding, bias, transposed, output_padding
):
    attributes = {"strides": [stride] * dimensions}
    if not padding.startswith("SAME"):
        attributes["dilations"] = [dilation] * dimensions
    if padding == "one-sided":
        attributes["pads"] = [1] * dimensions + [0] * dimensions
    elif padding != "none":
        attributes["auto_pad"] = padding
    if transposed and output_padding and stride > 1 and not padding.startswith("SAME"):
        attributes["output_padding"] = [1] * dimensions
    channels = (4, 6) if transposed else (6, 4)
    tensors = {"c.weight": rng.normal(size=(*channels, *[kernel] * dimensions)).astype("f")}
    if bias:
        tensors["c.bias"] = rng.normal(size=6).astype("f")
    operator = "ConvTranspose" if transposed else "Conv"
    node = helper.make_node(operator, ["x", *tensors], ["y"], name="c", **attributes)
    shape = (2, 4, *[7] * dimensions)
    small = same_when_split(
        model([node], tensors, {"x": shape}),
        tmp_path_factory.mktemp("conv"),
        {"x": rng.normal(size=shape).astype("f")},
    )
    assert [node.op_type for node in small.graph.node] == ["Conv", operator]


@quick
@given(rng=GENERATORS, side=st.integers(0, 1), batch=st.sampled_from([(), (3,), (2, 3)]), vector=st.booleans())
def test_matmul(tmp_path_factory, rng, side, batch, vector):
    weight = rng.normal(size=(8, 6) if side else (6, 8)).astype("f")
    shape = (8,) if vector else (*batch, 5, 8) if side else (*batch, 8, 5)
    node = helper.make_node("MatMul", ["x", "w"] if side else ["w", "x"], ["y"])
    tmp_path = tmp_path_factory.mktemp("matmul")
    small = same_when_split(
        model([node], {"w": weight}, {"x": shape}), tmp_path, {"x": rng.normal(size=shape).astype("f")}
    )
    # A node without a name is called after its output.
    assert [node.name for node in small.graph.node] == ["y.down", "y.up"]
    shapes = {tensor.name: tuple(tensor.dims) for tensor in small.graph.initializer}
    assert shapes == ({"w.down": (8, 6), "w.up": (6, 6)} if side else {"w.down": (6, 8), "w.up": (6, 6)})


def test_through_identity_cast_transpose_and_reshape(tmp_path, rng):
    half = rng.normal(size=(12, 8)).astype(np.float16)
    nodes = [
        helper.make_node("Identity", ["w"], ["w1"]),
        helper.make_node("Cast", ["w1"], ["w2"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["w2"], ["w3"]),
        helper.make_node("MatMul", ["x", "w3"], ["h"], name="first"),
        helper.make_node("Reshape", ["v", "shape"], ["v1"]),
        helper.make_node("MatMul", ["h", "v1"], ["y"], name="second"),
    ]
    tensors = {"w": half, "v": rng.normal(size=(12, 2, 5)).astype("f"), "shape": np.array([0, -1])}
    built = model(nodes, tensors, {"x": ("n", 8)})
    with open_checkpoint(saved(built, tmp_path / "listed.onnx")) as checkpoint:
        layers = {layer.name: layer for layer in checkpoint.layers()}
        assert (layers["w"].kind, layers["w"].shape, layers["w"].dtype) == ("linear", (12, 8), "float16")
        # Stored (12, 2, 5); its node takes (12, 10).
        assert (layers["v"].kind, layers["v"].shape) == ("linear_transposed", (12, 10))
    small = same_when_split(built, tmp_path, {"x": rng.normal(size=(3, 8)).astype("f")}, layers=2, atol=0.05)
    stored = {tensor.name: tensor.data_type for tensor in small.graph.initializer}
    assert stored["w.down"] == stored["w.up"] == TensorProto.FLOAT16
    assert [node.op_type for node in small.graph.node] == ["Cast", "Cast", "MatMul", "MatMul", "MatMul", "MatMul"]


def test_a_convolution_whose_kernel_is_transposed_on_the_way(tmp_path, rng):
    # As TensorFlow stores it: (height, width, in, out).
    nodes = [
        helper.make_node("Transpose", ["w"], ["t"], perm=[3, 2, 0, 1]),
        helper.make_node("Conv", ["x", "t"], ["y"], name="c"),
    ]
    built = model(nodes, {"w": rng.normal(size=(3, 2, 4, 6)).astype("f")}, {"x": (1, 4, 8, 8)})
    with open_checkpoint(saved(built, tmp_path / "listed.onnx")) as checkpoint:
        (layer,) = checkpoint.layers()
        assert (layer.kind, layer.shape, layer.matrix) == ("conv2d", (6, 4, 3, 2), (6, 24))
        original = onnx.numpy_helper.to_array(built.graph.initializer[0])
        assert np.array_equal(checkpoint.read("w").numpy(), original.transpose(3, 2, 0, 1))
        # Put back, it is stored as it was.
        editor = checkpoint.editor()
        editor.assign(layer, 2 * checkpoint.read("w"))
        assert np.array_equal(onnx.numpy_helper.to_array(editor.finished().graph.initializer[0]), 2 * original)
    same_when_split(built, tmp_path, {"x": rng.normal(size=(1, 4, 8, 8)).astype("f")})


def test_a_weight_in_a_constant_node(tmp_path, rng):
    value = proto("", rng.normal(size=(8, 6)).astype("f"))
    nodes = [
        helper.make_node("Constant", [], ["w"], value=value),
        helper.make_node("MatMul", ["x", "w"], ["y"], name="fc"),
    ]
    small = same_when_split(model(nodes, {}, {"x": (2, 8)}), tmp_path, {"x": rng.normal(size=(2, 8)).astype("f")})
    assert [node.op_type for node in small.graph.node] == ["MatMul", "MatMul"]


def branching(rng, *, outside):
    """y = x @ a or x @ b, in an If; the weights in the branches, or outside."""

    def branch(name):
        return helper.make_graph(
            [helper.make_node("MatMul", ["x", name], [f"y_{name}"], name=f"fc_{name}")],
            f"branch_{name}",
            [],
            [helper.make_tensor_value_info(f"y_{name}", TensorProto.FLOAT, (2, 6))],
            [] if outside else [proto(name, weights[name])],
        )

    weights = {name: rng.normal(size=(8, 6)).astype("f") for name in "ab"}
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["y"], then_branch=branch("a"), else_branch=branch("b")),
    ]
    return model(nodes, {"zero": np.float32(0), **(weights if outside else {})}, {"x": (2, 8)})


@pytest.mark.parametrize("outside", [False, True])
def test_weights_in_branches(tmp_path, rng, outside):
    built = branching(rng, outside=outside)
    x = rng.normal(size=(2, 8)).astype("f")
    small = same_when_split(built, tmp_path, {"x": abs(x)}, layers=2)
    same_when_split(built, tmp_path, {"x": -abs(x)}, layers=2)
    names = {tensor.name for tensor in small.graph.initializer}
    assert ("a.down" in names) == outside


def test_a_weight_in_the_body_of_a_loop(tmp_path, rng):
    """Three times y = tanh(y @ w), w stored in the body."""
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["state", "w"], ["h"], name="step"),
            helper.make_node("Tanh", ["h"], ["next"]),
            helper.make_node("Identity", ["go"], ["still"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, (2, 8)),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, (2, 8)),
        ],
        [proto("w", rng.normal(size=(8, 8)).astype("f"))],
    )
    node = helper.make_node("Loop", ["times", "", "x"], ["y"], body=body)
    built = model([node], {"times": np.array(3)}, {"x": (2, 8)})
    built.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, (2, 8)))
    small = same_when_split(built, tmp_path, {"x": rng.normal(size=(2, 8)).astype("f")})
    assert [node.name for node in small.graph.node[0].attribute[0].g.node][:2] == ["step.down", "step.up"]


def test_a_transposed_convolution_that_says_how_large_its_output_is(tmp_path, rng):
    node = helper.make_node(
        "ConvTranspose", ["x", "w"], ["y"], name="c", strides=[2, 2], output_shape=[15, 14], kernel_shape=[3, 3]
    )
    built = model([node], {"w": rng.normal(size=(4, 6, 3, 3)).astype("f")}, {"x": (1, 4, 7, 7)})
    same_when_split(built, tmp_path, {"x": rng.normal(size=(1, 4, 7, 7)).astype("f")})


def test_one_weight_of_two_nodes_is_split_once(tmp_path, rng):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="first"),
        helper.make_node("MatMul", ["h", "w"], ["y"], name="second"),
    ]
    built = model(nodes, {"w": rng.normal(size=(6, 6)).astype("f")}, {"x": (2, 6)})
    small = same_when_split(built, tmp_path, {"x": rng.normal(size=(2, 6)).astype("f")})
    assert [node.name for node in small.graph.node] == ["first.down", "first.up", "second.down", "second.up"]
    assert len(small.graph.initializer) == 2


def test_names_that_are_taken(tmp_path, rng):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["w.up"], name="fc"),
        helper.make_node("MatMul", ["w.up", "w.down"], ["y"], name="fc.down"),
    ]
    tensors = {"w": rng.normal(size=(8, 6)).astype("f"), "w.down": rng.normal(size=(6, 5)).astype("f")}
    same_when_split(model(nodes, tensors, {"x": (2, 8)}), tmp_path, {"x": np.ones((2, 8), "f")}, layers=2)


@pytest.mark.parametrize("ir", [3, 4, 10])
def test_initializers_that_are_inputs_too(tmp_path, ir):
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    built = model([node], {"w": np.ones((8, 6), "f")}, {"x": (2, 8), "w": (8, 6)}, ir=ir)
    small = same_when_split(built, tmp_path, {"x": np.ones((2, 8), "f")})
    assert [entry.name for entry in small.graph.input] == (["x", "w.down", "w.up"] if ir == 3 else ["x"])


@pytest.mark.parametrize(("dtype", "kind"), [("float16", TensorProto.FLOAT16), ("bfloat16", TensorProto.BFLOAT16)])
@pytest.mark.parametrize("raw", [True, False])
def test_short_floats(tmp_path, rng, dtype, kind, raw):
    values = torch.tensor(rng.normal(size=(8, 6))).to(getattr(torch, dtype))
    if raw:
        tensor = helper.make_tensor("w", kind, (8, 6), values.view(torch.int16).numpy().tobytes(), raw=True)
    else:
        tensor = TensorProto(name="w", data_type=kind, dims=(8, 6))
        tensor.int32_data.extend(values.view(torch.int16).flatten().to(torch.int32).bitwise_and(0xFFFF).tolist())
    nodes = [
        helper.make_node("Cast", ["w"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["x", "f"], ["y"]),
    ]
    built = model(nodes, {"w": tensor}, {"x": (2, 8)})
    with open_checkpoint(saved(built, tmp_path / "listed.onnx")) as checkpoint:
        assert torch.equal(checkpoint.read("w"), values)
    same_when_split(built, tmp_path, {"x": rng.normal(size=(2, 8)).astype("f")}, atol=0.2)


def test_what_is_around_stays(tmp_path, rng):
    """Documentation of the node, shapes of the values, other nodes in their order."""
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], name="relu"),
        helper.make_node("MatMul", ["r", "w"], ["h"], name="fc", doc_string="the layer"),
        helper.make_node("Add", ["h", "b"], ["y"], name="bias"),
    ]
    tensors = {"w": rng.normal(size=(8, 6)).astype("f"), "b": rng.normal(size=6).astype("f")}
    built = model(nodes, tensors, {"x": (2, 8)}, producer_name="somebody", doc_string="a model")
    built.graph.value_info.append(helper.make_tensor_value_info("h", TensorProto.FLOAT, (2, 6)))
    small = same_when_split(built, tmp_path, {"x": rng.normal(size=(2, 8)).astype("f")})
    assert (small.producer_name, small.doc_string) == ("somebody", "a model")
    assert [entry.name for entry in small.graph.value_info] == ["h"]
    assert [node.name for node in small.graph.node] == ["relu", "fc.down", "fc.up", "bias"]
    assert nodes_of(tmp_path / "split.onnx")["fc.up"].doc_string == "the layer"
