"""What an ONNX graph says of its tensors: kinds, names a user recognises, and why one is no weight."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from rmt_compress.analysis import analyze
from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.layers import as_matrix
from rmt_compress.layers.splitting import split_refusal
from tests.samples.onnx_models import proto, saved

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def layers_of(built, tmp_path):
    with open_checkpoint(saved(built, tmp_path / "model.onnx")) as checkpoint:
        return {layer.tensor: layer for layer in checkpoint.layers()}


def ones(*shape):
    return np.ones(shape, "f")


@pytest.mark.parametrize(
    ("node", "shape", "kind", "matrix"),
    [
        (helper.make_node("MatMul", ["x", "w"], ["y"]), (8, 6), "linear_transposed", (6, 8)),
        (helper.make_node("MatMul", ["w", "x"], ["y"]), (8, 6), "linear", (8, 6)),
        (helper.make_node("Gemm", ["x", "w"], ["y"]), (8, 6), "linear_transposed", (6, 8)),
        (helper.make_node("Gemm", ["x", "w"], ["y"], transB=1), (8, 6), "linear", (8, 6)),
        (helper.make_node("Gemm", ["w", "x"], ["y"]), (8, 6), "linear", (8, 6)),
        (helper.make_node("Gemm", ["w", "x"], ["y"], transA=1), (8, 6), "linear_transposed", (6, 8)),
        (helper.make_node("Conv", ["x", "w"], ["y"]), (8, 6, 3), "conv1d", (8, 18)),
        (helper.make_node("Conv", ["x", "w"], ["y"]), (8, 6, 3, 2), "conv2d", (8, 36)),
        (helper.make_node("Conv", ["x", "w"], ["y"]), (8, 6, 3, 2, 1), "conv3d", (8, 36)),
        (helper.make_node("ConvTranspose", ["x", "w"], ["y"]), (8, 6, 3, 2), "conv_transpose2d", (8, 36)),
    ],
)
def test_rows_are_outputs_and_columns_inputs(tmp_path, node, shape, kind, matrix, rng):
    values = rng.normal(size=shape).astype("f")
    path = saved(bare([node], {"w": values}), tmp_path / "model.onnx")
    with open_checkpoint(path) as checkpoint:
        (layer,) = checkpoint.layers()
        assert (layer.kind, layer.shape, layer.matrix) == (kind, shape, matrix)
        expected = values.T if kind == "linear_transposed" else values.reshape(matrix)
        assert np.array_equal(as_matrix(layer, checkpoint.read("w")).numpy(), expected)
    assert split_refusal(layer) is None


def bare(nodes, tensors, **more):
    """A model nobody could run: input and output have no shape."""
    given = {name for node in nodes for name in node.output}
    taken = {name for node in nodes for name in node.input if name and name not in given | tensors.keys()}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, FLOAT, None) for name in sorted(taken)],
        [helper.make_tensor_value_info(nodes[-1].output[0], FLOAT, None)],
        [proto(name, value) for name, value in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], **more)


def test_names_people_know(tmp_path):
    nodes = [
        helper.make_node("MatMul", ["x", "encoder.fc.weight"], ["a"], name="/encoder/fc/MatMul"),
        helper.make_node("MatMul", ["a", "onnx::MatMul_123"], ["b"], name="/head/MatMul"),
        helper.make_node("MatMul", ["b", "456"], ["c"], name="/head/MatMul_1"),
        helper.make_node("MatMul", ["c", "W"], ["d"], name="/tail/MatMul"),
        helper.make_node("MatMul", ["d", "onnx::MatMul_7"], ["y"]),
    ]
    tensors = {name: ones(4, 4) for name in ("encoder.fc.weight", "onnx::MatMul_123", "456", "W", "onnx::MatMul_7")}
    names = [layer.name for layer in layers_of(bare(nodes, tensors), tmp_path).values()]
    assert names == ["encoder.fc", "/head/MatMul", "/head/MatMul_1", "W", "onnx::MatMul_7"]


def test_the_module_s_path_where_torch_notes_it(tmp_path):
    nodes = [
        helper.make_node("MatMul", ["x", "val_1"], ["h"], name="node_MatMul_1"),
        helper.make_node("MatMul", ["h", "val_2"], ["y"], name="node_MatMul_2"),
        helper.make_node("MatMul", ["y", "val_3"], ["z"], name="node_MatMul_3"),
    ]
    for node, scopes in zip(
        nodes, (["", "net", "net.fc1", "linear"], ["", "linear_1"], ["", "w", "linear"]), strict=True
    ):
        node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=str(scopes))
    layers = layers_of(bare(nodes, {name: ones(4, 4) for name in ("val_1", "val_2", "val_3", "w")}), tmp_path)
    assert [layer.name for layer in layers.values()] == ["net.fc1", "node_MatMul_2", "w (val_3)", "w"]


def test_two_tensors_of_one_node_have_names_of_their_own(tmp_path):
    node = helper.make_node("LSTM", ["x", "onnx::LSTM_1", "onnx::LSTM_2"], ["y"], name="/rnn/LSTM", hidden_size=8)
    layers = layers_of(bare([node], {"onnx::LSTM_1": ones(1, 32, 5), "onnx::LSTM_2": ones(1, 32, 8)}), tmp_path)
    assert [layer.name for layer in layers.values()] == ["/rnn/LSTM (onnx::LSTM_1)", "/rnn/LSTM (onnx::LSTM_2)"]
    assert [(layer.kind, layer.matrix) for layer in layers.values()] == [
        ("recurrent", (32, 5)),
        ("recurrent", (32, 8)),
    ]
    assert "recurrent cannot be split" in split_refusal(layers["onnx::LSTM_1"])


def test_what_is_no_weight_is_skipped_with_the_reason(tmp_path):
    nodes = [
        helper.make_node("Add", ["x", "position"], ["a"]),
        helper.make_node("MatMul", ["a", "stack"], ["b"]),
        helper.make_node("LSTM", ["b", "both", "both"], ["c"], direction="bidirectional"),
        helper.make_node("DequantizeLinear", ["codes", "scale"], ["d"]),
        helper.make_node("MatMul", ["c", "d"], ["e"]),
        helper.make_node("MatMulInteger", ["e", "integers"], ["f"]),
        helper.make_node("FusedMatMul", ["f", "fused"], ["g"], domain="com.microsoft"),
        helper.make_node("Einsum", ["g", "mixed"], ["h"], equation="ab,bc->ac"),
        helper.make_node("Conv", ["h", "grouped"], ["y"], group=4),
    ]
    tensors = {
        "position": ones(40, 40),
        "stack": ones(2, 40, 40),
        "both": ones(2, 40, 40),
        "codes": np.ones((40, 40), np.int8),
        "scale": np.float32(1),
        "integers": np.ones((40, 40), np.uint8),
        "fused": ones(40, 40),
        "mixed": ones(40, 40),
        "grouped": ones(40, 10, 3, 3),
        "spare": ones(40, 40),
    }
    reasons = {name: layer.skip_reason() for name, layer in layers_of(bare(nodes, tensors), tmp_path).items()}
    assert reasons == {
        "position": "used by Add, not multiplied with the inputs of a layer",
        "stack": "a stack of matrices, used by MatMul",
        "both": "the gates of both directions of LSTM, in one tensor",
        "codes": "quantized: stored as int8 for DequantizeLinear",
        "scale": "a vector or scalar, not a matrix",
        "integers": "quantized: stored as uint8 for MatMulInteger",
        "fused": "used by com.microsoft.FusedMatMul, not multiplied with the inputs of a layer",
        "mixed": "used by Einsum, not multiplied with the inputs of a layer",
        "grouped": "a convolution of 4 groups: each group is a matrix of its own",
        "spare": "no node takes it",
    }


def test_weights_that_must_stay_whole(tmp_path):
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["e"]),
        helper.make_node("Transpose", ["table"], ["t"], perm=[1, 0]),
        helper.make_node("MatMul", ["e", "t"], ["a"], name="head"),
        helper.make_node("MatMul", ["a", "twice"], ["b"]),
        helper.make_node("MatMul", ["twice", "b"], ["c"], name="left"),
        helper.make_node("MatMul", ["p", "q"], ["pq"]),
        helper.make_node("Gather", ["only", "ids"], ["d"]),
        helper.make_node("Cast", ["rounded"], ["whole"], to=INT64),
        helper.make_node("MatMul", ["ids", "whole"], ["f"]),
        helper.make_node("Add", ["c", "pq"], ["y"]),
    ]
    names = ("table", "twice", "p", "q", "only", "rounded")
    built = bare(nodes, {name: ones(40, 40) for name in names})
    built.graph.output.append(helper.make_tensor_value_info("only", FLOAT, None))
    layers = layers_of(built, tmp_path)
    assert {name: (layer.kind, layer.why_whole) for name, layer in layers.items()} == {
        "table": ("linear", "used in another way by Gather "),
        "twice": ("linear_transposed", "used in another way by MatMul left"),
        "p": ("linear", "multiplied with another weight, not with inputs"),
        "q": ("linear_transposed", "multiplied with another weight, not with inputs"),
        "only": ("embedding", "an output of the graph as well"),
        "rounded": ("linear_transposed", "turned into whole numbers on the way"),
    }
    assert split_refusal(layers["table"]) == "used in another way by Gather "


def test_tensors_of_one_name_in_two_branches(tmp_path):
    def branch(name, value):
        node = helper.make_node("MatMul", ["x", "w"], [f"y_{name}"])
        output = helper.make_tensor_value_info(f"y_{name}", FLOAT, None)
        return helper.make_graph([node], name, [], [output], [proto("w", value)])

    node = helper.make_node(
        "If", ["c"], ["y"], then_branch=branch("a", ones(4, 3)), else_branch=branch("b", 2 * ones(4, 5))
    )
    with open_checkpoint(saved(bare_if(node), tmp_path / "model.onnx")) as checkpoint:
        assert {name: info.shape for name, info in checkpoint.tensors.items()} == {"w": (4, 5), "w (2)": (4, 3)}
        assert checkpoint.read("w (2)").unique().tolist() == [1.0]


ADDED = helper.make_node("Add", ["h", "b"], ["y"])
PRODUCT = helper.make_node("MatMul", ["x", "w"], ["h"])


@pytest.mark.parametrize(
    ("nodes", "bias"),
    [
        ([PRODUCT, ADDED], "b"),
        ([PRODUCT, helper.make_node("Add", ["b", "h"], ["y"])], "b"),
        # What is added to the columns of W·X is another thing, as is what anything else takes.
        ([helper.make_node("MatMul", ["w", "x"], ["h"]), ADDED], None),
        ([PRODUCT, ADDED, helper.make_node("Add", ["y", "b"], ["z"])], None),
        ([PRODUCT, ADDED, helper.make_node("Add", ["y", "h"], ["z"])], None),
        ([PRODUCT, helper.make_node("Mul", ["h", "b"], ["y"])], None),
        ([PRODUCT, helper.make_node("Add", ["h", "whole"], ["y"])], None),
    ],
)
def test_a_vector_that_is_added_to_a_product_alone_is_its_bias(nodes, bias, tmp_path):
    layers = layers_of(bare(nodes, {"w": ones(8, 6), "b": ones(6), "whole": ones(6, 6)}), tmp_path)
    assert layers["w"].bias == bias


def bare_if(node):
    inputs = [
        helper.make_tensor_value_info("x", FLOAT, None),
        helper.make_tensor_value_info("c", TensorProto.BOOL, []),
    ]
    graph = helper.make_graph([node], "g", inputs, [helper.make_tensor_value_info("y", FLOAT, None)])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def test_weights_inside_functions_are_left_alone_and_said_so(tmp_path):
    inside = helper.make_node("Constant", [], ["w"], value=proto("", ones(40, 40)))
    product = helper.make_node("MatMul", ["x", "w"], ["y"])
    function = helper.make_function("mine", "Dense", ["x"], ["y"], [inside, product], [helper.make_opsetid("", 17)])
    nodes = [
        helper.make_node("Dense", ["x"], ["h"], domain="mine"),
        helper.make_node("MatMul", ["h", "v"], ["y"]),
    ]
    built = bare(nodes, {"v": ones(40, 40)}, functions=[function])
    built.opset_import.append(helper.make_opsetid("mine", 1))
    with open_checkpoint(saved(built, tmp_path / "model.onnx")) as checkpoint:
        assert list(checkpoint.tensors) == ["v"]
        assert checkpoint.notes == ("Weights inside its 1 functions (Dense) are left alone.",)


def test_numbers_that_only_shape_the_computation_are_no_tensors_of_the_network(tmp_path):
    nodes = [
        helper.make_node("Constant", [], ["one"], value=proto("", np.float32(1))),
        helper.make_node("Mul", ["x", "one"], ["m"]),
        helper.make_node("Reshape", ["m", "shape"], ["r"]),
        helper.make_node("Add", ["r", "bias"], ["y"]),
    ]
    assert list(layers_of(bare(nodes, {"shape": np.array([1, -1]), "bias": ones(4)}), tmp_path)) == ["bias"]


@pytest.mark.parametrize(
    "dtype", ["int4", "uint4", "float8_e4m3fn", "float64", "bool", "uint32", "uint64", "int16"]
)
@pytest.mark.parametrize("raw", [True, False])
def test_every_element_type_is_read_as_onnx_reads_it(tmp_path, dtype, raw, rng):
    number = {
        "int4": 22,
        "uint4": 21,
        "float8_e4m3fn": 17,
        "float64": 11,
        "bool": 9,
        "uint32": 12,
        "uint64": 13,
        "int16": 5,
    }
    values = rng.integers(0 if dtype[0] in "ub" else -8, 2 if dtype == "bool" else 8, size=(3, 5))
    if dtype == "uint64":
        values = values.astype(np.uint64) + np.uint64(2**63)
    tensor = onnx.numpy_helper.from_array(values.astype(helper.tensor_dtype_to_np_dtype(number[dtype])), "w")
    if not raw:
        tensor = helper.make_tensor("w", number[dtype], (3, 5), values.flatten().tolist())
    path = saved(bare([helper.make_node("Identity", ["x"], ["y"])], {"w": tensor}), tmp_path / "model.onnx")
    with open_checkpoint(path) as checkpoint:
        read = checkpoint.read("w")
    if dtype == "uint64":
        assert [int(value) for value in read.flatten().tolist()] == values.flatten().tolist()
    else:
        assert read.double().tolist() == values.tolist()


def test_analysis_of_a_product_is_that_of_its_matrix(tmp_path, rng):
    values = rng.normal(size=(300, 100)).astype("f")
    built = bare(
        [helper.make_node("MatMul", ["x", "onnx::MatMul_5"], ["y"], name="fc")], {"onnx::MatMul_5": values}
    )
    (found,) = analyze(saved(built, tmp_path / "model.onnx")).analyzed
    (expected,) = analyze({"fc.weight": torch.from_numpy(values.T.copy())}).analyzed
    assert found.layer.name == "fc"
    assert found.layer.matrix == (100, 300)
    assert found.fit.gof == pytest.approx(expected.fit.gof, rel=1e-6)
    assert found.fit.edge == pytest.approx(expected.fit.edge, rel=1e-6)
