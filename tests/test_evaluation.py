"""Accuracy against plain PyTorch, multiply-adds against hand counts and torch's own counter."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

import rmt_compress as rmt
from rmt_compress.compression import compress
from rmt_compress.data import Dataset, load_data
from rmt_compress.errors import EvaluationError, SettingsError
from rmt_compress.networks import latency
from rmt_compress.networks.architectures import build
from rmt_compress.networks.evaluation import compare, evaluate, move, score
from rmt_compress.networks.loading import load_model
from rmt_compress.networks.measurement import count_macs
from rmt_compress.networks.tasks.classification import Classification
from rmt_compress.planning.making import make_plan
from tests.samples.data_files import idx_test_set
from tests.samples.repository import MODELS


def made_of(images, labels, classes):
    return Dataset("made", "test", torch.as_tensor(images), torch.as_tensor(labels), classes)


class Table(nn.Module):
    """Answers with the inputs themselves."""

    def forward(self, x):
        return x


def plain_outputs(state, images):
    """A fully connected network by matrix products alone."""
    hidden = torch.as_tensor(images, dtype=torch.float32).reshape(len(images), -1)
    for index in range(1, len(state) // 2 + 1):
        hidden = hidden @ state[f"fc{index}.weight"].T + state[f"fc{index}.bias"]
        hidden = hidden.relu() if f"fc{index + 1}.weight" in state else hidden
    return hidden


def test_accuracy_and_loss_by_hand():
    digits = load_digits()
    _, pixels, _, labels = train_test_split(
        digits.images, digits.target, test_size=360, random_state=0, stratify=digits.target
    )
    outputs = plain_outputs(load_file(MODELS / "digits_mlp.safetensors"), pixels / 16)
    result = evaluate(
        load_model(MODELS / "digits_mlp.safetensors"),
        load_data("digits", split="test"),
        batch_size=50,
        latency=False,
    )
    assert result.score.accuracy == (outputs.argmax(1).numpy() == labels).mean()
    expected = functional.cross_entropy(outputs, torch.from_numpy(labels).long())
    assert result.score.loss == pytest.approx(float(expected), rel=1e-5)
    assert result.score.samples == 360
    assert result.parameters == result.nonzeros == 64 * 512 + 512 + 512 * 512 + 512 + 5120 + 10
    assert result.macs == 64 * 512 + 512 * 512 + 5120


@pytest.mark.realdata
@pytest.mark.parametrize(("name", "folder"), [("mnist", "mnist"), ("fashion", "fashion_mnist")])
def test_accuracy_on_real_data_by_hand(real_data, name, folder):
    pixels, labels = idx_test_set(real_data / folder)
    images = pixels.reshape(10_000, -1).astype(np.float32) / 255
    outputs = plain_outputs(load_file(MODELS / f"{name}_mlp.safetensors"), images)
    expected = Fraction(int((outputs.argmax(1).numpy() == labels).sum()), 10_000)
    data = load_data("mnist" if name == "mnist" else "fashion-mnist", split="test")
    accuracy = score(load_model(MODELS / f"{name}_mlp.safetensors"), data).accuracy
    # Sums in another order may turn over an image whose two largest outputs are equal to rounding.
    assert abs(Fraction(round(accuracy * 10_000), 10_000) - expected) <= Fraction(1, 10_000)


def test_whole_numbers_reach_the_network_as_such():
    net = nn.Sequential(nn.Embedding(20, 8), nn.Flatten(), nn.Linear(24, 2))
    result = evaluate(net, made_of(torch.randint(0, 20, (30, 3)), [0, 1] * 15, 2))
    assert result.score.samples == 30
    assert result.parameters == sum(parameter.numel() for parameter in net.parameters())


def test_top5_with_many_classes_only(rng):
    outputs = torch.from_numpy(rng.normal(size=(400, 30)))
    labels = torch.from_numpy(rng.integers(0, 30, 400))
    result = score(Table(), made_of(outputs.float(), labels, 30), batch_size=33)
    expected = (outputs.float().topk(5).indices == labels[:, None]).any(1).double().mean()
    assert result.details["top5"] == pytest.approx(float(expected), abs=1e-12)
    assert score(Table(), made_of(outputs[:, :10].float(), labels % 10, 10)).details["top5"] is None


def test_dead_outputs_and_classes_nobody_is_given(rng):
    outputs = torch.from_numpy(rng.uniform(1, 2, size=(100, 4))).float()
    outputs[:, 3] = 0.0
    outputs[:, 1] -= 10
    result = score(Table(), made_of(outputs, np.arange(100) % 4, 4), batch_size=7)
    assert result.details["dead_outputs"] == 1
    assert result.details["never_predicted"] == 2
    alive = score(Table(), made_of(outputs[:1], [0], 4))
    assert alive.details["dead_outputs"] == 0


def layers_with_their_counts():
    yield nn.Linear(7, 5), (7,), 35
    yield nn.Sequential(nn.Flatten(), nn.Linear(12, 3, bias=False)), (3, 4), 36
    yield nn.Conv1d(2, 3, 5, stride=2), (2, 11), 4 * 3 * 2 * 5
    yield nn.Conv2d(3, 8, 3, padding=1), (3, 6, 6), 36 * 8 * 27
    yield nn.Conv2d(4, 8, 3, groups=4, dilation=2), (4, 9, 9), 25 * 8 * 9
    yield nn.Conv3d(2, 3, 2), (2, 4, 4, 4), 27 * 3 * 2 * 8
    yield nn.ConvTranspose1d(3, 4, 5, stride=2), (3, 6), 6 * 3 * 4 * 5
    yield nn.ConvTranspose2d(4, 6, 3, stride=2), (4, 5, 5), 25 * 4 * 6 * 9
    yield nn.ConvTranspose2d(4, 6, 3, groups=2), (4, 5, 5), 25 * 4 * 3 * 9


@pytest.mark.parametrize(("model", "shape", "macs"), list(layers_with_their_counts()))
def test_macs(model, shape, macs):
    for batch in (1, 3):
        inputs = torch.zeros(batch, *shape)
        assert count_macs(model, inputs) == batch * macs
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(inputs)
        assert counter.get_total_flops() == 2 * batch * macs


def test_macs_of_a_whole_cnn_and_of_a_shared_layer():
    model = build("cnn:3x16x16/8,p,16,p/32,10", seed=0).eval()
    inputs = torch.zeros(1, 3, 16, 16)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(inputs)
    assert count_macs(model, inputs) * 2 == counter.get_total_flops()
    layer = nn.Linear(6, 6)
    assert count_macs(nn.Sequential(layer, layer), torch.zeros(1, 6)) == 72


def test_a_factorized_model_counts_its_factors():
    model = load_model(MODELS / "digits_mlp.safetensors")
    plan = make_plan(rmt.analyze(model), sparsify=0.01)
    small = compress(model, plan)
    after, before = compare(small, model, load_data("digits", split="test"), latency=False)
    ranks = {layer.name: layer.rank for layer in plan.layers if layer.rank}
    assert after.macs == ranks["fc1"] * (64 + 512) + ranks["fc2"] * 1024 + 5120
    assert after.parameters == after.macs + 512 + 512 + 10
    zeros = sum(int((tensor == 0).sum()) for tensor in small.parameters())
    assert zeros > 0
    assert after.nonzeros == after.parameters - zeros
    assert before.macs == 64 * 512 + 512 * 512 + 5120


def test_the_model_is_left_as_it_was():
    model = build("cnn:1x8x8/4,p/8,10", seed=0)
    model.get_submodule("fc1").eval()
    modes = [module.training for module in model.modules()]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    evaluate(model, load_data("digits", split="test").thinned(20))
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_runs_of_two_models_alternate(monkeypatch):
    monkeypatch.setattr(latency, "LEAST_RUNS", 4)
    calls = []

    class Spy(nn.Linear):
        def forward(self, x):
            calls.append((self, len(x)))
            return super().forward(x)

    models = Spy(3, 2), Spy(3, 2)
    data = made_of(torch.zeros(4, 3), [0, 1, 0, 1], 2)
    results = [each.eager for each in latency.measure_latency(models, Classification(data))]
    assert [list(times) for times in results] == [["1", "128"]] * 2
    assert all(value > 0 for times in results for value in times.values())
    ones = [model for model, size in calls if size == 1]
    assert len(ones) == len(calls) // 2
    assert {size for _, size in calls} == {1, 128}
    for index in range(0, len(ones), 2):
        assert {*ones[index : index + 2]} == {*models}
    assert ones[0] is not ones[2]


def test_json_has_the_keys_of_the_design():
    path = MODELS / "digits_mlp.safetensors"
    report = evaluate(load_model(path), load_data("digits", split="test").thinned(50), path=path).to_json()
    wanted = {"path", "accuracy", "loss", "parameters", "nonzeros", "bytes", "macs", "latency_ms", "dead_outputs"}
    assert wanted <= set(report)
    assert report["bytes"] == path.stat().st_size
    assert set(report["latency_ms"]) == {"1", "128"}


def test_what_does_not_fit_is_one_line():
    data = load_data("digits", split="test")
    with pytest.raises(EvaluationError, match=r"cannot take inputs of 1×8×8 from digits.*1x64|64.*20"):
        evaluate(build("mlp:20,10"), data)
    with pytest.raises(EvaluationError, match=r"returns 64×4 numbers.*10 classes"):
        evaluate(build("mlp:64,4"), data)
    with pytest.raises(EvaluationError, match="returns 64×1×10 numbers"):
        evaluate(nn.Sequential(nn.Flatten(2), nn.LSTM(64, 10)), data)
    broken = build("mlp:64,10")
    with torch.no_grad():
        broken.get_parameter("fc1.bias")[3] = float("nan")
    with pytest.raises(EvaluationError, match=r"^the model returns NaN for 64 of 64 inputs"):
        evaluate(broken, data)
    with pytest.raises(EvaluationError, match=r"^second\.pt returns NaN"):
        compare(build("mlp:64,10"), broken, data, paths=("first.pt", "second.pt"))
    with pytest.raises(SettingsError, match="cannot run on device 'nowhere'"):
        move(build("mlp:64,10"), "nowhere")


def test_thinned_is_spread_over_the_set():
    data = made_of(torch.arange(10.0)[:, None], np.arange(10), 10)
    assert data.thinned(4).labels.tolist() == [0, 2, 5, 7]
    assert data.thinned(10) is data
    assert data.thinned(99) is data
    with pytest.raises(ValueError, match="fewer than 1"):
        data.thinned(0)
