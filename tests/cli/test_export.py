"""`rmt-compress export` as a user types it."""

import importlib.util

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.export import Dim

import rmt_compress as rmt
from rmt_compress.networks import architectures, exporting
from tests.samples import compressed, exported, onnx_models
from tests.samples.command_line import one_error_line

CNN = "cnn:3x8x8/16,p,24/40,10"


@pytest.fixture
def small(tmp_path):
    save_file(compressed.network().state_dict(), tmp_path / "model.safetensors", {"licence": "CC0"})
    compressed.write(tmp_path / "small.safetensors", source=tmp_path / "model.safetensors", sparsify=0.01)
    return tmp_path / "small.safetensors"


@pytest.fixture
def small_cnn(tmp_path):
    model = architectures.build(CNN, seed=0).eval()
    with torch.no_grad():
        model(torch.randn(8, 3, 8, 8))
    save_file(model.state_dict(), tmp_path / "cnn.safetensors", {"architecture": CNN})
    ranks = {"conv2.weight": 5, "fc1.weight": 6}
    small = compressed.write(
        tmp_path / "small.safetensors", model, source=tmp_path / "cnn.safetensors", ranks=ranks
    )
    return small, tmp_path / "small.safetensors"


@pytest.mark.parametrize("name", ["dense.safetensors", "dense.pt"])
def test_state_dict_under_original_names(run, tmp_path, small, name):
    result = run("export", small, "-o", name)
    assert result.returncode == 0, result.stderr
    assert f"{(tmp_path / name).stat().st_size:,} bytes" in result.stdout
    path = tmp_path / name
    state = load_file(path) if name.endswith("safetensors") else torch.load(path, weights_only=True)
    model = compressed.network()
    model.load_state_dict(state, strict=True)
    assert all(torch.equal(state[key], tensor) for key, tensor in rmt.load_dense(small).items())
    assert rmt.open_checkpoint(path).manifest is None
    if name.endswith("safetensors"):
        with safe_open(path, "pt") as file:
            assert file.metadata()["licence"] == "CC0"
            assert "rmt_compress" not in file.metadata()


@pytest.mark.slow
def test_onnx_from_the_architecture_in_the_file(run, tmp_path, small_cnn):
    import onnx

    small, path = small_cnn
    result = run("export", path, "-o", "small.onnx")
    assert result.returncode == 0, result.stderr
    assert result.stderr == "next: rmt-compress show small.onnx\n"
    assert result.stdout.startswith("small.onnx: onnx")
    graph = onnx.load(tmp_path / "small.onnx")
    onnx.checker.check_model(graph, full_check=True)
    # As docs/layers.md says, the exporter folds them.
    assert "BatchNormalization" not in {node.op_type for node in graph.graph.node}
    names = {tensor.name for tensor in graph.graph.initializer}
    assert {"conv2.down.weight", "conv2.up.weight", "fc1.down.weight"} <= names
    for batch in (1, 7):
        x = torch.rand(batch, 3, 8, 8)
        (output,) = onnx_models.run(tmp_path / "small.onnx", {"input": x.numpy()})
        assert np.abs(output - small(x).detach().numpy()).max() < 1e-4


@pytest.mark.slow
@pytest.mark.traced
def test_onnx_of_networks_that_bring_their_own_graph_or_class(run, tmp_path):
    model, inputs = nn.Sequential(nn.Linear(6, 5), nn.ReLU()).eval(), torch.randn(2, 6)
    program = exported.quiet(lambda: torch.export.export(model, (inputs,), dynamic_shapes=({0: Dim("batch")},)))
    exported.save(program, tmp_path / "net.pt2")
    torch.save(model, tmp_path / "net.pt")
    exported.quiet(lambda: torch.jit.save(torch.jit.trace(model, inputs), tmp_path / "net.jit"))
    for name in ("net.pt2", "net.pt"):
        arguments = ("export", tmp_path / name, "-o", f"{name}.onnx", "--trust")
        line = one_error_line(run(*arguments))
        assert line.endswith(f"{name}: the file does not tell the shape of its inputs; add --input-shape 3,32,32")
        assert run(*arguments, "--input-shape", "6").returncode == 0
        (output,) = onnx_models.run(tmp_path / f"{name}.onnx", {"input": inputs.numpy()})
        np.testing.assert_allclose(output, model(inputs).detach(), atol=1e-6)
    line = one_error_line(run("export", tmp_path / "net.jit", "-o", "jit.onnx", "--trust"))
    assert "net.jit: torch turns no TorchScript program into ONNX; export the model it was made from" in line
    assert not (tmp_path / "jit.onnx").exists()


