"""The analysis of whole models: what is analysed, what is skipped and why, and the numbers' meaning."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import nn

import rmt_compress as rmt
from rmt_compress.analysis import AnalyzedLayer, AnalyzedPair, SkippedLayer
from rmt_compress.analysis import threads as analysis_threads
from rmt_compress.analysis.settings import Noise
from rmt_compress.errors import SettingsError
from rmt_compress.reporting.analysis_table import analysis_table
from rmt_compress.reporting.spectrum_plots import layer_figure, plot_layers
from rmt_compress.spectrum import equalize
from tests.samples.repository import MODELS


@pytest.fixture
def model():
    """Three kinds of layer: pure noise, noise with spikes, and something that is no noise at all."""
    model = nn.Sequential()
    model.noise = nn.Linear(120, 80)
    model.mixed = nn.Linear(80, 100)
    model.structured = nn.Conv2d(10, 60, 3)
    model.head = nn.Linear(100, 10)
    with torch.no_grad():
        model.noise.weight.normal_()
        spikes = torch.linalg.qr(torch.randn(100, 5))[0] * torch.tensor([60.0, 50, 45, 40, 35])
        model.mixed.weight.copy_(torch.randn(100, 80) + spikes @ torch.linalg.qr(torch.randn(80, 5))[0].T)
        u, _, v = torch.linalg.svd(torch.randn(60, 90), full_matrices=False)
        model.structured.weight.copy_(((u * torch.logspace(2, -2, 60)) @ v).reshape(60, 10, 3, 3))
    return model


def by_name(analysis):
    return {layer.layer.name: layer for layer in analysis.layers}


def test_verdicts(model):
    layers = by_name(rmt.analyze(model))
    assert layers["noise"].verdict == "noise"
    assert layers["mixed"].verdict == "mixed"
    assert layers["mixed"].fit.spikes == 5
    assert layers["structured"].verdict == "structured"
    assert layers["head"].verdict is None
    assert "10 is below 32" in layers["head"].reason
    assert layers["noise.bias"].reason == "a vector or scalar, not a matrix"


def test_numbers_mean_what_they_say(model):
    layer = by_name(rmt.analyze(model))["mixed"]
    weight = model.mixed.weight.detach().double().numpy()
    values = np.linalg.svd(weight, compute_uv=False)
    np.testing.assert_allclose(layer.singular_values[:60], values[:60], rtol=1e-5)
    np.testing.assert_allclose(layer.singular_values, values, rtol=1e-4)
    assert layer.fit.edge == pytest.approx(np.sqrt(100 * layer.fit.lambda_plus))
    assert layer.fit.spikes == np.sum(values > layer.fit.edge)
    assert layer.bulk_energy == pytest.approx((values[5:] ** 2).sum() / (weight**2).sum(), rel=1e-6)
    # Five spikes of (100 + 80) entries each in the two factors.
    assert layer.parameters_after == 5 * (100 + 80)
    assert layer.fit.sigma2 == pytest.approx(1.0, rel=0.1)
    assert layer.gof_p_value > 0.001
    assert layer.fit.gof < 2 * layer.gof_null


def test_totals(model):
    analysis = rmt.analyze(model)
    assert analysis.parameters == sum(p.numel() for p in model.parameters())
    saved = 80 * 120 - (80 + 120) + 100 * 80 - 5 * 180
    assert analysis.parameters - analysis.parameters_after == saved
    report = analysis.to_json()
    json.dumps(report, allow_nan=False)
    assert report["schema"] == "rmt-compress/analysis/1"
    assert report["totals"] == {
        "parameters": analysis.parameters,
        "parameters_after": analysis.parameters_after,
        "layers_analyzed": 3,
        "layers_skipped": 5,
    }
    keys = {
        "name", "kind", "shape", "matrix", "status", "reason", "sigma2", "lambda_plus", "edge", "gof", "gof_null",
        "fits", "spikes", "bulk", "bulk_energy", "spectral_norm", "verdict", "parameters", "parameters_after",
    }  # fmt: skip
    assert all(keys <= set(layer) for layer in report["layers"])


def test_a_layer_that_does_not_fit_is_not_cut(model):
    layer = by_name(rmt.analyze(model))["structured"]
    assert layer.parameters_after == layer.layer.parameters
    loose = by_name(rmt.analyze(model, gof=1.0))["structured"]
    assert loose.fits
    assert loose.parameters_after <= layer.layer.parameters


def test_same_for_file_state_dict_and_module(model, tmp_path):
    save_file(model.state_dict(), tmp_path / "m.safetensors")
    torch.save(model.state_dict(), tmp_path / "m.pt")
    results = [
        [layer.to_json() for layer in rmt.analyze(source).analyzed]
        for source in (model, model.state_dict(), tmp_path / "m.safetensors", str(tmp_path / "m.pt"))
    ]
    for other in results[1:]:
        assert {layer["name"]: layer["gof"] for layer in other} == {
            layer["name"]: layer["gof"] for layer in results[0]
        }


@pytest.mark.parametrize("jobs", (1, 2, 5))
def test_jobs_change_nothing_but_last_digits_and_threads_are_given_back(model, jobs, monkeypatch):
    # As layers that are too large for numpy alone.
    monkeypatch.setattr(analysis_threads, "suits_numpy", lambda _layer: False)
    threads = torch.get_num_threads()
    expected = rmt.analyze(model, jobs=1)
    seen = []
    analysis = rmt.analyze(model, jobs=jobs, progress=lambda *step: seen.append(step))
    for layer, other in zip(analysis.analyzed, expected.analyzed, strict=True):
        assert (layer.layer, layer.verdict, layer.fit.spikes) == (other.layer, other.verdict, other.fit.spikes)
        assert layer.fit.gof == pytest.approx(other.fit.gof, abs=1e-5)
        assert layer.fit.edge == pytest.approx(other.fit.edge, rel=1e-6)
    assert torch.get_num_threads() == threads
    assert [step[:2] for step in seen] == [(1, 3), (2, 3), (3, 3)]
    assert {step[2] for step in seen} == {"noise", "mixed", "structured"}


@pytest.mark.parametrize("bad", (float("nan"), float("inf")))
def test_damaged_layer_is_named_and_the_rest_analysed(model, bad):
    with torch.no_grad():
        model.mixed.weight[3, 4] = bad
        model.mixed.weight[5, 6] = bad
    analysis = rmt.analyze(model)
    assert [layer.layer.name for layer in analysis.damaged] == ["mixed"]
    assert analysis.damaged[0].reason == "2 of its entries are NaN or Inf"
    assert len(analysis.analyzed) == 2


def test_half_precision(model):
    exact = by_name(rmt.analyze(model))
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        layers = by_name(rmt.analyze(model.to(dtype)))
        assert layers["mixed"].layer.dtype == str(dtype).removeprefix("torch.")
        assert layers["mixed"].fit.spikes == exact["mixed"].fit.spikes
        assert layers["mixed"].fit.sigma2 == pytest.approx(exact["mixed"].fit.sigma2, rel=0.02)


def test_low_rank_layer_is_skipped_with_its_rank():
    layer = nn.Linear(64, 64)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[:3, :3] = torch.eye(3)
    (only, _bias) = rmt.analyze(layer).layers
    assert "rank 3 of 64" in only.reason


def test_include_and_exclude(model):
    layers = by_name(rmt.analyze(model, include=["*i*", "head"], exclude=["structured"]))
    assert layers["mixed"].status == layers["noise"].status == "analyzed"
    assert layers["structured"].reason == "excluded"
    layers = by_name(rmt.analyze(model, include=["mixed.weight"]))
    assert layers["noise"].reason == "not among the included layers"
    with pytest.raises(SettingsError, match="'mxed' matches no layer; the layers are noise, mixed"):
        rmt.analyze(model, include=["mxed"])


def test_tied_weight_is_analysed_once():
    model = nn.Sequential(nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False))
    model[1].weight = model[0].weight
    (layer,) = rmt.analyze(model).layers
    assert layer.layer.aliases == ("1.weight",)


def test_all_problems_at_once():
    with pytest.raises(SettingsError) as caught:
        rmt.AnalysisSettings(alpha=0.7, beta=0.0, gof=-1, quantiles="x", min_size=1)
    assert len(caught.value.problems) == 5


@pytest.mark.parametrize(
    ("name", "expected"),
    (
        # Published beside SJK23's example 4.1 and measured in method.md §5: fit error .005, 19 spikes of 784.
        ("mnist_mlp", {"fc1": (0.02, 10, 40)}),
        # method.md §9: fit errors .014, .007, .011, spikes 68, 47 and 24 of 784, 1000 and 500, by another seed.
        ("fashion_mlp", {"fc1": (0.02, 40, 90), "fc2": (0.02, 20, 70), "fc3": (0.02, 10, 40)}),
    ),
)
def test_trained_networks(name, expected):
    analysis = rmt.analyze(MODELS / f"{name}.safetensors")
    assert {layer.layer.name for layer in analysis.analyzed} == set(expected)
    for layer in analysis.analyzed:
        error, fewest, most = expected[layer.layer.name]
        assert layer.fit.gof < error
        assert fewest <= layer.fit.spikes <= most
        assert layer.verdict == "mixed"


def test_every_layer_has_the_same_keys_and_its_own_kind_of_record(model):
    with torch.no_grad():
        model.noise.weight[0, 0] = float("nan")
    state = model.state_dict() | {
        "pair.lora_A.weight": torch.randn(8, 64),
        "pair.lora_B.weight": torch.randn(96, 8),
    }
    analysis = rmt.analyze(state)
    kinds = {layer.name: type(layer) for layer in analysis.layers}
    assert kinds["mixed"] is kinds["structured"] is AnalyzedLayer
    assert kinds["noise"] is kinds["head"] is kinds["noise.bias"] is SkippedLayer
    assert (
        [layer.name for layer in analysis.factorized] == [n for n in kinds if kinds[n] is AnalyzedPair] == ["pair"]
    )
    assert all(isinstance(layer, rmt.LayerAnalysis) for layer in analysis.layers)
    reports = [layer.to_json() for layer in analysis.layers]
    assert len({tuple(report) for report in reports}) == 1
    for layer, report in zip(analysis.layers, reports, strict=True):
        has_fit = layer.status == "analyzed"
        assert (layer.fit is not None, layer.verdict is not None, layer.reason is None) == (has_fit,) * 3
        assert (report["sigma2"] is None, report["verdict"] is None, report["reason"] is not None) == (
            not has_fit,
        ) * 3


@pytest.fixture
def uneven(rng: np.random.Generator) -> dict[str, torch.Tensor]:
    """A layer of noise whose rows and columns have scales of their own, with two directions that stand out."""
    rows, columns = np.exp(0.8 * rng.standard_normal(60)), np.exp(0.8 * rng.standard_normal(140))
    left, right = np.linalg.qr(rng.standard_normal((60, 2)))[0], np.linalg.qr(rng.standard_normal((140, 2)))[0]
    weight = rows[:, None] * (rng.standard_normal((60, 140)) + 80.0 * left @ right.T) * columns
    return {"fc.weight": torch.from_numpy(weight).float()}


def test_noise_models_side_by_side(uneven: dict[str, torch.Tensor]) -> None:
    layer = rmt.analyze(uneven, noise="all").analyzed[0]
    said = layer.to_json()["noise_models"]
    assert list(said) == ["mp", "equalized", "signflip", "general"]
    # The usual law takes the scales for structure; without them the two directions are left.
    assert said["mp"]["gof"] > 0.1 > said["equalized"]["gof"]
    assert said["equalized"]["spikes"] == 2
    assert said["equalized"]["row_scales"] > 5
    assert layer.fit.gof == said["mp"]["gof"]


@pytest.mark.parametrize("noise", ["equalized", "signflip", "general"])
def test_the_model_that_is_asked_decides(uneven: dict[str, torch.Tensor], noise: Noise) -> None:
    alone, every = rmt.analyze(uneven, noise=noise).analyzed[0], rmt.analyze(uneven, noise="all").analyzed[0]
    said = every.models[noise]
    assert not isinstance(said, str)
    assert alone.fit == said.fit
    assert alone.to_json()["noise"] == {"model": noise, **said.details}
    assert not alone.models


def test_scaled_spectra_of_large_layers_come_by_torch_and_are_those_of_numpy(rng: np.random.Generator) -> None:
    scales = np.exp(0.3 * rng.standard_normal(1100))
    weight = (scales[:, None] * rng.standard_normal((1100, 1200))).astype(np.float32)
    layer = rmt.analyze({"fc.weight": torch.from_numpy(weight)}, noise="equalized").analyzed[0]
    assert layer.scaled is not None
    exact = np.linalg.svd(equalize(weight).matrix.astype(np.float64), compute_uv=False)
    first = layer.fit.window[0]  # from which on the fit looks at them
    np.testing.assert_allclose(layer.scaled[: 1101 - first], exact[: 1101 - first], rtol=1e-4)


def test_a_cut_by_equalized_noise_is_one_in_its_scales(uneven: dict[str, torch.Tensor]) -> None:
    analysis = rmt.analyze(uneven, noise="equalized")
    plan = rmt.make_plan(analysis)
    assert plan.basis == "equalized"
    (decision,) = plan.layers
    assert (decision.action, decision.rank) == ("factorized", 2)
    weight = uneven["fc.weight"].double().numpy()
    equalized = equalize(weight)
    u, s, vt = np.linalg.svd(equalized.matrix, full_matrices=False)
    expected = equalized.scaled_back((u[:, :2] * s[:2]) @ vt[:2])
    cut = rmt.compress(uneven, plan, layout="dense")["fc.weight"].double().numpy()
    np.testing.assert_allclose(cut, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    # Against the error that matters there, of noise of one variance, a plain cut is worse.
    plain = rmt.compress(uneven, rmt.make_plan(rmt.analyze(uneven, gof=1.0), rule="rank:2"), layout="dense")[
        "fc.weight"
    ]
    scales = equalized.rows[:, None] * equalized.columns
    errors = [np.linalg.norm((weight - other) / scales) for other in (cut, plain.double().numpy())]
    assert errors[0] < errors[1]


def test_a_beta_below_what_sign_flips_resolve_is_refused(uneven: dict[str, torch.Tensor]) -> None:
    with pytest.raises(SettingsError, match=r"resolve a beta of 0\.005 at least, got 0\.001"):
        rmt.analyze(uneven, noise="signflip", beta=0.001)
    assert rmt.analyze(uneven, beta=0.001).analyzed


def test_pictures_are_of_the_spectrum_that_was_fitted(uneven: dict[str, torch.Tensor], tmp_path: Path) -> None:
    uneven["fc.weight"][:3] = 0  # three directions fewer than the weight has
    analysis = rmt.analyze(uneven, noise="equalized")
    layer = analysis.analyzed[0]
    assert layer.fit.p == 57
    assert layer.scaled is not None
    assert layer.fit.spikes == (layer.scaled > layer.fit.edge).sum() == 2
    axes = layer_figure(layer).axes[1]
    # The share below the edge, in the picture: all but the two.
    step = next(line for line in axes.lines if line.get_label() == "this layer")
    x, y = (np.asarray(values) for values in step.get_data())
    assert y[x <= layer.fit.lambda_plus].max() == pytest.approx(55 / 57)
    with pytest.raises(SettingsError, match="noise general of another"):
        plot_layers(rmt.analyze(uneven, noise="general"), tmp_path / "pictures")
    assert not (tmp_path / "pictures").exists()


def test_the_table_names_the_noise(uneven: dict[str, torch.Tensor]) -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(analysis_table(rmt.analyze(uneven, noise="equalized")))
    console.print(analysis_table(rmt.analyze(uneven)))
    text = console.export_text()
    assert text.count("noise: scales taken out, σ̂² and edge without them") == 1
