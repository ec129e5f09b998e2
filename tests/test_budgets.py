"""Plans within a budget: sizes kept, the portfolio, few evaluations, and the plan file that holds every price."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import rmt_compress as rmt
from rmt_compress.decomposition.moments import Moments
from rmt_compress.errors import PlanError, SettingsError
from rmt_compress.networks.calibration.calibrating import calibrate
from rmt_compress.networks.replacing import replaced, scored
from rmt_compress.plan import Plan
from rmt_compress.planning.budgets import BudgetSettings
from rmt_compress.planning.costs import Seconds
from rmt_compress.planning.searching import Asking, Trial
from rmt_compress.planning.within import plan_at
from tests.samples.moments import moments_of
from tests.samples.times import table_of


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(4)
    return nn.Sequential(nn.Linear(60, 80), nn.ReLU(), nn.Linear(80, 70), nn.ReLU(), nn.Linear(70, 12)).eval()


@pytest.fixture(scope="module")
def inputs():
    mix = torch.randn(60, 60, generator=torch.Generator().manual_seed(0)) * torch.logspace(0, -2, 60)
    return torch.randn(500, 60, generator=torch.Generator().manual_seed(1)) @ mix.T


@pytest.fixture(scope="module")
def moments(model, inputs):
    return moments_of(model, inputs)


@pytest.fixture(scope="module")
def analysis(model):
    return rmt.analyze(model, min_size=10)


@pytest.fixture
def score(model, inputs):
    """Minus the distance to the outputs as they were."""
    with torch.no_grad():
        outputs = model(inputs)

    def judge(network):
        with torch.no_grad():
            return -float((network(inputs) - outputs).square().mean() / outputs.square().mean())

    return Counted(scored(model, judge))


class Counted:
    def __init__(self, score):
        self.score, self.calls = score, []

    def __call__(self, trial):
        found = self.score(trial)
        self.calls.append((trial.rule, found))
        return found


def size(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("keep", (0.3, 0.5, 0.8))
@pytest.mark.parametrize("metric", ("plain", "input", "two-sided"))
def test_keep_bounds_the_parameters_of_the_whole_network(keep, metric, model, analysis, moments):
    plan = rmt.plan_within(analysis, moments, keep=keep, metric=metric)
    small = rmt.compress(model, plan, moments)
    assert 0.96 * keep < size(small) / size(model) <= keep
    budget = plan.settings["budget"]
    assert budget["reached"]["keep"] == pytest.approx(size(small) / size(model))
    assert (budget["asked"], budget["evaluations"], budget["met"], plan.basis) == ({"keep": keep}, 0, True, metric)
    losses = [each.predicted_loss for each in plan.layers if each.rank is not None]
    assert all((loss is not None) == (metric == "two-sided") for loss in losses)


def test_without_moments_the_cut_is_plain_and_with_them_two_sided(analysis, moments):
    assert rmt.plan_within(analysis, keep=0.5).basis == "plain"
    plan = rmt.plan_within(analysis, moments, keep=0.5)
    assert (plan.basis, plan.settings["scaling"]) == ("two-sided", "tempered")
    assert plan.shrinkage == {"inputs": 0.001, "outputs": 0.1}
    seen = Moments({name: rmt_without_gradients(own) for name, own in moments.layers.items()})
    assert rmt.plan_within(analysis, seen, keep=0.5).basis == "input"
    with pytest.raises(PlanError, match="the metric two-sided needs gradients at the outputs"):
        rmt.plan_within(analysis, seen, keep=0.5, metric="two-sided")
    with pytest.raises(PlanError, match="needs the moments of the layers"):
        rmt.plan_within(analysis, keep=0.5, metric="input")


def rmt_without_gradients(own):
    return type(own)(own.inputs, own.mean, None, own.count)


def test_the_predicted_loss_is_that_of_the_output_in_the_metric(model, analysis, moments, inputs):
    """½·E‖Δy‖² of the last layer, whose gradients at the outputs are taken as white."""
    white = {n: type(m)(m.inputs, m.mean, torch.tensor(1.0).double(), m.count) for n, m in moments.layers.items()}
    settings = BudgetSettings(keep=0.6, shrink_inputs=0.0, shrink_outputs=0.0)
    from rmt_compress.planning.within import plan_within_with

    plan = plan_within_with(analysis, Moments(white), settings)
    small = rmt.compress(model, plan, Moments(white))
    decision = plan.by_tensor["0.weight"]
    error = (small[0](inputs) - model[0](inputs)).double().square().sum(1).mean() / 2
    assert decision.predicted_loss == pytest.approx(float(error.detach()), rel=1e-3)


def test_the_predicted_loss_is_what_a_mild_cut_costs(model, analysis, inputs):
    """Between the answers before and after: KL, which half the true Fisher matrix is the second-order term of."""
    moments = calibrate(model, list(inputs.split(100)), seed=1)
    plan = rmt.plan_within(analysis, moments, keep=0.8, scaling="absolute")
    small = rmt.compress(model, plan, moments)
    with torch.no_grad():
        before, after = model(inputs).log_softmax(1).double(), small(inputs).log_softmax(1).double()
    measured = float((before.exp() * (before - after)).sum(1).mean())
    predicted = sum(each.predicted_loss or 0.0 for each in plan.layers)
    assert 0.5 < measured / predicted < 2


def test_the_portfolio_is_tried_at_the_wanted_size_and_the_best_is_taken(model, analysis, moments, score):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plan = rmt.plan_within(analysis, moments, keep=0.4, score=score)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    budget = plan.settings["budget"]
    assert budget["evaluations"] == len(score.calls) <= 12
    assert budget["score"] == max(found for _, found in score.calls)
    assert [(each["rule"], each["score"]) for each in budget["tried"]] == score.calls
    assert {rule.split()[0] for rule, _ in score.calls} == {"plain", "input", "two-sided"}
    assert all(each["keep"] <= 0.4 for each in budget["tried"])
    assert f"{plan.basis} {plan.settings['scaling']}" == max(score.calls, key=lambda pair: pair[1])[0]
    small = rmt.compress(model, plan, moments)
    with replaced(model, {}):
        found = small(torch.ones(3, 60))
    assert torch.isfinite(found).all()


def test_what_was_scored_is_what_compress_makes(model, analysis, moments, inputs):
    seen = {}

    def judge(network):
        with torch.no_grad():
            seen["outputs"] = network(inputs)
        return 0.0

    plan = rmt.plan_within(
        analysis, moments, keep=0.4, metric="two-sided", scaling="tempered", score=scored(model, judge)
    )
    small = rmt.compress(model, plan, moments)
    torch.testing.assert_close(small(inputs), seen["outputs"], rtol=1e-4, atol=1e-5)


def test_a_network_without_a_finite_score_loses_to_any_other(analysis, moments):
    def mostly_nan(trial):
        return 0.25 if trial.rule == "input uniform" else float("nan")

    budget = rmt.plan_within(analysis, moments, keep=0.4, score=mostly_nan).settings["budget"]
    assert budget["score"] == 0.25
    assert {each["score"] for each in budget["tried"]} == {0.25, None}
    with pytest.raises(SettingsError, match="the network as it is has no finite score"):
        rmt.plan_within(analysis, moments, max_drop=0.1, score=mostly_nan)


def test_energies_of_inputs_count_as_the_loss_feels_them(analysis, moments):
    """As two-sided ones do where of G no more than tr G/m is known: one unit for all layers."""
    white = {
        name: type(own)(own.inputs, own.mean, own.outputs.diagonal().mean(), own.count)
        for name, own in moments.layers.items()
    }
    inputs = rmt.plan_within(analysis, moments, keep=0.5, metric="input", scaling="absolute")
    felt = rmt.plan_within(analysis, Moments(white), keep=0.5, metric="two-sided", scaling="absolute")
    assert [each.rank for each in inputs.layers] == [each.rank for each in felt.layers]


def test_a_part_of_the_samples_weeds_out_rules_first(analysis, moments, score):
    from rmt_compress.planning.within import plan_within_with

    settings = BudgetSettings(keep=0.4)
    whole = plan_within_with(analysis, moments, settings, asking=Asking(score)).settings["budget"]
    every, score.calls[:] = [rule for rule, _ in score.calls], []
    seen = []

    def rough(trial):
        """Right but for the two rules that it likes best, which are bad ones."""
        seen.append(trial.rule)
        return 1.0 if trial.rule in every[-2:] else score.score(trial)

    found = plan_within_with(analysis, moments, settings, asking=Asking(score, rough)).settings["budget"]
    assert set(seen) == set(every)
    assert found["evaluations"] == len(score.calls) == 4
    assert {rule for rule, _ in score.calls} > set(every[-2:])
    assert found["score"] == whole["score"]
    assert found["on_a_part"][every[-1]] == 1.0
    # Few rules are all asked all samples.
    alone = plan_within_with(
        analysis, moments, BudgetSettings(keep=0.4, scaling="relative"), asking=Asking(score, rough)
    )
    assert "on_a_part" not in alone.settings["budget"]


def test_one_rule_asks_nothing(analysis, moments, score):
    plan = rmt.plan_within(analysis, moments, keep=0.4, search="one", score=score)
    assert (score.calls, plan.settings["budget"]["evaluations"]) == ([], 0)


@pytest.mark.parametrize("search", ("one", "portfolio"))
@pytest.mark.parametrize("drop", (0.002, 0.05, 0.4))
def test_the_smallest_network_within_a_drop_was_measured(drop, search, model, analysis, moments, score, inputs):
    plan = rmt.plan_within(analysis, moments, max_drop=drop, search=search, score=score)
    budget = plan.settings["budget"]
    assert budget["evaluations"] == len(score.calls) <= 20
    assert budget["met"]
    assert budget["score"] >= budget["goal"] == -drop
    assert budget["score"] in [found for _, found in score.calls]
    good = [each for each in budget["tried"] if each["score"] >= budget["goal"]]
    assert budget["reached"]["keep"] == min(each["keep"] for each in good)
    small = rmt.compress(model, plan, moments)
    with torch.no_grad():
        outputs = model(inputs)
        error = float((small(inputs) - outputs).square().mean() / outputs.square().mean())
    assert -error == pytest.approx(budget["score"], rel=1e-3, abs=1e-6)
    assert size(small) / size(model) == pytest.approx(budget["reached"]["keep"])


def test_the_search_finds_nearly_the_smallest(model, analysis, moments, score):
    """Against looking at sizes a hundred times as closely along the rule that won."""
    plan = rmt.plan_within(analysis, moments, max_drop=0.05, score=score)
    for keep in np.arange(0.99, 0.05, -0.01):
        smaller = rmt.compress(model, plan_at(plan, float(keep)), moments, layout="dense")
        if score(Trial(smaller.state_dict())) < -0.05:
            break
    assert plan.settings["budget"]["reached"]["keep"] < keep + 0.06


def test_a_drop_that_cannot_be_kept_says_how_near_it_came(analysis, moments):
    calls = []

    def only_whole(trial):
        calls.append(trial)
        return 1.0 if not trial.tensors else 0.5 - 1e-3 * len(calls)

    plan = rmt.plan_within(analysis, moments, max_drop=0.1, keep=0.9, score=only_whole)
    budget = plan.settings["budget"]
    assert not budget["met"]
    assert budget["goal"] == 0.9
    assert len(calls) == budget["evaluations"] <= 20
    assert budget["reached"]["keep"] <= 0.9
    assert budget["score"] == max(each["score"] for each in budget["tried"] if each["keep"] <= 0.9)


def test_fewer_evaluations_are_kept_to(analysis, moments, score):
    from rmt_compress.planning.within import plan_within_with

    for limit in (1, 3, 8):
        score.calls.clear()
        settings = BudgetSettings(max_drop=0.05, evaluations=limit)
        plan = plan_within_with(analysis, moments, settings, asking=Asking(score))
        assert len(score.calls) == plan.settings["budget"]["evaluations"] <= limit
        assert plan.settings["budget"]["met"]


def test_the_same_plan_bit_for_bit(analysis, moments, score):
    first, second = (rmt.plan_within(analysis, moments, max_drop=0.05, score=score).to_json() for _ in range(2))
    assert first == second


def test_another_budget_is_read_off_the_plan_file(analysis, moments, tmp_path):
    plan = rmt.plan_within(analysis, moments, keep=0.7)
    path = tmp_path / "plan.json"
    path.write_text(plan.to_json(), encoding="utf-8")
    for keep in (0.25, 0.5, 0.7, 0.95):
        again = plan_at(rmt.load_plan(path), keep)
        direct = rmt.plan_within(analysis, moments, keep=keep)
        ranks = {each.tensor: (each.action, each.rank, each.predicted_loss) for each in direct.layers}
        assert {each.tensor: (each.action, each.rank, each.predicted_loss) for each in again.layers} == ranks
        reached = {"keep": pytest.approx(direct.settings["budget"]["reached"]["keep"])}
        assert (again.settings["budget"]["asked"], again.settings["budget"]["reached"]) == ({"keep": keep}, reached)
    assert len(plan.to_json()) < 8000
    assert max(map(len, path.read_text().splitlines()[:-2])) < 500  # decisions are lines to be edited
    with pytest.raises(SettingsError, match=r"a share of 0\.01 cannot be reached: 0\.\d+ is the least there is"):
        plan_at(plan, 0.01)
    with pytest.raises(PlanError, match="has no curve of prices"):
        plan_at(Plan(layers=plan.layers), 0.5)


def test_a_compressed_file_does_not_carry_the_curve(model, analysis, moments, tmp_path):
    plan = rmt.plan_within(analysis, moments, keep=0.5)
    small = rmt.compress(model, plan, moments)
    rmt.save(small, tmp_path / "small.safetensors", plan=plan)
    head = (tmp_path / "small.safetensors").read_bytes()[:20000]
    assert b"two-sided" in head
    assert b"losses" not in head
    assert set(rmt.load_dense(tmp_path / "small.safetensors")) == set(model.state_dict())


def test_a_file_is_read_again(model, moments, tmp_path):
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    analysis = rmt.analyze(tmp_path / "model.safetensors", min_size=10)
    plan = rmt.plan_within(analysis, moments, keep=0.5)
    live = rmt.plan_within(rmt.analyze(model, min_size=10), moments, keep=0.5)
    assert plan.by_tensor["0.weight"].rank == live.by_tensor["0.weight"].rank
    state = rmt.compress(tmp_path / "model.safetensors", plan, moments)
    assert sum(tensor.numel() for tensor in state.values()) <= 0.5 * size(model)


def test_multiply_adds_and_several_budgets_at_once(model, analysis, moments):
    positions = {"0.weight": 50.0, "2.weight": 1.0, "4.weight": 1.0}
    macs = rmt.plan_within(analysis, moments, macs=0.5, positions=positions).settings["budget"]["reached"]
    assert 0.48 < macs["macs"] <= 0.5
    assert macs["keep"] > 0.6
    both = rmt.plan_within(analysis, moments, macs=0.5, keep=0.4, positions=positions)
    reached = both.settings["budget"]["reached"]
    assert 0.37 < reached["keep"] <= 0.4
    assert reached["macs"] <= 0.5
    assert both.curve is None
    with pytest.raises(SettingsError, match="the budget macs needs the positions of the layers"):
        rmt.plan_within(analysis, moments, macs=0.5)


def test_latency_never_takes_a_rank_that_is_slower(analysis, moments):
    first = {rank: 0.5 + rank / 5 for rank in range(1, 40)}  # slower than dense from 23 on
    second = dict.fromkeys(range(1, 40), 7.0)  # always slower
    table = table_of({"0.weight": (5.0, first), "2.weight": (6.0, second)}, 12.0)
    plan = rmt.plan_within(analysis, moments, latency=0.7, seconds=Seconds(table))
    assert plan.settings["budget"]["reached"]["latency"] <= 0.7
    ranks = {each.tensor: each.rank for each in plan.layers}
    assert ranks["0.weight"] is not None
    assert ranks["2.weight"] is None


def test_layers_can_be_bounded_and_left_out(model, analysis, moments):
    plan = rmt.plan_within(analysis, moments, keep=0.6, exclude=("0",), multiple=4)
    ranks = {each.tensor: each.rank for each in plan.layers}
    assert ranks["0.weight"] is None
    assert ranks["2.weight"] % 4 == 0
    assert plan.by_tensor["0.weight"].reason == "excluded"
    capped = rmt.plan_within(analysis, moments, keep=0.99, caps=("2:0.3",))
    assert 150 * capped.by_tensor["2.weight"].rank <= 0.3 * 5600
    spikes = {each.tensor: each.fit.spikes for each in analysis.analyzed if each.fits}
    assert spikes
    for edge, suits in (
        ("floor", lambda rank, k: rank is None or rank >= k),
        ("ceiling", lambda rank, k: rank <= max(k, 1)),
    ):
        plan = rmt.plan_within(analysis, moments, keep=0.8, edge=edge)
        assert all(suits(each.rank, spikes[each.tensor]) for each in plan.layers if each.tensor in spikes)


def test_a_layer_without_moments_is_cut_plain_and_said_so(model, analysis, moments):
    rest = Moments(
        {n: m for n, m in moments.layers.items() if n != "2.weight"}, {"2.weight": "its inputs are whole numbers"}
    )
    plan = rmt.plan_within(analysis, rest, keep=0.3)
    assert plan.by_tensor["2.weight"].reason.endswith("in its plain directions: its inputs are whole numbers")
    assert plan.by_tensor["2.weight"].predicted_loss is None
    assert plan.by_tensor["0.weight"].predicted_loss is not None
    outcomes = []
    rmt.compress(model, plan, rest, outcomes=outcomes)
    reason = next(each.reason for each in outcomes if each.tensor == "2.weight")
    assert reason.count("plain directions") == 1


@pytest.mark.parametrize(
    ("settings", "problem"),
    (
        ({}, "no budget: give one of keep, macs, latency, max-drop"),
        ({"keep": 1.5}, "keep must"),
        ({"keep": 0.5, "scaling": "odd"}, "scaling must be absolute or tempered or relative or uniform"),
        ({"keep": 0.5, "caps": ("fc",)}, r"caps takes GLOB:SHARE with a share in \(0, 1\], got 'fc'"),
        ({"keep": 0.01}, r"keep 0\.01 cannot be reached: 0\.\d+ is the least there is"),
        ({"max_drop": 0.1}, "max-drop needs networks that can be scored"),
        ({"keep": 0.5, "exclude": ("nothing",)}, "'nothing' matches no analysed layer; they are 0, 2, 4"),
        ({"keep": 0.5, "exclude": ("*",)}, r"no layer can be cut to a smaller one \(0\.weight: excluded"),
    ),
)
def test_what_cannot_be_is_one_line(settings, problem, analysis, moments):
    with pytest.raises(SettingsError, match=problem):
        rmt.plan_within(analysis, moments, **settings)


def test_the_record_is_plain_json(analysis, moments, score):
    plan = rmt.plan_within(analysis, moments, keep=0.5, score=score)
    assert json.loads(plan.to_json())["settings"]["budget"]["tried"][0]["rule"] == "two-sided tempered"
    assert Plan.from_json(plan.to_json()).to_json() == plan.to_json()
    assert Trial({}).rule == ""