@pytest.mark.slow
@pytest.mark.traced
def test_onnx_of_the_user_s_own_network(run, tmp_path, small):
    assert "add --arch" in one_error_line(run("export", small, "-o", "out.onnx"))
    line = one_error_line(run("export", small, "-o", "out.onnx", "--arch", "tests.samples.compressed:network"))
    assert "does not tell the shape of its inputs; add --input-shape" in line
    arguments = ("export", small, "-o", "out.onnx", "--arch", "tests.samples.compressed:network", "--input-shape")
    line = one_error_line(run(*arguments, "3,9"))
    assert "does not take inputs of shape 3×9" in line
    assert "--input-shape must be whole numbers" in one_error_line(run(*arguments, "3,-9"))
    assert not (tmp_path / "out.onnx").exists()
    assert run(*arguments, "3,8,8").returncode == 0
    assert (tmp_path / "out.onnx").exists()


def test_wrong_architecture_names_the_tensors(run, tmp_path, small):
    line = one_error_line(run("export", small, "-o", "out.onnx", "--arch", "mlp:784,10"))
    assert "conv.weight" in line
    assert "fc1.weight" in line
    assert not (tmp_path / "out.onnx").exists()


def test_an_architecture_in_a_file_runs_no_code(run, tmp_path):
    save_file({"a.weight": torch.zeros(3, 3)}, tmp_path / "m.safetensors", {"architecture": "this:that"})
    line = one_error_line(run("export", "m.safetensors", "-o", "out.onnx"))
    assert "if you trust it, add --arch this:that" in line


@pytest.mark.slow
@pytest.mark.traced
def test_a_graph_that_computes_something_else_is_not_kept(run, tmp_path, small_cnn, monkeypatch):
    trace = exporting._trace

    def wrong(model, *arguments):
        model.fc2.bias.data += 0.01
        trace(model, *arguments)

    monkeypatch.setattr(exporting, "_trace", wrong)
    line = one_error_line(run("export", small_cnn[1], "-o", "out.onnx"))
    assert "differ from torch's by 0.01" in line
    assert {path.name for path in tmp_path.iterdir()} == {"cnn.safetensors", "small.safetensors"}


def test_a_network_that_returns_nan_is_named(run, tmp_path):
    state = architectures.build("mlp:8,4", seed=0).state_dict()
    state["fc1.weight"][0, 0] = float("nan")
    save_file(state, tmp_path / "nan.safetensors", {"architecture": "mlp:8,4"})
    line = one_error_line(run("export", "nan.safetensors", "-o", "out.onnx"))
    assert "nan.safetensors: the network returns NaN or Inf" in line
    assert [path.name for path in tmp_path.iterdir()] == ["nan.safetensors"]


@pytest.mark.parametrize("package", ["onnxscript", "onnxruntime"])
def test_missing_packages_are_named(run, small_cnn, monkeypatch, package):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(exporting, "find_spec", lambda name: None if name == package else find_spec(name))
    line = one_error_line(run("export", small_cnn[1], "-o", "out.onnx"))
    assert f"making an ONNX file of a network needs {package}: pip install 'rmt-compress[onnx]'" in line


def test_nothing_is_overwritten(run, tmp_path, small):
    before = small.read_bytes()
    assert "the output is the input" in one_error_line(run("export", small, "-o", small, "--force"))
    assert "exists already" in one_error_line(run("export", small, "-o", "model.safetensors"))
    assert run("export", small, "-o", "model.safetensors", "--force").returncode == 0
    assert "must end in" in one_error_line(run("export", small, "-o", "out.h5"))
    assert "for .onnx files only" in one_error_line(run("export", small, "-o", "out.pt", "--arch", "mlp:1,1"))
    assert "nowhere.pt" in one_error_line(run("export", "nowhere.pt", "-o", "out.pt"))
    assert small.read_bytes() == before
    assert not (tmp_path / "out.pt").exists()
