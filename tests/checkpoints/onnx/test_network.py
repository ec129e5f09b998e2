"""An ONNX model measured and swept like a torch module of the same network."""

import warnings

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from torch import nn

from rmt_compress.analysis import analyze
from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.compression import Compressed, compress
from rmt_compress.data import Dataset
from rmt_compress.errors import (
    CheckpointError,
    CompressionError,
    EvaluationError,
    MissingDependencyError,
    SettingsError,
)
from rmt_compress.networks.architectures import build
from rmt_compress.networks.evaluation import evaluate, move
from rmt_compress.networks.loading import load_model
from rmt_compress.networks.measurement import count_macs
from rmt_compress.planning.making import make_plan
from rmt_compress.saving.writing import write
from rmt_compress.sweep import SweepTarget, sweep_rank, sweep_sparsity
from tests.samples.onnx_models import model, proto, run, saved, split_all
from tests.samples.seeds import repeatable


class Everything(nn.Module):
    """Convolutions of every kind, a norm, a Linear behind a transposition and one of three dimensions."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.deconv = nn.ConvTranspose2d(8, 6, 3, stride=2, output_padding=1)
        self.depthwise = nn.Conv2d(6, 6, 3, groups=6)
        self.audio = nn.Conv1d(6, 12, 5, dilation=2)
        self.token = nn.Linear(12, 16)
        self.head = nn.Linear(16, 10, bias=False)

    def forward(self, x):
        x = self.depthwise(self.deconv(self.norm(self.conv(x)).relu()))
        x = self.audio(x.flatten(2)).transpose(1, 2)
        return self.head(self.token(x).relu().mean(1))


def exported(module, path, shape, *, dynamo):
    """`module` as torch writes it, by the new exporter or the old one, with a batch of any size."""
    example = torch.randn(2, *shape)
    how = (
        {"dynamic_shapes": ({0: torch.export.Dim("batch")},)}
        if dynamo
        else {"dynamic_axes": {"input": {0: "batch"}}}
    )
    with warnings.catch_warnings():
        # Both exporters warn of their own deprecations.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            (example,),
            str(path),
            input_names=["input"],
            output_names=["output"],
            dynamo=dynamo,
            verbose=False,
            **({"external_data": False} if dynamo else {}),
            **how,
        )
    return path


@pytest.fixture(scope="module", params=[True, False], ids=["dynamo", "legacy"])
@repeatable
def pair(request, tmp_path_factory):
    """One network as a module and as a file."""
    module = Everything().eval()
    path = tmp_path_factory.mktemp("exported") / "everything.onnx"
    return module, exported(module, path, (1, 14, 14), dynamo=request.param)


@repeatable
def images(count=6, shape=(1, 14, 14)):
    return torch.randn(count, *shape)


def test_what_torch_exports_is_recognised_layer_by_layer(pair):
    _, path = pair
    with open_checkpoint(path) as checkpoint:
        found = {layer.name: layer for layer in checkpoint.layers() if len(layer.shape) > 1}
        assert {layer.kind for name, layer in found.items()} >= {"conv1d", "conv2d", "conv_transpose2d"}
        assert found["depthwise"].groups == 6
        # Norms are folded into convolutions by the old exporter, and Linears without bias turned round by both.
        shapes = sorted(layer.matrix for layer in found.values() if layer.kind.startswith("linear"))
        assert shapes == [(10, 16), (16, 12)]


def test_full_rank_changes_no_output(pair, tmp_path):
    module, path = pair
    names = split_all(path, tmp_path / "split.onnx")
    assert len(names) == 5
    onnx.checker.check_model(str(tmp_path / "split.onnx"), full_check=True)
    with torch.no_grad():
        expected = module(images()).numpy()
    (output,) = run(tmp_path / "split.onnx", {"input": images().numpy()})
    np.testing.assert_allclose(output, expected, atol=1e-5)
    # Written out of its own output, nothing is lost either.
    (before,) = run(path, {"input": images().numpy()})
    np.testing.assert_allclose(output, before, atol=1e-5)


def test_it_answers_and_costs_what_the_module_does(pair):
    module, path = pair
    network = load_model(path)
    assert not network.training
    with torch.no_grad():
        torch.testing.assert_close(network(images()), module(images()), atol=1e-5, rtol=1e-4)
    assert count_macs(network, images(1)) == count_macs(module, images(1))
    assert count_macs(network, images(4)) == 4 * count_macs(network, images(1))


@pytest.fixture(scope="module")
@repeatable
def mlp(tmp_path_factory):
    """An MLP with strong directions, the same as an ONNX file, and data it answers four times out of five."""
    module = build("mlp:64,96,80,10", seed=4).eval()
    for parameter in module.parameters():
        if parameter.dim() == 2:
            rows, columns = parameter.shape
            strong = torch.randn(rows, 3) @ torch.randn(3, columns)
            parameter.data += 0.3 * strong
    inputs = torch.randn(200, 1, 8, 8)
    with torch.no_grad():
        # Every class is to have its share of the answers.
        list(module.parameters())[-1].data -= module(inputs).mean(0)
        labels = torch.where(torch.rand(200) < 0.8, module(inputs).argmax(1), 0)
    path = exported(module, tmp_path_factory.mktemp("mlp") / "mlp.onnx", (64,), dynamo=True)
    return module, path, Dataset("made", "test", inputs, labels, classes=10)


@pytest.mark.slow
def test_sweeps_agree_point_by_point(mlp):
    """Many weights come and go; onnxruntime must see each."""
    module, path, dataset = mlp
    network = load_model(path)
    sweeps = []
    for each in (module, network):
        target = SweepTarget(each, analyze(each, gof=1.0), dataset)
        ranks = sweep_rank(target, points=8)
        zeros = sweep_sparsity(target, points=4)
        sweeps.append([[(point.amount, point.score) for point in curve.points] for curve in ranks.curves])
        sweeps[-1] += [[point.score for point in curve.points] for curve in zeros.curves]
        assert target.score_with({}) == target.score
    assert sweeps[0] == sweeps[1]
    assert len({accuracy for curve in sweeps[0][:2] for _, accuracy in curve}) > 4


@pytest.mark.slow
def test_evaluation_of_the_file_and_of_what_is_pruned(mlp, tmp_path):
    module, path, dataset = mlp
    with open_checkpoint(path) as checkpoint:
        write(Compressed(checkpoint, make_plan(analyze(checkpoint, gof=1.0))), tmp_path / "small.onnx")
    before = evaluate(load_model(path), dataset, path=path, latency=False)
    after = evaluate(load_model(tmp_path / "small.onnx"), dataset, path=tmp_path / "small.onnx")
    expected = evaluate(module, dataset, latency=False)
    assert before.score.accuracy == expected.score.accuracy
    assert before.score.loss == pytest.approx(expected.score.loss, rel=1e-5)
    assert (before.parameters, before.macs) == (expected.parameters, expected.macs)
    # Two layers of rank 3 each, the small one whole.
    assert after.macs == 3 * (64 + 96) + 3 * (96 + 80) + 80 * 10
    assert after.bytes == (tmp_path / "small.onnx").stat().st_size
    assert set(after.latency_ms) == {"1", "128"}


def fixed(tmp_path, rng, batch=4):
    node = helper.make_node("Gemm", ["x", "w"], ["y"])
    return saved(
        model([node], {"w": rng.normal(size=(5, 3)).astype("f")}, {"x": (batch, 5)}), tmp_path / "fixed.onnx"
    )


@pytest.mark.parametrize("count", [1, 4, 10])
def test_batches_of_another_size_than_the_model_s(tmp_path, rng, count):
    network = load_model(fixed(tmp_path, rng))
    inputs = torch.from_numpy(rng.normal(size=(count, 5)).astype("f"))
    torch.testing.assert_close(network(inputs), inputs @ network.checkpoint.read("w"))
    assert count_macs(network, inputs) == count * 15


@pytest.mark.parametrize("outside", [False, True])
def test_a_weight_that_comes_and_goes(tmp_path, rng, outside):
    """In a branch, in a Constant node, or beside the model: wherever it is stored."""
    constant = helper.make_node("Constant", [], ["v"], value=proto("", rng.normal(size=(3, 3)).astype("f")))
    nodes = [constant, helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("MatMul", ["h", "v"], ["y"])]
    path = tmp_path / "model.onnx"
    built = model(nodes, {"w": rng.normal(size=(5, 3)).astype("f")}, {"x": ("n", 5)})
    onnx.save(built, path, save_as_external_data=outside, location="w.bin", size_threshold=0)
    network = load_model(path)
    x = torch.from_numpy(rng.normal(size=(2, 5)).astype("f"))
    w, v = network.checkpoint.read("w"), network.checkpoint.read("v")
    parameters = dict(network.named_parameters())
    for new_w, new_v in ((2 * w, v), (w, -v), (3 * w, 5 * v), (w, v)):
        parameters["w"].data, parameters["v"].data = new_w, new_v
        torch.testing.assert_close(network(x), x @ new_w @ new_v)


def test_another_device_is_refused(tmp_path, rng):
    network = load_model(fixed(tmp_path, rng))
    with pytest.raises(
        SettingsError, match="cannot run on device 'meta': RuntimeError: an ONNX graph is run on the CPU"
    ):
        move(network, "meta")
    assert network(torch.ones(4, 5)).shape == (4, 3)


def test_what_onnxruntime_cannot_run_is_one_line(tmp_path):
    node = helper.make_node("Nonsense", ["x", "w"], ["y"], domain="mine")
    built = model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": np.ones((3, 3), "f")}, {"x": (2, 3)})
    built.graph.node[0].CopyFrom(node)
    built.opset_import.append(helper.make_opsetid("mine", 1))
    with pytest.raises(CheckpointError, match=r"odd\.onnx: onnxruntime cannot run it: .*Nonsense") as caught:
        load_model(saved(built, tmp_path / "odd.onnx"))
    assert str(caught.value).isprintable()


def test_inputs_that_do_not_fit(tmp_path, rng):
    dataset = Dataset("wide", "test", torch.ones(8, 7), torch.zeros(8, dtype=torch.long), classes=3)
    with pytest.raises(
        EvaluationError, match=r"cannot take inputs of 7 from wide, 8 at once: .* x takes N×5, and 8×7 is given"
    ):
        evaluate(load_model(fixed(tmp_path, rng)), dataset)


def test_without_onnxruntime_one_line_says_what_to_install(tmp_path, rng, monkeypatch):
    path = fixed(tmp_path, rng)
    monkeypatch.setattr("rmt_compress.checkpoints.onnx.onnx_file.find_spec", lambda name: name == "onnx" or None)
    with pytest.raises(MissingDependencyError, match=r"running an ONNX file needs onnxruntime: pip install"):
        load_model(path)


def test_the_module_is_not_compressed_but_its_file(tmp_path, rng):
    path = fixed(tmp_path, rng)
    network = load_model(path)
    with pytest.raises(CompressionError, match=r"fixed\.onnx: this module only runs the graph in a file"):
        compress(network, make_plan(analyze(path)))


@pytest.mark.slow
@pytest.mark.traced
def test_a_state_dict_has_no_names_for_the_factors_of_any_tensor(mlp, tmp_path, rng):
    _, path, _ = mlp
    plan = make_plan(analyze(path, gof=1.0))
    assert set(compress(path, plan)) >= {"fc1.down.weight", "fc1.up.weight", "fc1.up.bias"}
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    weight = np.outer(np.arange(40.0), np.arange(40.0)).astype("f") + rng.normal(size=(40, 40))
    other = saved(model([node], {"w": weight.astype("f")}, {"x": (2, 40)}), tmp_path / "other.onnx")
    with pytest.raises(CompressionError, match=r"w is not the weight of a layer .* layout dense"):
        compress(other, make_plan(analyze(other, gof=1.0)))
    assert compress(other, make_plan(analyze(other, gof=1.0)), layout="dense")["w"].shape == (40, 40)
