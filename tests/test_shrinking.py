"""Cuts whose kept values are shrunk: nearer to what was planted, kept in plan and manifest, refused in one line."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import rmt_compress as rmt
from rmt_compress.analysis.settings import AnalysisSettings
from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.errors import PlanError, SettingsError
from rmt_compress.networks.calibration_settings import CalibrationSettings
from rmt_compress.plan import Plan
from rmt_compress.planning.budgets import BudgetSettings
from rmt_compress.planning.settings import PlanSettings
from rmt_compress.pruning.budgeted import Request
from rmt_compress.pruning.road import prune
from rmt_compress.spectrum import LOSSES, shrunk

ROWS, COLUMNS = 120, 200


@pytest.fixture
def signal():
    strengths = torch.tensor([40.0, 30.0, 25.0])
    left, right = (torch.linalg.qr(torch.randn(side, 3))[0] for side in (ROWS, COLUMNS))
    return (left * strengths) @ right.T


@pytest.fixture
def model(signal):
    model = nn.Sequential(nn.Linear(COLUMNS, ROWS))
    with torch.no_grad():
        model[0].weight.copy_(signal + torch.randn(ROWS, COLUMNS))
    return model


def norms(matrix):
    values = np.linalg.svd(matrix.double().numpy(), compute_uv=False)
    return {"frobenius": np.sqrt((values**2).sum()), "operator": values[0], "nuclear": values.sum()}


def cut(model, **asked):
    plan = rmt.make_plan(rmt.analyze(model), **asked)
    return plan, rmt.compress(model, plan, layout="dense")[0].weight.detach()


@pytest.mark.parametrize("loss", LOSSES)
def test_a_shrunk_cut_is_nearer_to_the_signal(model, signal, loss):
    _, plain = cut(model)
    plan, nearer = cut(model, shrink=loss)
    assert norms(nearer - signal)[loss] < 0.97 * norms(plain - signal)[loss]
    decision = plan.layers[0]
    assert (decision.shrink, decision.rank) == (loss, 3)
    assert decision.sigma == pytest.approx(1.0, rel=0.05)
    assert f"shrunk ({loss})" in decision.reason
    values = np.linalg.svd(model[0].weight.detach().double().numpy(), compute_uv=False)[:3]
    found = np.linalg.svd(nearer.double().numpy(), compute_uv=False)[:3]
    np.testing.assert_allclose(found, shrunk(values, decision.sigma, (ROWS, COLUMNS), loss), rtol=1e-4)


def test_two_factors_are_the_same_product(model):
    plan, dense = cut(model, shrink="frobenius")
    pair = rmt.compress(model, plan)[0]
    torch.testing.assert_close(pair.up.weight @ pair.down.weight, dense, rtol=1e-4, atol=1e-4)


def test_directions_of_which_nothing_is_left_are_not_kept(model):
    plain, shrunken = (
        rmt.make_plan(rmt.analyze(model), rule="rank:30", shrink=each).layers[0].rank
        for each in ("none", "frobenius")
    )
    assert plain == 30
    assert shrunken is not None
    assert 3 <= shrunken < 8


def test_a_budget_does_not_take_it(model, tmp_path):
    torch.save(model.state_dict(), tmp_path / "m.pt")
    within = Request(BudgetSettings(keep=0.5), CalibrationSettings())
    with pytest.raises(SettingsError, match="shrink cannot be combined with a budget"):
        prune(tmp_path / "m.pt", plan=PlanSettings(shrink="nuclear"), within=within)


def test_plan_and_manifest_repeat_it(model, tmp_path):
    torch.save(model.state_dict(), tmp_path / "m.pt")
    first = prune(
        tmp_path / "m.pt",
        tmp_path / "a.safetensors",
        plan=PlanSettings(shrink="nuclear"),
        save_plan=tmp_path / "p.json",
    )
    written = json.loads((tmp_path / "p.json").read_text(encoding="utf-8"))
    assert written["settings"]["shrink"] == written["layers"][0]["shrink"] == "nuclear"
    again = Plan.from_json((tmp_path / "p.json").read_text(encoding="utf-8"))
    assert again == first.plan
    prune(tmp_path / "m.pt", tmp_path / "b.safetensors", plan=again)
    one, other = (rmt.load_dense(tmp_path / f"{name}.safetensors") for name in "ab")
    assert all(torch.equal(one[name], other[name]) for name in one)
    with open_checkpoint(tmp_path / "a.safetensors") as checkpoint:
        assert checkpoint.manifest.plan.layers[0].shrink == "nuclear"


def test_plans_without_it_are_as_they_were(model):
    assert "shrink" not in rmt.make_plan(rmt.analyze(model)).to_json().split('"layers"')[1]


@pytest.mark.parametrize(
    ("asked", "noise", "said"),
    (
        ({"shrink": "frobenius", "keep_bulk": 0.5}, "mp", "keep-bulk"),
        ({"shrink": "operator"}, "equalized", "noise equalized"),
        ({"shrink": "nuclear"}, "general", "noise general"),
        ({"shrink": "spectral"}, "mp", "shrink"),
    ),
)
def test_where_it_cannot_apply(model, asked, noise, said):
    with pytest.raises(SettingsError, match=said):
        rmt.make_plan(rmt.analyze(model, noise=noise), **asked)


@pytest.mark.parametrize(
    ("change", "said"),
    (
        ({"basis": "equalized"}, "for the basis plain"),
        ({"sigma": None}, "belong together"),
        ({"action": "kept", "rank": None}, "cut to a rank"),
    ),
)
def test_hand_made_plans_are_checked(model, change, said):
    plan, _ = cut(model, shrink="frobenius")
    if "basis" in change:
        plan = plan.model_copy(update=change)
    else:
        plan = plan.model_copy(update={"layers": (plan.layers[0].model_copy(update=change),)})
    with pytest.raises(PlanError, match=said):
        rmt.compress(model, plan)


def test_experts_have_noise_of_their_own(signal):
    experts = torch.randn(3, ROWS, COLUMNS) + signal
    analysis = rmt.analyze({"experts": experts}, treat_as=["stack:experts"])
    decision = rmt.make_plan(analysis, shrink="frobenius").layers[0]
    assert (decision.rank, decision.shrink) == (3, None)
    assert "not shrunk: a stack" in decision.reason


def test_models_side_by_side_decide_nothing(model, tmp_path):
    torch.save(model.state_dict(), tmp_path / "m.pt")
    with pytest.raises(SettingsError, match="name the one that decides"):
        prune(tmp_path / "m.pt", analysis=AnalysisSettings(noise="all"))
