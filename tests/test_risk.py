"""The risk of cuts that nobody measures: its number against closed forms, its limits against the evidence."""

import json

import numpy as np
import pytest
import torch

import rmt_compress as rmt
from rmt_compress.analysis.risk import LIMITS, RISKS, removed_share, risk_of
from tests.samples.matrices import spiked_weight
from tests.samples.repository import REPOSITORY


@pytest.mark.parametrize(("rank", "expected"), ((0, 1.0), (3, 0.7), (10, 0.0)))
def test_of_equal_singular_values_it_is_the_share_that_goes(rank, expected):
    assert removed_share(np.full(10, 3.0), rank) == pytest.approx(expected)


def test_of_a_geometric_spectrum_it_is_the_rest_of_the_series():
    """Σ_{i>r} q^(2(i−1)) = (q^2r − q^2p)/(1 − q²) for s_i = q^(i−1)."""
    q, p, r = 0.9, 40, 7
    expected = (q ** (2 * r) - q ** (2 * p)) / (1 - q**2) / p
    assert removed_share(q ** np.arange(p), r) == pytest.approx(expected)


@pytest.mark.parametrize("scale", (1e-200, 1e200))
def test_the_scale_of_the_weight_does_not_count(rng, scale):
    values = np.sort(rng.random(20) + 0.1)[::-1]
    assert removed_share(values * scale, 5) == pytest.approx(removed_share(values, 5))


def layer(matrix):
    (found,) = rmt.analyze({"fc.weight": matrix}).analyzed
    return found


def test_a_cut_is_the_riskier_the_less_its_top_towers_and_the_more_goes():
    flat, towering = layer(spiked_weight(0)), layer(spiked_weight(200))
    assert (risk_of(flat, 1), risk_of(towering, 1)) == ("high", "low")
    grades = [RISKS.index(risk_of(flat, rank)) for rank in range(1, 65)]
    assert grades == sorted(grades, reverse=True)
    assert {0, 2} <= set(grades)


def test_of_a_stack_the_expert_with_the_greatest_counts():
    both = torch.stack([spiked_weight(200, 1), spiked_weight(0, 2), spiked_weight(200, 3)])
    (found,) = rmt.analyze({"experts.weight": both}, treat_as=["stack:*"]).analyzed
    assert len(found.matrices) == 3
    assert risk_of(found, 1) == risk_of(found.matrices[1], 1) == "high"


def test_the_limits_are_those_of_the_evidence(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "experiments"))
    rules = __import__("harm_rules")
    lines = (REPOSITORY / "experiments" / "data" / "harm.jsonl").read_text(encoding="utf-8").splitlines()
    table = rules.Table.of([json.loads(line) for line in lines], rules.CUTS["both"])
    found = rules.grade_limits(table, np.ones(table.harm.size, dtype=bool))
    assert found == pytest.approx(LIMITS, abs=5e-5)


def test_the_number_is_the_one_of_the_evidence(monkeypatch, rng):
    monkeypatch.syspath_prepend(str(REPOSITORY / "experiments"))
    rules = __import__("harm_rules")
    values = np.sort(rng.random(30))[::-1]
    row = {"removed": (values[4:] ** 2).sum() / (values**2).sum(), "p": 30}
    row["stable_rank"] = (values**2).sum() / values[0] ** 2
    assert rules.FEATURES[rules.RULE](row) == pytest.approx(removed_share(values, 4))
