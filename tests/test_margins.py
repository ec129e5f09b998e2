"""The margin that a drop gets for the noise of the samples that showed it."""

import numpy as np
import pytest
import torch
from scipy import stats

import rmt_compress as rmt
from rmt_compress.data.in_memory import InMemory
from rmt_compress.networks.tasks.classification import Classification
from rmt_compress.networks.tasks.task import ACCURACY, Score
from rmt_compress.planning.budgets import BudgetSettings
from rmt_compress.planning.margins import Judgement, margin
from rmt_compress.planning.searching import Asking, Trial
from rmt_compress.planning.within import plan_within_with
from rmt_compress.pruning.drop import Drop
from tests.samples.moments import moments_of


def judged(each):
    each = np.asarray(each, dtype=float)
    return Judgement(float(each.mean()), each)


def test_the_margin_is_that_of_scipys_paired_test(rng):
    """For the population the upper end of the one-sided interval of the paired t test, by another library."""
    before, after = rng.normal(size=200), rng.normal(size=200)
    interval = stats.ttest_rel(before, after, alternative="less").confidence_interval(0.9)
    bound = (before - after).mean() + margin(judged(before), judged(after), 0.9, None)
    assert bound == pytest.approx(interval.high)


@pytest.mark.parametrize("fresh", (50, 400, None))
def test_so_many_fresh_means_lie_below_the_bound(fresh, rng):
    """Answers of which one in twelve changes, more for the worse; a hundred thousand draws of the fresh mean."""
    chances, lost = (0.05, 0.92, 0.03), np.array((1.0, 0.0, -1.0))
    n, held = 300, []
    for _ in range(1000):
        seen = rng.choice(lost, size=n, p=chances)
        bound = seen.mean() + margin(judged(seen), judged(np.zeros(n)), 0.9, fresh)
        counts = rng.multinomial(fresh or 10**7, chances)
        held.append(counts @ lost / counts.sum() <= bound)
    assert np.mean(held) == pytest.approx(0.9, abs=0.04)


def test_the_pairing_counts_not_the_spread_of_the_samples(rng):
    hard = rng.normal(size=500) * 10
    small = margin(judged(hard), judged(hard - rng.normal(0.1, 0.01, 500)), 0.95, 500)
    assert small < 0.01 < margin(judged(hard), judged(rng.permutation(hard)), 0.95, 500)


def test_no_margin_where_nothing_is_known_or_wanted(rng):
    one, other = judged(rng.normal(size=50)), judged(rng.normal(size=50))
    assert margin(one, other, 0.5, 50) == 0.0
    assert margin(one, Judgement(0.3), 0.95, 50) == 0.0
    assert margin(one, one, 0.95, 50) == 0.0
    assert margin(one, other, 0.95, 50) > margin(one, other, 0.8, 50) > 0


@pytest.fixture(scope="module")
def network():
    import torch

    torch.manual_seed(4)
    model = torch.nn.Sequential(torch.nn.Linear(60, 80), torch.nn.ReLU(), torch.nn.Linear(80, 12)).eval()
    return model, rmt.analyze(model, min_size=10), moments_of(model, torch.randn(400, 60))


@pytest.mark.parametrize("confidence", (0.5, 0.95))
def test_a_budget_holds_on_fresh_samples_as_often_as_it_should(confidence, network):
    """Without a margin a drop that was just met is missed by half of all others."""
    import torch

    model, analysis, moments = network
    generator = torch.Generator().manual_seed(7)
    held = 0
    for _ in range(12):
        asked = [torch.randn(count, 60, generator=generator) for count in (150, 3000)]
        with torch.no_grad():
            labels = [model(inputs).argmax(1) for inputs in asked]

        def right(part, tensors, asked=asked, labels=labels):
            with torch.no_grad():
                answers = torch.func.functional_call(model, dict(tensors), (asked[part],)).argmax(1)
            return (answers == labels[part]).double().numpy()

        def score(trial: Trial, right=right):
            return judged(right(0, trial.tensors))

        settings = BudgetSettings(max_drop=0.3, confidence=confidence, search="one")
        plan = plan_within_with(analysis, moments, settings, asking=Asking(score, fresh=3000))
        small = rmt.compress(model, plan, moments, layout="dense").state_dict()
        held += 1 - right(1, small).mean() <= 0.3
    assert held >= 11 if confidence == 0.95 else held <= 9


@pytest.mark.parametrize(
    ("keep", "score", "margin", "fresh", "said"),
    (
        (0.3, 0.899, 0.0074, True, "a drop is uncertain by 0.74 points, more than the 0.50 points it may have"),
        (0.3, 0.899, 0.0049, True, None),
        (0.3, 0.3, 0.0744, True, None),
        (0.7, 0.899, 0.0074, True, None),
        (0.3, None, 0.0, True, None),
        (0.3, 0.899, 0.0074, False, None),
    ),
    ids=("uncertain", "certain enough", "a ruin", "hardly smaller", "no answer", "no other samples"),
)
def test_a_drop_below_the_noise_of_the_samples_is_said(keep, score, margin, fresh, said):
    whole = Score("classification", ACCURACY, 0.9, 0.3, 1029)
    task = Classification(InMemory(torch.zeros(1, 2)))
    drop = Drop(0.005, 0.95, whole, task, whole if fresh else None, 0.005, "chose nothing")
    uncut = {"rule": "uncut", "keep": 1.0, "score": 0.9, "margin": 0.0}
    tried = [uncut, {"rule": "plain uniform", "keep": keep, "score": score, "margin": margin}]
    notes = drop.uncertain({"tried": tried, "reached": {"keep": 0.8}})
    assert len(notes) == (said is not None)
    assert all(said in note and "--selection-samples" in note for note in notes)
