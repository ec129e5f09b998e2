"""Networks whose weights have other names in their file: cut within a budget like any other."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.decomposition.moments_file import load_inputs
from rmt_compress.errors import CheckpointError
from rmt_compress.networks.calibration_settings import CalibrationSettings
from rmt_compress.networks.file_names import SAME_NAMES, file_names
from rmt_compress.networks.layer_times import random_factors
from rmt_compress.networks.loading import load_model
from rmt_compress.planning.budgets import BudgetSettings
from rmt_compress.planning.settings import PlanSettings
from rmt_compress.pruning.budgeted import Request
from rmt_compress.pruning.road import prune
from tests.samples.transformers_models import BOTH, built, logits

transformers = pytest.importorskip("transformers", minversion="5")

QUERY = "vit.encoder.layer.1.attention.attention.query"
OF_CLASS = "vit.layers.1.attention.q_proj"


def request(calibrate=None, samples=6, **budget):
    inputs = CalibrationSettings(
        calibrate=calibrate, calibration_samples=samples, repair=budget.pop("repair", None)
    )
    return Request(BudgetSettings(**budget), inputs)


def saved(tmp_path, family):
    built(family).save_pretrained(tmp_path / family)
    return tmp_path / family


@pytest.mark.slow
def test_every_tensor_finds_its_name(tmp_path):
    folder = saved(tmp_path, "vit")
    with open_checkpoint(folder) as checkpoint:
        model = load_model(checkpoint)
        names = file_names(model, checkpoint)
        layers = [layer for layer in checkpoint.layers() if layer.matrix is not None]
        for layer in layers:
            own = model.get_parameter(names.in_network(layer.tensor))
            assert torch.equal(own, checkpoint.read(layer.tensor))
            assert names.in_file(names.in_network(layer.tensor)) == layer.tensor
        names.check(layers, folder)
    for rest in (".weight", ".bias", ".down.weight", ".up.bias", ".weight[q]"):
        assert names.in_network(QUERY + rest) == OF_CLASS + rest
        assert names.in_file(OF_CLASS + rest) == QUERY + rest
    assert names.in_network("classifier.weight") == "classifier.weight"
    llama = saved(tmp_path, "llama")
    with open_checkpoint(llama) as checkpoint:
        assert file_names(load_model(checkpoint), checkpoint) is SAME_NAMES


def test_equal_values_are_told_apart_by_the_library(tmp_path):
    """Two layers of the same weights, and norms that all begin as ones."""
    model = built("vit")
    with torch.no_grad():
        layers = model.vit.layers
        layers[0].attention.q_proj.weight.copy_(layers[1].attention.q_proj.weight)
    model.save_pretrained(tmp_path / "vit")
    with open_checkpoint(tmp_path / "vit") as checkpoint:
        names = file_names(model, checkpoint)
        assert not names.placeless
        inside = [names.in_network(name) for name in checkpoint.tensors]
        assert sorted(inside) == sorted(model.state_dict())
        assert names.in_network(QUERY + ".weight") == OF_CLASS + ".weight"
        norm = "vit.encoder.layer.1.layernorm_before.weight"
        assert names.in_network(norm) == "vit.layers.1.layernorm_before.weight"


def test_what_nothing_tells_apart_is_no_name(tmp_path):
    """The same where no library can be asked: either may be either."""

    class Renamed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = (torch.nn.Linear(4, 4) for _ in range(2))

    model = Renamed()
    with torch.no_grad():
        model.a.weight.copy_(model.b.weight)
    torch.save({f"old.{name}": tensor for name, tensor in model.state_dict().items()}, tmp_path / "net.pt")
    with open_checkpoint(tmp_path / "net.pt") as checkpoint:
        names = file_names(model, checkpoint)
        layers = [layer for layer in checkpoint.layers() if layer.name == "old.a"]
        with pytest.raises(CheckpointError, match=r"^net\.pt: old\.a: the network holds these otherwise"):
            names.check(layers, "net.pt")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "repair"),
    (
        ("vit", "blocks"),
        ("bert", "none"),
        ("bert-classifier", "blocks"),
        ("llama", "blocks"),
        ("t5", "blocks"),
        ("bart", "none"),
    ),
)
def test_a_budget_without_data(tmp_path, family, repair):
    folder, small = saved(tmp_path, family), tmp_path / "small"
    result = prune(folder, small, within=request(keep=0.6, repair=repair))
    assert result.verified == "synthetic"
    assert result.budget["reached"]["keep"] <= 0.6
    left = logits(load_model(small), family)
    assert left.isfinite().all()
    assert not torch.equal(left, logits(built(family), family))


@pytest.mark.slow
@pytest.mark.parametrize("family", ("t5", "bart"))
def test_encoder_and_decoder_get_tokens_of_their_own(tmp_path, family):
    folder, moments = saved(tmp_path, family), tmp_path / "m.safetensors"
    asked = replace(request(keep=0.6, repair="none"), save_moments=moments)
    first = prune(folder, within=asked, dry_run=True)
    assert first.budget["calibration"]["kind"] == "random tokens"
    kept = load_inputs(moments).tensors
    size = (6, {"t5": 256, "bart": 32}[family])
    assert {name: tuple(ids.shape) for name, ids in kept.items()} == dict.fromkeys(BOTH, size)
    again = prune(folder, within=replace(request(keep=0.6, repair="none"), moments=moments), dry_run=True)
    assert again.plan.layers == first.plan.layers
    drop = Request(BudgetSettings(), CalibrationSettings(calibration_samples=6, repair="none"), max_drop="5")
    searched = prune(folder, within=drop, dry_run=True)
    assert searched.verified == "synthetic"
    assert not searched.missed


@pytest.mark.slow
def test_what_is_tried_is_what_is_written(tmp_path):
    """At nearly the whole size a Vision Transformer answers as before: each cut went where it belongs."""
    folder, wanted = saved(tmp_path, "vit"), logits(built("vit"), "vit")
    errors = []
    for keep in (0.98, 0.5):
        prune(folder, tmp_path / f"{keep}", within=request(keep=keep, repair="none", samples=12))
        errors.append(float((logits(load_model(tmp_path / f"{keep}"), "vit") - wanted).norm() / wanted.norm()))
    assert errors[0] < 0.05 < errors[1] < 1


@pytest.mark.slow
@pytest.mark.parametrize("budget", ({"macs": 0.7}, {"latency": 0.95}))
@pytest.mark.traced
def test_other_budgets_know_the_layers_too(tmp_path, budget):
    folder = saved(tmp_path, "vit")

    def clock(pairs):
        return [sum(p.numel() for p in model.parameters()) * 1e-6 for model, _ in pairs]

    asked = request(repair="none", **budget)
    asked = Request(asked.budget, asked.calibration, timer=clock)
    result = prune(folder, within=asked, dry_run=True)
    assert not result.missed
    assert any("vit.encoder.layer" in each.tensor for each in result.plan.layers if each.changes)


@pytest.mark.slow
def test_a_network_that_reads_its_weights_is_timed_in_two():
    model = built("vit")
    name = "vit.embeddings.patch_embeddings.projection"
    small = random_factors(model, {f"{name}.weight": 4, f"{OF_CLASS}.weight": 4})
    assert logits(small, "vit").shape == logits(model, "vit").shape
    assert sum(hasattr(module, "swaps") for module in small.modules()) == 2


@pytest.mark.slow
def test_a_rule_without_a_budget_is_verified_too(tmp_path):
    result = prune(saved(tmp_path, "vit"), tmp_path / "small", plan=PlanSettings(rule="rank:6"))
    assert result.verified == "synthetic"


@pytest.mark.slow
@pytest.mark.traced
def test_arrays_calibrate(tmp_path):
    folder = saved(tmp_path, "vit")
    images = np.random.default_rng(0).normal(size=(24, 3, 16, 16)).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    asked = request(calibrate=f"array:{tmp_path / 'images.npy'}", keep=0.6, repair="none")
    assert prune(folder, within=asked, dry_run=True).verified == "synthetic"


@pytest.mark.slow
@pytest.mark.traced
def test_what_cannot_be_tried_says_so(tmp_path):
    folder = saved(tmp_path, "mixtral")
    with pytest.raises(CheckpointError, match=r"experts\.0\.w1.*joined or turned.*--exclude"):
        prune(folder, within=request(keep=0.6), dry_run=True)
    result = prune(folder, within=request(keep=0.9, exclude=("*experts*",), repair="none"), dry_run=True)
    assert result.changes
