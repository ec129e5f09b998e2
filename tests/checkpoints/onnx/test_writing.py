"""ONNX out: sparse tensors, tensors beside the model, what a failed or a second writing leaves."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from rmt_compress.analysis import analyze
from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.checkpoints.onnx import onnx_writing as writing
from rmt_compress.compression import Compressed
from rmt_compress.errors import OutputError
from rmt_compress.layers.splitting import Factors
from rmt_compress.networks.exporting import export
from rmt_compress.outputs import replacing, together
from rmt_compress.planning.making import make_plan
from rmt_compress.saving.reloading import load_dense
from rmt_compress.saving.writing import write
from tests.samples.onnx_models import model, run, saved
from tests.samples.seeds import repeatable


@pytest.fixture
def built(rng):
    """Two products of noise and three strong directions each."""

    def weight(rows, columns):
        strong = rng.normal(size=(rows, 3)) @ rng.normal(size=(3, columns))
        return (rng.normal(size=(rows, columns)) + 3 * strong).astype("f") / 20

    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"], name="first"),
        helper.make_node("Relu", ["h"], ["r"], name="relu"),
        helper.make_node("Gemm", ["r", "b", "c"], ["y"], name="second", transB=1),
    ]
    tensors = {"a": weight(96, 200), "b": weight(80, 200), "c": rng.normal(size=80).astype("f")}
    return model(nodes, tensors, {"x": ("n", 96)})


@pytest.fixture
def path(built, tmp_path):
    return saved(built, tmp_path / "model.onnx")


def beside(path):
    """The same model with its tensors in a file beside it."""
    built = onnx.load(path)
    path.unlink()
    onnx.save(built, path, save_as_external_data=True, location=f"{path.stem}.weights", size_threshold=0)
    return path


def pruned(path, target, *, layout="factorized", **settings):
    with open_checkpoint(path) as checkpoint:
        plan = make_plan(analyze(checkpoint, gof=1.0), **settings)
        return write(Compressed(checkpoint, plan, layout=layout), target)


@repeatable
def inputs():
    return torch.randn(5, 96)


def answers(path):
    return run(path, {"x": inputs().numpy()})[0]


def test_factors_in_the_place_of_weights(path, tmp_path):
    written = pruned(path, tmp_path / "small.onnx")
    assert written.bytes == (tmp_path / "small.onnx").stat().st_size < path.stat().st_size / 4
    state = load_dense(path)
    low = {}
    for name in "ab":
        u, s, vt = torch.linalg.svd(state[name].double())
        low[name] = (u[:, :3] * s[:3]) @ vt[:3]
        torch.testing.assert_close(
            load_dense(tmp_path / "small.onnx")[name], low[name].float(), atol=1e-4, rtol=1e-3
        )
    expected = (inputs().double() @ low["a"]).relu() @ low["b"].T + state["c"]
    np.testing.assert_allclose(answers(tmp_path / "small.onnx"), expected.numpy(), atol=1e-3)
    with open_checkpoint(tmp_path / "small.onnx") as again:
        assert again.format == "ONNX (opset 17), compressed"
        assert [layer.rank for layer in again.manifest.factorized] == [3, 3]
        assert again.manifest.source.name == "model.onnx"


def test_dense_layout_changes_no_node(path, tmp_path):
    pruned(path, tmp_path / "dense.onnx", layout="dense", sparsify=0.01)
    before, after = onnx.load(path), onnx.load(tmp_path / "dense.onnx")
    assert after.graph.node == before.graph.node
    assert not after.graph.sparse_initializer
    assert torch.linalg.matrix_rank(load_dense(tmp_path / "dense.onnx")["a"], rtol=0.02) < 96


@pytest.mark.parametrize("sparsity", [0.5, 0.9])
def test_sparse_initializers_where_they_are_smaller(path, tmp_path, sparsity):
    """An entry takes 12 bytes sparse and 4 dense: worth it from two thirds of zeros on."""
    written = pruned(path, tmp_path / "small.onnx", sparsity=sparsity)
    small = onnx.load(tmp_path / "small.onnx")
    names = {sparse.values.name for sparse in small.graph.sparse_initializer}
    assert names == set(written.sparse) == ({"a.down", "a.up", "b.down", "b.up"} if sparsity > 2 / 3 else set())
    onnx.checker.check_model(str(tmp_path / "small.onnx"))
    state = load_dense(tmp_path / "small.onnx")
    expected = (inputs() @ state["a"]).relu() @ state["b"].T + state["c"]
    np.testing.assert_allclose(answers(tmp_path / "small.onnx"), expected.numpy(), atol=1e-4)
    if sparsity > 2 / 3:
        pruned(path, tmp_path / "whole.onnx")
        assert written.bytes < (tmp_path / "whole.onnx").stat().st_size


def test_what_onnxruntime_does_not_take_sparse_is_stored_dense(path, tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "_refused_by_onnxruntime", lambda model: "it does not like them")
    written = pruned(path, tmp_path / "small.onnx", sparsity=0.9)
    assert written.notes == ("Zeros are stored: it does not like them.",)
    assert not onnx.load(tmp_path / "small.onnx").graph.sparse_initializer


def test_an_old_ir_version_has_no_sparse_tensors(built, tmp_path):
    built.ir_version = 4
    built.opset_import[0].version = 9
    written = pruned(saved(built, tmp_path / "old.onnx"), tmp_path / "small.onnx", sparsity=0.9)
    assert "IR version 4 knows no sparse tensors" in written.notes[0]
    assert onnx.load(tmp_path / "small.onnx").ir_version == 4


def test_onnxruntime_s_own_word_on_a_model(path):
    assert writing._refused_by_onnxruntime(onnx.load(path)) is None
    broken = onnx.load(path)
    broken.graph.node[0].op_type = "Nonsense"
    assert "does not take them sparse" in writing._refused_by_onnxruntime(broken)


def test_tensors_beside_the_model_stay_beside_it(path, tmp_path):
    expected = answers(path)
    beside(path)
    target = tmp_path / "out" / "small.onnx"
    target.parent.mkdir()
    written = pruned(path, target, sparsity=0.9)
    (data,) = set(target.parent.iterdir()) - {target}
    assert data.name.startswith("small.onnx.")
    assert data.suffix == ".data"
    assert written.bytes == target.stat().st_size + data.stat().st_size
    assert written.notes == ("Tensors beside the model are stored dense, zeros included.",)
    onnx.checker.check_model(str(target))
    assert answers(target).shape == expected.shape
    # Nothing is cut: the same numbers from the files copied.
    pruned(path, tmp_path / "same.onnx", rule="rank:95", layout="dense")
    np.testing.assert_allclose(answers(tmp_path / "same.onnx"), expected, atol=0.2)


def test_writing_again_leaves_the_new_files_only(path, tmp_path):
    beside(path)
    pruned(path, tmp_path / "small.onnx")
    first = {*tmp_path.iterdir()}
    pruned(path, tmp_path / "small.onnx", rule="rank:10")
    second = {*tmp_path.iterdir()}
    assert len(first) == len(second) == 4
    assert len(first & second) == 3
    assert {layer.rank for layer in open_checkpoint(tmp_path / "small.onnx").manifest.factorized} == {10}


def test_what_fails_leaves_no_file_beside(path, tmp_path, monkeypatch):
    beside(path)
    before = {*tmp_path.iterdir()}
    monkeypatch.setattr(writing, "_problem", lambda file: None if file == path else "it is odd")
    with pytest.raises(OutputError, match=r"small\.onnx: not kept: onnx\.checker refuses it: it is odd"):
        pruned(path, tmp_path / "small.onnx")
    assert {*tmp_path.iterdir()} == before


def test_what_the_checker_does_not_like_in_the_original_is_noted(path, tmp_path):
    strange = onnx.load(path)
    strange.graph.ClearField("name")
    written = pruned(saved(strange, path), tmp_path / "small.onnx")
    assert "onnx.checker objects to the original already" in written.notes[0]


def test_a_model_that_outgrows_one_file_gets_another(path, tmp_path, monkeypatch):
    """The limit of 2 GB, lowered."""
    monkeypatch.setattr(writing, "_LARGEST_MESSAGE", 20_000)
    expected = pruned(path, tmp_path / "one.onnx", rule="rank:20"), answers(path)
    assert len(list(tmp_path.glob("one.onnx.*.data"))) == 1
    assert answers(tmp_path / "one.onnx").shape == expected[1].shape
    small = onnx.load(tmp_path / "one.onnx", load_external_data=False)
    located = {tensor.name: tensor.data_location for tensor in small.graph.initializer}
    assert located == dict.fromkeys(("a.down", "a.up", "b.down", "b.up"), TensorProto.EXTERNAL) | {"c": 0}


def test_export_gives_the_original_names_and_shapes(path, tmp_path):
    pruned(path, tmp_path / "small.onnx")
    export(tmp_path / "small.onnx", tmp_path / "dense.safetensors")
    shapes = {name: tuple(tensor.shape) for name, tensor in load_dense(tmp_path / "dense.safetensors").items()}
    assert shapes == {"a": (96, 200), "b": (80, 200), "c": (80,)}


@pytest.mark.slow
def test_more_than_two_gigabytes(tmp_path):
    """Weights of 2.2 GB, all but one in holes of the file beside the model."""
    count, size = 9, 8192
    nodes, tensors = [], []
    for index in range(count):
        given = "x" if index == 0 else f"h{index - 1}"
        nodes.append(helper.make_node("MatMul", [given, f"w{index}"], [f"h{index}" if index < count - 1 else "y"]))
        tensor = TensorProto(name=f"w{index}", data_type=TensorProto.FLOAT, dims=(size, size))
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (
            ("location", "big.bin"),
            ("offset", str(4 * index * size * size)),
            ("length", str(4 * size * size)),
        ):
            tensor.external_data.add(key=key, value=value)
        tensors.append(tensor)
    shape = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ("n", size)) for name in "xy"]
    graph = helper.make_graph(nodes, "big", shape[:1], shape[1:], tensors)
    path = saved(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "big.onnx")
    with (tmp_path / "big.bin").open("wb") as file:
        file.truncate(4 * count * size * size)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.parameters == count * size * size
        layer = checkpoint.layers()[3]
        editor = checkpoint.editor()
        editor.replace(layer, Factors(torch.ones(2, size), torch.ones(size, 2)))
        with together(), replacing(tmp_path / "out.onnx") as temporary:
            editor.write(temporary, target=tmp_path / "out.onnx", metadata={}, sparse=False)
    with open_checkpoint(tmp_path / "out.onnx") as again:
        assert again.parameters == (count - 1) * size * size + 4 * size
        assert again.read("w3.down").eq(1).all()
        assert sum(file.stat().st_size for file in again.files) > 2**31
