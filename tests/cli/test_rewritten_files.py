"""Files of this project that another program has written again: its text kept, its tensors exchanged."""

import onnx
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import rmt_compress as rmt
from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.networks import architectures
from rmt_compress.networks.exporting import export
from rmt_compress.networks.loading import load_model

ARCH = "mlp:64,96,48,10"


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A small network in a file that names its architecture."""
    path = tmp_path_factory.mktemp("network") / "net.safetensors"
    rmt.save(architectures.build(ARCH, seed=0), path, metadata={"architecture": ARCH})
    return path


@pytest.fixture(scope="module")
def small(network):
    """The same cut to rank 7, split and with zeros in it."""
    path = network.with_name("small.safetensors")
    dense = network.with_name("dense.safetensors")
    save_file(rmt.load_dense(network), dense, {"architecture": ARCH})
    analysis = rmt.analyze(dense)
    rmt.prune(dense, path, plan=rmt.make_plan(analysis, rule="rank:7", sparsity=0.5))
    return path


@pytest.fixture(scope="module")
def graphs(network):
    """An ONNX file and its pruned one."""
    whole, pruned = network.with_name("net.onnx"), network.with_name("net.pruned.onnx")
    export(network, whole)
    rmt.prune(whole, pruned, plan=rmt.make_plan(rmt.analyze(whole), rule="rank:7"))
    return whole, pruned


def quantized(source, target, how):
    """What onnxruntime's quantizer makes of a model of (N, 64) inputs."""
    quantization = pytest.importorskip("onnxruntime.quantization")
    if how == "dynamic":
        quantization.quantize_dynamic(source, target)
        return target

    class Reader(quantization.CalibrationDataReader):
        def __init__(self):
            self._batches = iter([{"input": torch.rand(16, 64).numpy()}])

        def get_next(self):
            return next(self._batches, None)

    layout = quantization.QuantFormat[how.removesuffix(" by channel")]
    quantization.quantize_static(source, target, Reader(), layout, per_channel="channel" in how)
    return target


