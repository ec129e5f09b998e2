"""Text asked of encoders and decoders that are graphs in files, against the module and onnxruntime by hand."""

import json
import re

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper
from torch.export import Dim
from typer.testing import CliRunner

from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.cli.app import app
from rmt_compress.data.settings import DataSettings
from rmt_compress.errors import DataError, EvaluationError
from rmt_compress.networks.calibration.calibrating import calibrate
from rmt_compress.networks.calling import call, main_output
from rmt_compress.networks.loading import load_model
from rmt_compress.networks.measurement import count_macs
from rmt_compress.networks.tasks.agreement import Agreement
from rmt_compress.networks.tasks.language import CausalLanguage
from rmt_compress.networks.tasks.questions import open_task
from rmt_compress.networks.tasks.settings import TaskSettings
from tests.samples import exported
from tests.samples.memory import Memory
from tests.samples.onnx_models import model, run, saved
from tests.samples.transformers_models import IDS, built

INT, FLOAT = TensorProto.INT64, TensorProto.FLOAT


def decoder(path, rng, *, batch="n", length="t", vocabulary=11, width=6):
    """A table, masked and added to one of places, and a head; the hidden values come before the logits."""
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["ids"], to=INT),
        helper.make_node("Gather", ["table", "ids"], ["e"]),
        helper.make_node("Gather", ["places", "position_ids"], ["p"]),
        helper.make_node("Add", ["e", "p"], ["sum"]),
        helper.make_node("Unsqueeze", ["attention_mask", "last"], ["m"]),
        helper.make_node("Mul", ["sum", "m"], ["hidden"]),
        helper.make_node("MatMul", ["hidden", "head"], ["logits"]),
    ]
    tensors = {
        "table": rng.normal(size=(vocabulary, width)).astype("f"),
        "places": rng.normal(size=(16, width)).astype("f"),
        "head": rng.normal(size=(width, vocabulary)).astype("f"),
        "last": np.array([-1], np.int64),
    }
    names = ["input_ids", "attention_mask", "position_ids"]
    net = model(nodes, tensors, {name: [batch, length] for name in names}, ("hidden", "logits"))
    for entry, kind in zip(net.graph.input, (TensorProto.INT32, FLOAT, INT), strict=True):
        entry.type.tensor_type.elem_type = kind
    return saved(net, path), tensors


def by_hand(path, ids, mask=None):
    feeds = {
        "input_ids": ids.int().numpy(),
        "attention_mask": (torch.ones(ids.shape) if mask is None else mask.float()).numpy(),
        "position_ids": np.broadcast_to(np.arange(ids.shape[1]), ids.shape),
    }
    return [torch.from_numpy(output) for output in run(path, feeds)]


def test_tokens_alone_or_by_name_as_onnxruntime_is_asked_by_hand(tmp_path, rng):
    path, _ = decoder(tmp_path / "net.onnx", rng)
    network = load_model(path)
    ids = torch.from_numpy(rng.integers(0, 11, (5, 7)))
    outputs = network(ids)
    assert list(outputs) == ["hidden", "logits"]
    for found, expected in zip(outputs.values(), by_hand(path, ids), strict=True):
        torch.testing.assert_close(found, expected)
    assert torch.equal(main_output(outputs), outputs["logits"])
    mask = (ids > 2).long()
    masked = call(network, {"input_ids": ids, "attention_mask": mask})
    torch.testing.assert_close(masked["logits"], by_hand(path, ids, mask)[1])
    assert count_macs(network, ids) == count_macs(network, {"input_ids": ids}) == 5 * 7 * 6 * 11
    assert network.vocabulary == 11


def test_a_fixed_batch_and_length(tmp_path, rng):
    path, _ = decoder(tmp_path / "net.onnx", rng, batch=2, length=7)
    network = load_model(path)
    ids = torch.from_numpy(rng.integers(0, 11, (5, 7)))
    expected = torch.cat([by_hand(path, ids[rows])[1] for rows in ([0, 1], [2, 3], [4, 4])])[:5]
    torch.testing.assert_close(network(ids)["logits"], expected)
    assert count_macs(network, ids) == 5 * 7 * 6 * 11
    short = Memory(ids[:, :4], targets="tokens")
    with pytest.raises(EvaluationError, match=r"input_ids takes N×7, and 2×4 is given; .*--sequence-length 7"):
        CausalLanguage(short).score(network, batch_size=2)


def test_moments_are_those_of_the_tokens_that_count(tmp_path, rng):
    path, tensors = decoder(tmp_path / "net.onnx", rng)
    network = load_model(path)
    ids = torch.from_numpy(rng.integers(0, 11, (40, 7)))
    mask = torch.ones_like(ids)
    mask[1:, 5:] = 0
    found = calibrate(network, [{"input_ids": ids, "attention_mask": mask}], weighted=False).layers["head"]
    hidden = by_hand(path, ids, mask)[0][mask == 1].double()
    assert found.count == len(hidden)
    torch.testing.assert_close(found.inputs, hidden.T @ hidden / len(hidden), rtol=1e-5, atol=1e-6)
    # Of a drawn class c the gradient at the logits is p − e_c, |g|² = 1 − 2p_c + Σp², in the mean 1 − Σp².
    chances = (hidden @ torch.from_numpy(tensors["head"]).double()).softmax(-1)
    assert float(found.outputs.trace()) == pytest.approx(float((1 - chances.square().sum(1)).mean()), rel=0.15)
    with pytest.raises(DataError, match=r"net\.onnx: cannot be run on calibration inputs .*input_ids takes int32"):
        calibrate(network, [torch.randn(4, 7)])


