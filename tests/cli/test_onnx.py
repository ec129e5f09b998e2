"""Every command on ONNX files, as a user types it."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.samples.command_line import one_error_line
from tests.samples.onnx_models import model, saved
from tests.samples.onnx_models import run as run_onnx
from tests.samples.repository import DIGITS


@pytest.fixture
def digits(exported_digits, tmp_path):
    path = tmp_path / "digits.onnx"
    path.write_bytes(exported_digits.read_bytes())
    return path


@pytest.mark.slow
def test_analyze_finds_what_it_finds_in_the_state_dict(run_process, digits):
    same = ("name", "matrix", "spikes", "verdict", "kind")
    found = [
        [{key: layer[key] for key in same} for layer in json.loads(result.stdout)["layers"] if layer["verdict"]]
        for result in (run_process("analyze", "digits.onnx", "--json"), run_process("analyze", DIGITS, "--json"))
    ]
    assert found[0] == found[1]
    assert [layer["name"] for layer in found[0]] == ["fc1", "fc2"]


def test_prune_without_naming_the_file(run, digits, tmp_path):
    result = run("prune", "--sparsity", "0.9")
    assert result.returncode == 0, result.stderr
    assert "taking digits.onnx" in result.stderr
    small = onnx.load(tmp_path / "digits.pruned.onnx")
    onnx.checker.check_model(small)
    assert {sparse.values.name for sparse in small.graph.sparse_initializer} >= {"fc2.weight.down", "fc3.weight"}
    assert "smaller" in result.stdout


@pytest.mark.slow
def test_prune_measure_show(run, digits, tmp_path):
    result = run("prune", digits, "-o", "small.onnx", "--data", "digits", "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["accuracy"]["before"] == pytest.approx(0.975)
    assert report["accuracy"]["after"] > 0.95
    assert {layer["name"]: layer["action"] for layer in report["layers"] if len(layer["shape"]) > 1} == {
        "fc1": "factorized",
        "fc2": "factorized",
        "fc3": "skipped",
    }
    assert (tmp_path / "small.sweep.png").exists()
    shown = json.loads(run("show", "small.onnx", "--json").stdout)
    assert shown["format"].endswith("compressed")
    ranks = {layer["name"]: layer["rank"] for layer in shown["layers"]}
    factors = {layer["name"]: layer["factors"] for layer in shown["layers"]}
    assert factors["fc2"] == [[ranks["fc2"], 512], [512, ranks["fc2"]]]
    table = run("show", "small.onnx")
    assert "source digits.onnx (ONNX" in " ".join(table.stdout.split())
    assert "prune the original" in one_error_line(run("prune", "small.onnx"))


def test_evaluate_side_by_side_with_the_file_it_was_made_from(run, digits):
    result = run("evaluate", digits, "--against", DIGITS, "--data", "digits", "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    for key in ("accuracy", "parameters", "macs", "samples"):
        assert report["model"][key] == report["against"][key]


def test_sweep(run, digits, tmp_path):
    result = run("sweep", digits, "--data", "digits", "--what", "rank", "--limit", "60", "--points", "2", "--json")
    assert result.returncode == 0, result.stderr
    curves = json.loads(result.stdout)["sweeps"][0]["curves"]
    assert [curve["name"] for curve in curves] == ["fc1", "fc2"]
    assert (tmp_path / "digits.sweep" / "rank.png").exists()


def test_export(run, digits):
    assert run("export", digits, "-o", "dense.pt").returncode == 0
    line = one_error_line(run("export", digits, "-o", "other.onnx"))
    assert "is a graph in this very format already" in line


def test_mistakes(run, digits):
    assert "must end in .onnx" in one_error_line(run("prune", digits, "-o", "small.pt"))
    line = one_error_line(run("evaluate", digits, "--data", "digits", "--arch", "mlp:64,10"))
    assert "carries its own graph; leave out --arch" in line
    (digits.parent / "bad.onnx").write_bytes(digits.read_bytes()[:5000])
    for command in (
        ["analyze"],
        ["prune"],
        ["show"],
        ["evaluate", "--data", "digits"],
        ["sweep", "--data", "digits"],
    ):
        line = one_error_line(run(command[0], "bad.onnx", *command[1:]))
        assert "bad.onnx: truncated, damaged or no ONNX model" in line


def test_a_quantized_model_is_told_why_nothing_can_be_cut(run, tmp_path):
    nodes = [
        helper.make_node("DequantizeLinear", ["codes", "scale"], ["w"]),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    tensors = {"codes": np.ones((64, 64), np.int8), "scale": np.float32(0.1)}
    saved(model(nodes, tensors, {"x": (2, 64)}), tmp_path / "int8.onnx")
    result = run("prune", "int8.onnx")
    assert "skipped" in result.stdout
    line = one_error_line(result, status=1)
    assert "none of its 2 tensors can be analysed" in line
    assert "quantized: stored as int8 for DequantizeLinear" in " ".join(run("analyze", "int8.onnx").stdout.split())


def test_a_damaged_layer_is_named(run_process, tmp_path, rng):
    weight = rng.normal(size=(64, 64)).astype("f")
    weight[3, 4] = np.nan
    tensors = {"fc.weight": numpy_helper.from_array(weight, "fc.weight")}
    built = model([helper.make_node("MatMul", ["x", "fc.weight"], ["y"])], tensors, {"x": (2, 64)})
    saved(built, tmp_path / "nan.onnx")
    result = run_process("analyze", "nan.onnx")
    assert result.returncode == 2
    assert "fc.weight skipped: 1 of its entries are NaN or Inf" in result.stderr


def test_float16_from_end_to_end(run, tmp_path, rng):
    weight = (rng.normal(size=(200, 100)) + 5 * np.outer(rng.normal(size=200), rng.normal(size=100))).astype(
        np.float16
    )
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="fc")
    built = model([node], {"w": weight}, {"x": ("n", 200)}, kind=TensorProto.FLOAT16)
    saved(built, tmp_path / "half.onnx")
    result = run("prune", "half.onnx", "-o", "small.onnx")
    assert result.returncode == 0, result.stderr
    assert {tensor.data_type for tensor in onnx.load(tmp_path / "small.onnx").graph.initializer} == {
        TensorProto.FLOAT16
    }


def test_the_pruned_file_answers(run, digits, tmp_path, rng):
    """By onnxruntime alone, as a stranger runs it."""
    images = rng.random((20, 64), dtype=np.float32)
    run("prune", digits, "-o", "small.onnx", "--keep-bulk", "0.3")
    before, after = (answers(path, images) for path in (digits, tmp_path / "small.onnx"))
    assert (before.argmax(1) == after.argmax(1)).mean() > 0.7


def answers(path, images):
    return run_onnx(path, {"input": images})[0]