WAYS = ["dynamic", "QDQ", "QDQ by channel", "QOperator", "QOperator by channel"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", WAYS)
def test_a_quantized_network_runs_and_is_counted(graphs, tmp_path, how):
    for source in graphs:
        target = quantized(source, tmp_path / source.name, how)
        inputs = torch.rand(5, 64)
        theirs, ours = load_model(source), load_model(target)
        expected, found = theirs(inputs), ours(inputs)
        assert float((found - expected).norm() / expected.norm()) < 0.1
        # As many products as before, though onnxruntime takes the weights in whole numbers.
        assert ours.multiply_adds(inputs) == theirs.multiply_adds(inputs) > 0
        with open_checkpoint(source) as whole, open_checkpoint(target) as rewritten:
            assert rewritten.manifest is None
            told = any("Another program has changed the file" in text for text in rewritten.notes)
            assert told == (whole.manifest is not None)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", ["dynamic", "QDQ", "QOperator"])
@pytest.mark.traced
def test_every_command_takes_a_quantized_file(graphs, tmp_path, run, how):
    quantized(graphs[1], tmp_path / "q.onnx", how)
    for words, status in (
        (("show", "q.onnx"), 0),
        (("export", "q.onnx", "-o", "q.safetensors"), 0),
        (("analyze", "q.onnx"), 1),
        (("prune", "q.onnx", "-o", "again.onnx"), 1),
        (("evaluate", "q.onnx", "--data", "digits", "--limit", "20"), 0),
        (("sweep", "q.onnx", "--data", "digits", "--limit", "20"), 1),
    ):
        result = run(*words)
        assert result.returncode == status, (words, result.stderr)
        assert "Another program has changed the file" in result.stderr, words
        assert "Traceback" not in result.stderr


@pytest.mark.slow
@pytest.mark.traced
def test_renamed_and_dropped_initializers(graphs, tmp_path):
    model = onnx.load(graphs[1])
    for tensor in model.graph.initializer:
        if tensor.name == "fc1.weight.down":
            tensor.name = "w"
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name == "fc1.weight.down":
                node.input[index] = "w"
    onnx.save(model, tmp_path / "renamed.onnx")
    inputs = torch.rand(3, 64)
    ours = load_model(tmp_path / "renamed.onnx")
    torch.testing.assert_close(ours(inputs), load_model(graphs[1])(inputs))
    assert ours.checkpoint.manifest is None
    plan = rmt.make_plan(rmt.analyze(ours), sparsity=0.5)
    again = rmt.prune(tmp_path / "renamed.onnx", tmp_path / "again.onnx", plan=plan)
    assert again.output is not None


def test_another_operator_set_keeps_all(graphs, tmp_path):
    converted = onnx.version_converter.convert_version(onnx.load(graphs[1]), 21)
    converted.metadata_props.extend(onnx.load(graphs[1]).metadata_props)
    onnx.save(converted, tmp_path / "converted.onnx")
    with open_checkpoint(tmp_path / "converted.onnx") as checkpoint:
        assert checkpoint.manifest is not None


def _cast(state):
    return {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def _cast_one(state):
    return {name: tensor.half() if name == "fc1.up.bias" else tensor for name, tensor in state.items()}


def _renamed(state):
    return {f"net.{name}": tensor for name, tensor in state.items()}


def _dropped(state):
    return {name: tensor for name, tensor in state.items() if not name.startswith("fc1.")}


def _merged(state):
    return {"fc1.weight": torch.randn(96, 64), **_dropped(state)}


@pytest.mark.parametrize(
    ("change", "ours"),
    [(_cast, True), (_cast_one, True), (_renamed, False), (_dropped, False), (_merged, False)],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_tensors_written_again(small, tmp_path, run, change, ours, suffix):
    path = tmp_path / f"again{suffix}"
    with safe_open(small, "pt") as file:
        texts = file.metadata()
    if suffix == ".pt":
        torch.save({"state_dict": change(load_file(small)), **texts}, path)
    else:
        save_file(change(load_file(small)), path, texts)
    with open_checkpoint(path) as checkpoint:
        assert (checkpoint.manifest is not None) == ours
        for name, info in checkpoint.tensors.items():
            assert tuple(checkpoint.read(name).shape) == info.shape
    if ours:
        dense = rmt.load_dense(path)
        expected = rmt.load_dense(small)
        assert {name: tensor.shape for name, tensor in dense.items()} == {
            name: tensor.shape for name, tensor in expected.items()
        }
        torch.testing.assert_close(
            dense["fc1.weight"].float(), expected["fc1.weight"].float(), atol=1e-2, rtol=1e-2
        )
        return
    for words in (("show", path), ("analyze", path), ("export", path, "-o", "d.safetensors")):
        result = run(*words)
        assert result.returncode in (0, 1), result.stderr
        assert "Another program has changed the file" in result.stderr
    pruned = rmt.prune(path, tmp_path / "less.pt", plan=rmt.make_plan(rmt.analyze(path), rule="rank:2"))
    if pruned.output is not None:
        # The text of the first writing is gone for good.
        with open_checkpoint(pruned.output) as again:
            assert all("Another program" not in text for text in again.notes)


def test_a_state_dict_renamed_in_place_keeps_our_record(network, tmp_path):
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = architectures.build(ARCH, seed=0)

    torch.save(torch.nn.DataParallel(Net()).state_dict(), tmp_path / "net.pt")
    rmt.prune(
        tmp_path / "net.pt",
        tmp_path / "d.pt",
        layout="dense",
        plan=rmt.make_plan(rmt.analyze(tmp_path / "net.pt"), rule="rank:5"),
    )
    state = torch.load(tmp_path / "d.pt")
    for name in list(state):
        state[name.removeprefix("module.")] = state.pop(name)
    torch.save(state, tmp_path / "plain.pt")
    with open_checkpoint(tmp_path / "plain.pt") as checkpoint:
        assert checkpoint.manifest is not None
        assert "inner.fc1.weight" in checkpoint.tensors
    for name in list(state):
        state[name.replace("inner", "body")] = state.pop(name)
    torch.save(state, tmp_path / "other.pt")
    with open_checkpoint(tmp_path / "other.pt") as checkpoint:
        assert checkpoint.manifest is None
        assert "inner.fc1.weight is missing" in checkpoint.notes[-1]
