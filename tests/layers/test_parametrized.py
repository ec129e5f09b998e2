"""Weights stored as several tensors, against the weights torch's modules compute from them."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from rmt_compress import analyze, make_plan
from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.layers import infer_layers
from rmt_compress.layers.layer import TensorInfo


def old_style(name):
    """torch.nn.utils.weight_norm and spectral_norm as they were before parametrizations; they warn of their age."""

    def apply(module, **options):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return getattr(nn.utils, name)(module, **options)

    return apply


NEW = (parametrizations.weight_norm, parametrizations.spectral_norm)
OLD = (old_style("weight_norm"), old_style("spectral_norm"))


def modules():
    return (nn.Linear(40, 50), nn.Conv2d(8, 34, 3), nn.ConvTranspose2d(36, 8, 3))


def parametrized(normalize):
    """Every kind of module in evaluation mode, run once so that its weight is up to date."""
    model = nn.ModuleList(normalize(module) for module in modules())
    for module, size in zip(model, ((2, 40), (2, 8, 5, 5), (2, 36, 5, 5)), strict=True):
        module.train()(torch.randn(size))
        module.eval()(torch.randn(size))
    return model.eval()


@pytest.mark.parametrize("normalize", NEW + OLD)
def test_the_weight_of_a_state_dict_is_the_effective_one(normalize):
    model = parametrized(normalize)
    checkpoint = open_checkpoint(model.state_dict())
    layers = {layer.name: layer for layer in checkpoint.layers() if layer.composition is not None}
    assert list(layers) == ["0", "1", "2"]
    assert [layers[name].kind for name in layers] == ["linear", "conv2d", "conv_transpose2d"]
    for name, module in model.named_children():
        weight = checkpoint.weight(layers[name])
        torch.testing.assert_close(weight, module.weight.detach(), atol=1e-6, rtol=1e-5)
    assert checkpoint.parameters == sum(tensor.numel() for tensor in model.state_dict().values())


@pytest.mark.parametrize("normalize", NEW + OLD)
def test_a_live_module_and_its_state_dict_give_the_same_spectra_and_nothing_is_cut(normalize):
    model = parametrized(normalize)
    found = []
    for source in (model, model.state_dict()):
        analysis = analyze(source)
        assert [layer.layer.name for layer in analysis.analyzed] == ["0", "1", "2"]
        found.append([layer.singular_values for layer in analysis.analyzed])
        for settings in ({}, {"when_not_smaller": "truncate"}, {"sparsify": 0.1}):
            plan = make_plan(analysis, rule="rank:5", **settings)
            assert not any(decision.changes for decision in plan.layers)
            assert all("parametriz" in plan.layers[i].reason for i, x in enumerate(analysis.layers) if x.fit)
    for live, stored in zip(*found, strict=True):
        torch.testing.assert_close(torch.from_numpy(live), torch.from_numpy(stored), atol=1e-5, rtol=1e-5)


def test_a_pruning_mask_is_applied():
    module = nn.Linear(40, 50)
    prune.l1_unstructured(module, "weight", amount=0.5)
    for source in (module, module.state_dict()):
        checkpoint = open_checkpoint(source)
        (layer,) = [layer for layer in checkpoint.layers() if layer.composition is not None]
        torch.testing.assert_close(checkpoint.weight(layer), module.weight.detach())
        assert [each.layer.name for each in analyze(source).analyzed] == ["weight"]


def test_other_dimensions_of_the_norm():
    for dim in (1, None):
        module = parametrizations.weight_norm(nn.Linear(40, 50), dim=dim)
        checkpoint = open_checkpoint(module.state_dict())
        (layer,) = [layer for layer in checkpoint.layers() if layer.composition is not None]
        torch.testing.assert_close(checkpoint.weight(layer), module.weight.detach())


def test_gates_of_a_normalised_lstm():
    lstm = old_style("weight_norm")(nn.LSTM(8, 6), name="weight_hh_l0")
    checkpoint = open_checkpoint(lstm.state_dict())
    layers = {layer.tensor: layer for layer in checkpoint.layers()}
    forget = layers["weight_hh_l0_v[f]"]
    assert forget.kind == "recurrent"
    torch.testing.assert_close(checkpoint.weight(forget), lstm.weight_hh_l0.detach()[6:12])


class Symmetric(nn.Module):
    def forward(self, weight):
        return weight + weight.T


def test_what_cannot_be_computed_is_skipped_with_the_reason():
    unknown = nn.Linear(40, 40)
    parametrize.register_parametrization(unknown, "weight", Symmetric())
    twice = parametrizations.spectral_norm(parametrizations.weight_norm(nn.Linear(40, 50)))
    for module in (unknown, twice):
        layers = [layer for layer in open_checkpoint(module.state_dict()).layers() if layer.kind != "vector"]
        assert layers
        assert all("a part of a parametrized weight" in layer.skip_reason() for layer in layers)
        assert len(analyze(module).analyzed) == 1


def test_the_other_tensors_of_a_weight_say_whose_they_are():
    state = parametrizations.weight_norm(nn.Linear(40, 50)).state_dict()
    reasons = [layer.why_skipped for layer in open_checkpoint(state).layers() if layer.why_skipped is not None]
    assert reasons == ["a part of the parametrized weight weight (weight norm)"]


@pytest.mark.parametrize(
    "shapes",
    (
        {"a.weight_g": (50, 2), "a.weight_v": (50, 40)},
        {"a.weight_g": (50,), "a.weight_v": (50, 40)},
        {"a.weight_orig": (50, 40), "a.weight_u": (50,), "a.weight_v": (41,)},
        {"a.weight_orig": (50, 40), "a.weight_mask": (50, 41)},
    ),
)
def test_parts_that_do_not_fit_make_no_weight(shapes):
    tensors = {name: TensorInfo(name, shape, "float32", 0) for name, shape in shapes.items()}
    layers = infer_layers(tensors)
    assert all(layer.composition is None for layer in layers)
    largest = next(layer for layer in layers if layer.shape == (50, 40))
    assert "parametrized" in largest.skip_reason()
