"""The words for spectra on matrices of a known kind, and where they are said."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import rmt_compress as rmt
from rmt_compress.analysis.diagnosis import WORDS, BulkError, as_json, diagnose, measure
from rmt_compress.analysis.records import AnalyzedLayer
from rmt_compress.analysis.unfitted import AnalyzedPair, SkippedLayer
from rmt_compress.reporting.analysis_table import write_csv
from rmt_compress.spectrum import NumpyKernels, equalize, singular_values

SHAPE = (90, 400)


def orthonormal(rng, rows, columns):
    return np.linalg.qr(rng.standard_normal((rows, columns)))[0]


def planted(rng, count):
    """Noise and spikes of 2 to 5 times the limit at which one shows."""
    p, n = SHAPE
    strengths = np.linspace(5, 2, count) * n**0.5 * (p / n) ** 0.25
    return rng.standard_normal(SHAPE) + (orthonormal(rng, p, count) * strengths) @ orthonormal(rng, n, count).T


def scaled(rng, matrix):
    rows, columns = (np.exp(0.5 * rng.standard_normal(side)) for side in SHAPE)
    return rows[:, None] * matrix * columns


def of_spectrum(rng, values):
    return (orthonormal(rng, SHAPE[0], values.size) * values) @ orthonormal(rng, SHAPE[1], values.size).T


KINDS = {
    "noise": lambda rng: rng.standard_normal(SHAPE),
    "noise plus spikes": lambda rng: planted(rng, 12),
    "scaled noise": lambda rng: scaled(rng, rng.standard_normal(SHAPE)),
    "scaled noise plus spikes": lambda rng: scaled(rng, planted(rng, 5)),
    "heavy-tailed": lambda rng: of_spectrum(rng, (1 - (np.arange(90) + 0.5) / 90) ** (-1 / 1.2)),
    "low rank": lambda rng: (rng.standard_normal((90, 30)) @ rng.standard_normal((30, 400))).astype(np.float32),
    "structured": lambda rng: of_spectrum(rng, np.exp(np.linspace(0, -3, 90))),
}


def asked(matrix, dtype="float32", *, scales=True):
    def values_of(each):
        return singular_values(each, NumpyKernels())

    matrix = matrix.astype(np.float64)
    equalized = equalize(matrix).matrix if scales else None
    known = None if equalized is None else (values_of(equalized), max(equalized.shape))
    return measure(values_of(matrix), matrix.shape, dtype, scaled=known)


def test_every_word_has_its_matrix():
    assert set(KINDS) == set(WORDS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("turned", (False, True))
@pytest.mark.parametrize("factor", (1.0, 1e-4))
def test_words(kind, turned, factor):
    matrix = KINDS[kind](np.random.default_rng(2)) * factor
    found = diagnose(asked(matrix.T if turned else matrix, scales=kind != "low rank"))
    assert found.word == kind, found.reason


def test_without_scales_tried_it_is_said():
    found = diagnose(asked(KINDS["scaled noise"](np.random.default_rng(2)), scales=False))
    assert found.word in ("heavy-tailed", "structured")
    assert "scales of rows and columns not tried" in found.reason


@pytest.mark.parametrize(
    ("raw", "spikes", "word"),
    [
        (2.02, 76, "structured"),  # as layers of a language model, which owe it to nothing
        (2.9, 76, "structured"),
        (3.1, 76, "scaled noise plus spikes"),
        (2.02, 160, "scaled noise plus spikes"),
        (1.5, 100, "structured"),
    ],
)
def test_scales_are_named_where_they_explain_what_misses(raw, spikes, word):
    found = asked(KINDS["structured"](np.random.default_rng(2)))
    without = BulkError(gof=1.98 * 0.01, null=0.01, spikes=76, of=384, spike_energy=0.5)
    layer = replace(
        found, raw=replace(without, gof=raw * 0.01, spikes=spikes), equalized=without, shape=(384, 1024), rank=384
    )
    said = diagnose(layer)
    assert said.word == word
    assert ("scales taken out hardly better" in said.reason) == (word == "structured")


@pytest.mark.parametrize("dtype", ("float16", "bfloat16", "float32"))
def test_rounding_of_a_type_is_no_direction(dtype):
    torch.manual_seed(0)
    product = (torch.randn(64, 20) @ torch.randn(20, 96)).to(getattr(torch, dtype)).double().numpy()
    found = asked(product, dtype, scales=False)
    assert found.rank == 20
    assert diagnose(found).word == "low rank"


def test_stable_and_effective_rank_and_the_tail_are_those_of_the_spectrum():
    values = 2.0 ** -np.arange(40.0)
    found = measure(values, (40, 50), "float64")
    assert found.stable_rank == pytest.approx(4 / 3)  # Σ 4^−i over the first
    shares = 2.0 ** -np.arange(1.0, 41)
    assert found.effective_rank == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-9)
    assert found.rank == 40
    # λ = 4^−i, Hill's estimate from the first k of them: 1 + 2k/((k − 1)k·ln 4).
    size = found.tail.size
    assert found.tail.alpha == pytest.approx(1 + 2 / ((size - 1) * np.log(4)))


@pytest.fixture
def model():
    rng = np.random.default_rng(2)
    model = nn.Sequential()
    for name in ("noise", "noise plus spikes", "scaled noise", "structured", "low rank"):
        layer = nn.Linear(SHAPE[1], SHAPE[0], bias=False)
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(KINDS[name](rng)))
        model.add_module(name.replace(" ", "_"), layer)
    return model


@pytest.mark.slow
def test_layers_have_their_words(model, tmp_path):
    analysis = rmt.analyze(model, noise="all")
    report = {layer["name"].replace("_", " "): layer for layer in analysis.to_json()["layers"]}
    json.dumps(report, allow_nan=False)
    words = {name: layer["diagnosis"] for name, layer in report.items()}
    assert {name: word.removesuffix(" plus spikes") for name, word in words.items()} == {
        name: name.removesuffix(" plus spikes") for name in report
    }
    spikes = report["noise plus spikes"]
    assert len(spikes["signals"]) == spikes["spikes"] == 12
    largest = spikes["signals"][0]
    assert largest["value"] == pytest.approx(spikes["spectral_norm"])
    assert 0 < largest["strength"] < largest["value"]
    # Rows are the short side, whose vectors are longer known.
    assert 0.8 < largest["right"] < largest["left"] < 1
    write_csv(analysis, tmp_path / "layers.csv")
    with (tmp_path / "layers.csv").open(encoding="utf-8") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert rows["scaled_noise"]["diagnosis"].startswith("scaled noise")
    assert rows["noise_plus_spikes"]["signals"] == "12"
    assert float(rows["structured"]["hill_alpha"]) == pytest.approx(report["structured"]["hill_alpha"])


@pytest.mark.parametrize("noise", ("mp", "equalized", "signflip", "general"))
def test_one_noise_model_is_enough_for_a_word(model, noise):
    found = {layer.name: layer for layer in rmt.analyze(model, noise=noise).layers}
    assert found["scaled_noise"].diagnosis.word.startswith("scaled noise") == (noise == "equalized")
    assert (found["noise_plus_spikes"].signals is None) == (noise == "general")


def test_a_bulk_of_zeros_is_of_low_rank():
    thin = torch.diag(torch.arange(1.0, 65)) * (torch.arange(64) < 5)
    layer = rmt.analyze({"fc.weight": thin}).layers[0]
    assert isinstance(layer, SkippedLayer)
    assert layer.to_json()["diagnosis"] == "low rank"
    assert rmt.analyze({"fc.weight": torch.zeros(64, 64)}).layers[0].to_json()["diagnosis"] is None


def test_a_pair_of_factors_is_of_low_rank(model, tmp_path):
    plan = rmt.make_plan(rmt.analyze(model))
    rmt.save(rmt.compress(model, plan), tmp_path / "small.safetensors", plan=plan)
    pairs = [
        layer for layer in rmt.analyze(tmp_path / "small.safetensors").layers if isinstance(layer, AnalyzedPair)
    ]
    assert pairs[0].to_json()["diagnosis"] == "low rank"


def test_a_stack_says_what_its_worst_expert_looks_like():
    rng = np.random.default_rng(2)
    experts = torch.from_numpy(np.stack([KINDS[kind](rng) for kind in ("noise", "structured", "noise")])).float()
    stack = rmt.analyze({"experts": experts}, treat_as=["stack:experts"]).layers[0]
    assert isinstance(stack, AnalyzedLayer)
    assert stack.diagnosis.word == "structured"
    words = [each["diagnosis"] for each in stack.to_json()["experts"]]
    assert [word.startswith("noise") for word in words] == [True, False, True]


def test_dead_rows_leave_a_word(model):
    with torch.no_grad():
        model.noise.weight[:40] = 0
    layer = rmt.analyze(model, noise="equalized").layers[0]
    assert layer.diagnosis.word.startswith("scaled noise")
    assert layer.signals is None


def test_a_matrix_of_one_direction_has_no_tail_and_is_of_low_rank():
    values = np.zeros(40)
    values[0] = 3.0
    found = measure(values, (40, 60), "float32")
    assert found.tail is None
    assert diagnose(found).word == "low rank"
    assert as_json(found)["hill_alpha"] is None
