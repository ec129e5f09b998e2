"""Sweeps of the sample networks on their data: the published shape of the curves, and what a plain prune leaves."""

from functools import cache

import numpy as np
import pytest

import rmt_compress as rmt
from rmt_compress.data import load_data
from rmt_compress.networks.loading import load_model
from rmt_compress.sweep import SweepTarget, sweep_rank, sweep_share, sweep_sparsity
from tests.samples.repository import MODELS


def accuracy_at(curve, weights):
    """Accuracy at so many weights, linear in their logarithm between two trials; 0 below the first."""
    counts, values = zip(*((point.weights, point.score) for point in curve.points), strict=True)
    return float(np.interp(np.log(weights), np.log(counts), values, left=0.0))


@cache
def real_network(model, data):
    """Analysed once: whatever is swept comes back as it was."""
    network = load_model(MODELS / f"{model}.safetensors")
    # Hundreds at a time take two thirds of the time that 64 take.
    return SweepTarget(network, rmt.analyze(network), load_data(data, split="test"), batch_size=500)


@pytest.fixture
def real_target(real_data):
    return real_network


@pytest.mark.slow
@pytest.mark.realdata
def test_first_mnist_layer_has_the_published_shape(real_target):
    """SJK23 §4.1 and figure 5: 92 % with 20 of 784 singular values, nothing lost with 100."""
    sweep = sweep_rank(real_target("mnist_mlp", "mnist"), layers=["fc1"], ranks=[5, 20, 100, 784])
    (curve,) = sweep.curves
    at = {point.amount: point.score for point in curve.points}
    assert at[20] >= 0.90
    assert curve.predicted is not None
    assert curve.predicted.score >= sweep.score - 0.025
    assert at[100] >= sweep.score - 0.01
    assert at[784] == sweep.score
    # The steep end: below the spikes accuracy goes.
    assert at[5] < at[20] - 0.1


@pytest.mark.realdata
@pytest.mark.slow
def test_bema_against_other_rules_at_equal_weights(real_target):
    """At the weights BEMA leaves (f = 0, .02, .05, .1) no other rule is better by more than chance, .15 points."""
    target = real_target("fashion_mlp", "fashion-mnist")
    amounts = {
        "bema": (0.0, 0.02, 0.05, 0.1),
        "energy": (0.45, 0.5, 0.6),
        "ratio": (0.05, 0.08, 0.1, 0.15),
    }
    curves = {curve.name: curve for curve in sweep_share(target, rules=list(amounts), amounts=amounts).curves}
    for point in curves["bema"].points:
        for other in ("energy", "ratio"):
            assert curves[other].points[0].weights < point.weights
            assert point.score >= accuracy_at(curves[other], point.weights) - 0.0015, (other, point)
    predicted = curves["bema"].predicted
    assert predicted is not None
    # Where nothing was chosen by hand, it is better by more than chance.
    assert predicted.score >= accuracy_at(curves["energy"], predicted.weights) + 0.01
    assert predicted.score >= accuracy_at(curves["ratio"], predicted.weights) + 0.001


@pytest.mark.slow
@pytest.mark.realdata
def test_five_percent_of_the_weights(real_target):
    sweep = sweep_sparsity(real_target("fashion_mlp", "fashion-mnist"), shares=[0.05])
    alone, after = (curve.points[0] for curve in sweep.curves)
    assert alone.weights == after.weights == round(0.05 * sweep.parameters)
    assert after.score >= 0.885
    assert alone.score < sweep.score - 0.10


@pytest.mark.realdata
def test_default_prune_of_the_fashion_network(real_target):
    """At most 13 % of the weights, within .4 points, without data and without retraining."""
    sweep = sweep_share(real_target("fashion_mlp", "fashion-mnist"), rules=["bema"], amounts={"bema": [0.0]})
    (point,) = sweep.curves[0].points
    assert point.weights <= 0.13 * sweep.parameters
    assert point.score >= sweep.score - 0.004
