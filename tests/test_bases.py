"""The seam of the bases: whatever has a row is what a plan, a sweep and a compression ask."""

import json

import pytest
import torch
from torch import nn

import rmt_compress as rmt
from rmt_compress.compression import compress_weight
from rmt_compress.data import Dataset
from rmt_compress.decomposition.bases import BASES, PLAIN, Basis, Directions
from rmt_compress.decomposition.svd import Decomposition, decompose
from rmt_compress.errors import PlanError
from rmt_compress.layers import Layer, as_matrix
from rmt_compress.plan import LayerDecision, Plan
from rmt_compress.sweep.target import SweepTarget

LAYER = Layer("fc", "fc.weight", "linear", (40, 36), "float32")


def last_first(layer, matrix, rank=None, metric=None):
    """The smallest directions instead of the largest, so that nobody can take it for `plain`."""
    assert layer.matrix == tuple(matrix.shape)
    found = decompose(matrix)
    return Decomposition(found.u.flip(1)[:, :rank], found.s.flip(0)[:rank], found.vt.flip(0)[:rank], found.dtype)


@pytest.fixture
def strange(monkeypatch):
    monkeypatch.setitem(BASES, "strange", Basis("strange", last_first))


@pytest.fixture
def model():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(36, 40), nn.ReLU(), nn.Linear(40, 10))


def cut(model, **changes):
    plan = rmt.make_plan(rmt.analyze(model), rule="rank:5", gof=1.0)
    return plan.model_copy(update=changes)


@pytest.mark.parametrize("basis", BASES.values(), ids=BASES)
@pytest.mark.parametrize("shape", ((40, 36), (36, 40)))
def test_every_basis_gives_directions_that_can_be_cut(basis, shape, rng):
    matrix = torch.from_numpy(rng.standard_normal(shape)).float()
    layer = Layer("fc", "fc.weight", "linear", shape, "float32")
    cut = Directions(layer, basis)
    found = cut.decompose(matrix, 7)
    assert (found.u.shape, found.s.shape, found.vt.shape) == ((shape[0], 7), (7,), (7, shape[1]))
    whole = cut.decompose(matrix)
    torch.testing.assert_close(whole.truncated(min(shape)), matrix, atol=1e-5, rtol=1e-5)
    down, up = whole.factors(7)
    torch.testing.assert_close(up @ down, found.truncated(7), atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="the rank must lie between"):
        cut.decompose(matrix, min(shape) + 1)


@pytest.mark.parametrize("action", ("factorized", "truncated"))
def test_a_weight_is_cut_in_the_basis_asked_for(action, rng):
    weight = torch.from_numpy(rng.standard_normal((40, 36))).float()
    decision = LayerDecision(name="fc", tensor="fc.weight", kind="linear", shape=(40, 36), action=action, rank=5)
    results = {}
    for basis in (PLAIN, Basis("strange", last_first)):
        result = compress_weight(LAYER, decision, weight, directions=Directions(LAYER, basis))
        results[basis.name] = cut = result.up @ result.down if action == "factorized" else result
        expected = basis.decompose(LAYER, weight, 5, None).truncated(5)
        torch.testing.assert_close(cut, expected, atol=1e-5, rtol=1e-5)
    assert torch.linalg.matrix_norm(results["strange"]) < torch.linalg.matrix_norm(results["plain"])


def test_the_plan_says_in_which_basis_a_model_is_cut(strange, model):
    small = rmt.compress(model, cut(model, basis="strange"))
    expected = last_first(LAYER, model[0].weight.detach(), 5).truncated(5)
    torch.testing.assert_close(small[0].up.weight @ small[0].down.weight, expected, atol=1e-5, rtol=1e-5)


def test_an_unknown_basis_is_one_line(model):
    with pytest.raises(
        PlanError,
        match=r"^the plan asks for the basis 'oblique', which .*: there is plain, input, "
        "two-sided, equalized$",
    ):
        rmt.compress(model, cut(model, basis="oblique"))


def test_the_basis_stands_in_the_plan_only_where_it_is_not_plain(model):
    plan = cut(model)
    assert "basis" not in json.loads(plan.to_json())
    assert Plan.from_json(plan.to_json()) == plan
    other = cut(model, basis="strange")
    assert json.loads(other.to_json())["basis"] == "strange"
    assert Plan.from_json(other.to_json()) == other
    assert json.loads(other.to_json()) == {**json.loads(plan.to_json()), "basis": "strange"}


def test_the_sweep_asks_the_basis(strange, model):
    dataset = Dataset("made", "test", torch.randn(20, 36), torch.arange(20) % 10, 10)
    analysis = rmt.analyze(model)
    layer = next(each for each in analysis.analyzed if each.layer.tensor == "0.weight")
    target = SweepTarget(model, analysis, dataset, basis="strange")
    matrix = as_matrix(layer.layer, model[0].weight.detach())
    assert torch.equal(target.truncated(layer, 5), last_first(layer.layer, matrix).truncated(5))
    with pytest.raises(PlanError, match="oblique"):
        SweepTarget(model, analysis, dataset, basis="oblique")