def test_text_by_bytes_where_the_table_has_256_rows(tmp_path, rng):
    path, tensors = decoder(tmp_path / "net.onnx", rng, vocabulary=256)
    text = bytes(rng.integers(97, 123, 160).tolist())
    (tmp_path / "book.txt").write_bytes(text)
    network = load_model(path)
    task = open_task(
        f"text:{tmp_path / 'book.txt'}", network, settings=TaskSettings(data=DataSettings(sequence_length=16))
    )
    score = task.score(network)
    ids = torch.frombuffer(bytearray(text), dtype=torch.uint8).long().view(10, 16)
    hidden = torch.from_numpy(tensors["table"])[ids] + torch.from_numpy(tensors["places"])
    logits = hidden.double() @ torch.from_numpy(tensors["head"]).double()
    expected = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    assert score.value == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.slow
def test_the_command_line_asks_text_of_a_decoder(tmp_path, rng, monkeypatch):
    monkeypatch.chdir(tmp_path)
    decoder(tmp_path / "net.onnx", rng, vocabulary=256, width=40)
    (tmp_path / "book.txt").write_bytes(bytes(rng.integers(97, 123, 1600).tolist()))
    data = ["--data", "text:book.txt", "--sequence-length", "16"]

    def run(*words, status=0):
        result = CliRunner().invoke(app, [*words, *data])
        assert result.exit_code == status, result.output
        return result.output

    assert "perplexity" in run("evaluate", "net.onnx")
    assert "loss" in run("prune", "net.onnx", "-o", "small.onnx", "--min-size", "16")
    assert (tmp_path / "small.onnx").is_file()
    same = json.loads(run("evaluate", "net.onnx", "--against", "net.onnx", "--task", "agreement", "--json"))
    assert same["model"]["same_answer"] == 1.0
    run("sweep", "net.onnx")
    assert (tmp_path / "net.sweep").is_dir()


@pytest.fixture(scope="module", params=["bert", "gpt2"])
def family(request, tmp_path_factory):
    """An encoder and a decoder of transformers, of one block, in every kind of graph: the module, and the files."""
    pytest.importorskip("transformers")
    module = built(request.param, **{"bert": {"num_hidden_layers": 1}, "gpt2": {"n_layer": 1}}[request.param])
    folder = tmp_path_factory.mktemp(request.param)
    given = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
    shapes = {name: {0: Dim.DYNAMIC, 1: Dim.DYNAMIC} for name in given}
    module.config.use_cache = False

    def write():
        program = torch.export.export(module, (), given, dynamic_shapes=shapes)
        torch.export.save(program, folder / "net.pt2")
        path = str(folder / "net.onnx")
        torch.onnx.export(program, (), path, dynamo=True, external_data=False, verbose=False)
        torch.jit.trace(module, example_kwarg_inputs=given, strict=False).save(folder / "net.pt")

    exported.quiet(write)
    return module, folder


@pytest.mark.slow
@pytest.mark.parametrize("file", ["net.onnx", "net.pt2", "net.pt"])
def test_encoders_and_decoders_answer_as_their_module(family, file, rng):
    module, folder = family
    ids = torch.from_numpy(rng.integers(3, 64, (5, 9)))
    mask = torch.ones_like(ids)
    mask[1:, 6:] = 0
    named = {"input_ids": ids, "attention_mask": mask}
    with open_checkpoint(folder / file, trust=True) as checkpoint, torch.inference_mode():
        network = checkpoint.own_network()
        for inputs in (ids, named):
            answer = main_output(call(network, inputs))
            torch.testing.assert_close(answer, call(module, inputs).logits, rtol=1e-5, atol=1e-5)
        assert network.vocabulary == 64
        assert count_macs(network, named) == count_macs(module, named)
        text = Memory(ids, targets="tokens")
        score = CausalLanguage(text).score(network)
        assert score.value == pytest.approx(CausalLanguage(text).score(module).value, rel=1e-5)
        assert Agreement(text, module).score(network).value == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("file", ["net.onnx", "net.pt2"])
@pytest.mark.traced
def test_moments_of_a_decoder_are_those_of_the_module(family, file, rng):
    module, folder = family
    ids = torch.from_numpy(rng.integers(3, 64, (30, 9)))
    mask = torch.ones_like(ids)
    mask[1:, 6:] = 0
    named = {"input_ids": ids, "attention_mask": mask}
    expected = calibrate(module, [named]).layers
    with open_checkpoint(folder / file) as checkpoint:
        # Tied to the table in the module, which leaves it out.
        heads = {
            layer.tensor
            for layer in checkpoint.layers()
            if {"lm_head", "decoder"} & set(re.split(r"[. ]", layer.name))
        }
        found = calibrate(checkpoint.own_network(), [named]).layers
        found = {name: own for name, own in found.items() if name not in heads}
    # Products that the exporter turns round have names of its own.
    assert len(found) >= 4
    for own in found.values():
        alike = [other.inputs for other in expected.values() if other.inputs.shape == own.inputs.shape]
        assert any(torch.allclose(own.inputs, other, rtol=1e-4, atol=1e-5) for other in alike)
