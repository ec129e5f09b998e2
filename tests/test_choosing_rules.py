"""Which rule of the portfolio is taken at one size: the least loss of those with the best score."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import rmt_compress as rmt
from rmt_compress.planning.margins import Judgement, best
from rmt_compress.reporting.html.budget_curves import tried_networks
from tests.samples.moments import moments_of


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(4)
    return nn.Sequential(nn.Linear(60, 80), nn.ReLU(), nn.Linear(80, 12)).eval()


@pytest.fixture(scope="module")
def inputs():
    return torch.randn(200, 60, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def planned(model, inputs):
    analysis, moments = rmt.analyze(model, min_size=10), moments_of(model, inputs)

    def within(score, **budget):
        return rmt.plan_within(analysis, moments, score=score, **(budget or {"keep": 0.4}))

    return within


def judged(values, losses):
    """What says of the rules, one after another, these scores and losses; the last of the network as it is."""
    rules = {}

    def score(trial):
        place = rules.setdefault(trial.rule, len(rules))
        return Judgement(values[place % len(values)], loss=losses[place % len(losses)])

    return score


def answers(*wrong, of=400):
    """Right answers of many samples but for those places."""
    each = np.ones(of)
    each[list(wrong)] = 0.0
    return each


@pytest.mark.parametrize(
    ("second", "loss", "taken"),
    (
        # Three of 400 more are wrong: 1.7 standard errors of the paired difference (McNemar: √3).
        (answers(0, 1, 2), 0.2, 1),
        (answers(0, 1, 2), 0.4, 0),
        # Five more are 2.2.
        (answers(0, 1, 2, 3, 4), 0.2, 0),
        (answers(), 0.2, 1),
        (answers(0, 1, 2), math.nan, 0),
    ),
    ids=("as good, less loss", "as good, more loss", "worse", "equal", "no loss"),
)
def test_scores_that_samples_cannot_tell_apart_are_equal(second, loss, taken):
    first = Judgement(1.0, answers(), 0.3)
    assert best([first, Judgement(float(second.mean()), second, loss)]) == taken
    # With as many errors the other way round the order is the same.
    assert best([Judgement(float(second.mean()), second, loss), first]) == 1 - taken
    # Where nothing is known of single samples only equal scores are equal.
    apart = [Judgement(each.value, None, each.loss) for each in (first, Judgement(float(second.mean()), loss=loss))]
    assert best(apart) == (taken if second.mean() == 1.0 else 0)


@pytest.mark.parametrize(
    ("values", "losses", "chosen"),
    (
        ((0.9, 0.8, 0.9), (0.4, 0.2, 0.3), 2),
        ((0.8, 0.9, 0.7), (None, None, None), 1),
        ((0.9, 0.8, 0.9), (0.4, math.nan, math.inf), 0),
        ((0.9, math.nan, 0.9), (0.4, 0.1, 0.3), 2),
    ),
    ids=("loss", "score alone", "loss that is none", "no answer"),
)
def test_of_one_size_the_least_loss_of_equals_is_taken(values, losses, chosen, planned):
    budget = planned(judged(values, losses)).settings["budget"]
    tried = budget["tried"]
    assert budget["rule"] == tried[chosen]["rule"]
    assert budget["score"] == values[chosen]
    known = [loss is not None and math.isfinite(value + loss) for value, loss in zip(values, losses, strict=True)]
    assert [each.get("loss") for each in tried[:3]] == [
        loss if is_known else None for loss, is_known in zip(losses, known, strict=True)
    ]


def test_a_drop_is_one_of_the_score_whatever_the_loss_says(planned, model):
    """The smallest network that keeps the score is taken, though another has less loss."""
    whole = sum(parameter.numel() for parameter in model.parameters())

    def score(trial):
        left = 1.0 if not trial.rule else sum(tensor.numel() for tensor in trial.tensors.values()) / whole
        return Judgement(0.9, loss=2.0 - left)

    budget = planned(score, max_drop=0.01).settings["budget"]
    assert budget["met"]
    assert budget["reached"]["keep"] == min(each["keep"] for each in budget["tried"])


@pytest.mark.parametrize(
    ("values", "losses", "columns", "order"),
    (
        ((0.9, 0.9, 0.8), (0.4, 0.2, 0.3), ("rule", "parameters left", "score", "loss", ""), (1, 0, 2)),
        ((0.9, 0.8, 0.95), (-0.9, -0.8, -0.95), ("rule", "parameters left", "score", ""), (2, 0, 1)),
        ((0.9, 0.8, 0.95), (None, None, None), ("rule", "parameters left", "score", ""), (2, 0, 1)),
    ),
    ids=("loss", "score that is the loss", "score alone"),
)
def test_the_page_shows_by_what_a_rule_was_chosen(values, losses, columns, order, planned):
    budget = planned(judged(values, losses)).settings["budget"]
    # Of so small a network sizes are not as near to one another as those of a real one.
    budget["tried"] = budget["tried"][:3]
    for each in (*budget["tried"], budget["reached"]):
        each["keep"] = 0.4
    grid = tried_networks(budget)
    assert grid.columns == columns
    assert [row[0].text for row in grid.rows] == [budget["tried"][place]["rule"] for place in order]
    assert [row[-1].text for row in grid.rows] == ["chosen", "", ""]
    assert ("the least loss is chosen" in grid.title) == ("loss" in columns)
