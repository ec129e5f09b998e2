"""What an analysis does with an approximate spectrum: it says so, and everything that reads one still works."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import rmt_compress as rmt
from rmt_compress.analysis import approximating
from rmt_compress.reporting.analysis_table import approximation_said
from rmt_compress.reporting.html.layer_facts import facts_of
from rmt_compress.reporting.spectrum_series import spectrum_series
from rmt_compress.spectrum import quadrature
from tests.samples.matrices import low_rank_plus_noise


@pytest.fixture(scope="module")
def weights():
    """One weight that is approximated, and one that cannot be."""
    rank_30 = torch.linalg.qr(torch.randn(320, 320, generator=torch.Generator().manual_seed(0)))[0][:, :250]
    return {"large.weight": low_rank_plus_noise(400, 500, 6), "deep.weight": 5 * rank_30 @ rank_30.T}


@pytest.fixture
def forced(monkeypatch):
    """Small layers are approximated, and believed in spite of the chance in so few directions."""
    monkeypatch.setattr(approximating, "SMALLEST", 200)
    monkeypatch.setattr(quadrature, "GOF_TOLERANCE", 0.05)
    monkeypatch.setattr(quadrature, "EDGE_TOLERANCE", 0.02)


def test_says_which_spectra_are_approximate(weights, forced):
    analysis = rmt.analyze({"large.weight": weights["large.weight"]}, jobs=1)
    (layer,) = analysis.analyzed
    exact = rmt.analyze({"large.weight": weights["large.weight"]}, exact=True).analyzed[0]
    assert exact.to_json()["spectrum"] == {"route": "exact", "fell_back": None}
    said = layer.to_json()["spectrum"]
    assert said["route"] == "approximate"
    assert said["exact"] >= 6
    assert abs(layer.fit.edge / exact.fit.edge - 1) <= said["edge_error"]
    assert layer.fit.spikes == exact.fit.spikes == 6
    assert layer.verdict == exact.verdict
    assert layer.diagnosis.word == exact.diagnosis.word
    assert layer.bulk_energy == pytest.approx(exact.bulk_energy, rel=1e-2)
    assert layer.gof_null == pytest.approx(exact.gof_null + said["gof_error"])
    assert "1 spectrum is approximate" in approximation_said(analysis)
    assert any(fact.label == "approximate spectrum" for fact in facts_of(layer))
    assert spectrum_series(layer).spikes.size == 6
    plan = rmt.make_plan(analysis)
    assert plan.settings["approximate_spectra"] == ["large"]
    json.dumps(analysis.to_json())


def test_falls_back_where_it_does_not_know_and_says_why(weights, forced):
    analysis = rmt.analyze(weights)
    layers = {layer.name: layer for layer in analysis.layers}
    assert layers["large"].route.approximation is not None
    assert layers["deep"].status == "skipped" or layers["deep"].route.fell_back is not None


def test_exact_forbids_it(weights, forced):
    exact = rmt.analyze(weights, exact=True)
    assert not exact.approximated
    assert approximation_said(exact) == ""
    assert "approximate_spectra" not in rmt.make_plan(exact).settings


def test_result_does_not_depend_on_jobs(weights, forced):
    several = {name: weights["large.weight"] * scale for name, scale in (("a.weight", 1), ("b.weight", 2))}
    one, two = (rmt.analyze(several, jobs=jobs).analyzed for jobs in (1, 2))
    for first, second in zip(one, two, strict=True):
        assert first.route.approximation is not None
        np.testing.assert_allclose(first.singular_values, second.singular_values, rtol=1e-4)


def test_other_noise_is_exact(weights, forced):
    analysis = rmt.analyze({"large.weight": weights["large.weight"]}, noise="signflip")
    assert not analysis.approximated


def test_command_takes_exact(weights, forced, run, tmp_path):
    file = tmp_path / "model.safetensors"
    save_file({"large.weight": weights["large.weight"]}, file)
    assert "1 spectrum is approximate" in run("analyze", file).stdout
    assert "approximate" not in run("analyze", file, "--exact").stdout
