"""One share of zeros divided between layers: uniform, by magnitude, by the edge, by the tail."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import rmt_compress as rmt
from rmt_compress.compression.layer_strengths import Strength, edge_weights, strength_at, tail_shares
from rmt_compress.compression.zero_budget import counts_by_scores, counts_by_shares
from rmt_compress.errors import PlanError
from rmt_compress.spectrum import fit_heavy_tail

BUDGETS = ("uniform", "magnitude", "edge", "alpha")


@pytest.fixture(scope="module")
def state():
    generator = torch.Generator().manual_seed(4)
    scales = {"fc1": 1.0, "encoder.attn.q_proj": 0.5, "fc2": 0.25, "head": 2.0}
    shapes = {"fc1": (60, 80), "encoder.attn.q_proj": (80, 80), "fc2": (70, 60), "head": (9, 60)}
    weights = {f"{name}.weight": torch.randn(shapes[name], generator=generator) * scales[name] for name in shapes}
    return weights | {"fc1.bias": torch.randn(60, generator=generator)}


@pytest.fixture(scope="module")
def analysis(state):
    return rmt.analyze(state)


def zeros(state, plan):
    made = rmt.compress(state, plan)
    return {name: int((value == 0).sum()) for name, value in made.items() if value.dim() > 1}


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.777, 0.999])
def test_the_share_of_the_whole_is_exact(state, analysis, budget, share):
    plan = rmt.make_plan(analysis, gof=0.0, sparsity=share)
    found = zeros(state, rmt.divide_sparsity(plan, analysis, budget))
    entries = sum(value.numel() for value in state.values() if value.dim() > 1)
    assert sum(found.values()) == int(share * entries + 1e-9)


@pytest.mark.parametrize("budget", BUDGETS)
def test_factors_of_split_layers_count_as_they_are_stored(state, analysis, budget):
    plan = rmt.make_plan(analysis, gof=1.0, rule="rank:7", sparsity=0.4)
    assert any(decision.action == "factorized" for decision in plan.layers)
    divided = rmt.divide_sparsity(plan, analysis, budget)
    entries = sum(value.numel() for value in rmt.compress(state, plan).values() if value.dim() > 1)
    assert sum(zeros(state, divided).values()) == int(0.4 * entries + 1e-9)


def test_magnitude_takes_the_smallest_of_all_layers(state, analysis):
    plan = rmt.divide_sparsity(rmt.make_plan(analysis, gof=0.0, sparsity=0.5), analysis, "magnitude")
    made = rmt.compress(state, plan)
    names = [name for name in state if state[name].dim() > 1]
    gone = torch.cat([state[name][made[name] == 0].abs() for name in names])
    kept = torch.cat([state[name][made[name] != 0].abs() for name in names])
    assert gone.max() < kept.min()


def test_equal_entries_of_several_layers_go_in_order():
    ones = torch.ones(5, dtype=torch.float32)
    assert counts_by_scores(lambda: [ones, 2 * ones, ones], 7) == [5, 0, 2]
    assert counts_by_scores(lambda: [0 * ones, -0.0 * ones, ones], 11) == [5, 5, 1]


def test_counts_of_scores_agree_with_a_sort(rng):
    layers = [torch.from_numpy(np.abs(rng.standard_normal(size)).astype(np.float32)) for size in (300, 7, 1000)]
    owners = np.repeat([0, 1, 2], [300, 7, 1000])[np.argsort(torch.cat(layers).numpy())]
    for count in (0, 1, 650, 1306, 1307):
        assert counts_by_scores(lambda: layers, count) == np.bincount(owners[:count], minlength=3).tolist()


def test_shares_that_would_overflow_a_layer_go_to_the_others():
    assert counts_by_shares([10, 10, 10], [1.0, 1.0, 1.0], 16) == [6, 5, 5]
    assert counts_by_shares([10, 10, 10], [4.0, 1.0, 1.0], 20) == [10, 5, 5]
    assert counts_by_shares([10, 10], [4.0, 1.0], 20) == [10, 10]


def test_edge_weights_are_those_of_the_formula(analysis):
    edges = np.array([layer.fit.lambda_plus**0.5 for layer in analysis.analyzed])
    scores = (edges - edges.mean()) / edges.std()
    found = edge_weights(analysis, 0.5)
    for layer, score in zip(analysis.analyzed, scores, strict=True):
        assert found[layer.tensor] == pytest.approx(max(0.1, 1 + 1.25 * (1 - 0.5 / 0.7) * score))


def test_attention_has_a_strength_of_its_own(analysis):
    ours = edge_weights(analysis, 0.6, Strength(beta=0.0, attention=1.0, fades=0.85))
    assert {name for name, weight in ours.items() if weight != 1} == {"encoder.attn.q_proj.weight"}
    assert strength_at(0.1).tail
    assert strength_at(0.9) == Strength(2.0, 1.0, 0.85)


def test_a_budget_past_its_fade_is_plain_magnitude(analysis):
    plan = rmt.make_plan(analysis, gof=0.0, sparsity=0.9)
    edge, magnitude = (rmt.divide_sparsity(plan, analysis, budget) for budget in ("edge", "magnitude"))
    assert edge.layers == magnitude.layers


def test_layers_of_a_lighter_tail_lose_more(analysis):
    shares = tail_shares(analysis)
    alphas = {each.tensor: fit_heavy_tail(each.singular_values**2).alpha for each in analysis.analyzed}
    assert sorted(shares, key=shares.__getitem__) == sorted(alphas, key=alphas.__getitem__)
    assert (min(shares.values()), max(shares.values())) == pytest.approx((0.7, 1.3))


def test_the_scale_of_the_whole_network_changes_nothing(state, analysis):
    scaled = {name: value * 8 for name, value in state.items()}
    plans = []
    for each in (state, scaled):
        found = rmt.analyze(each)
        plans.append(rmt.divide_sparsity(rmt.make_plan(found, gof=0.0, sparsity=0.5), found, "edge"))
    assert [each.sparsity for each in plans[0].layers] == [each.sparsity for each in plans[1].layers]


def test_a_plan_without_zeros_has_none_to_divide(analysis):
    with pytest.raises(PlanError, match="plan with a sparsity"):
        rmt.divide_sparsity(rmt.make_plan(analysis), analysis)
    with pytest.raises(PlanError, match="plan with a sparsity"):
        rmt.divide_sparsity(rmt.make_plan(analysis, sparsity=0.5), replace(analysis, source=None))
