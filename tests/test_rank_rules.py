"""Rank rules against published constants and direct computations."""

from itertools import pairwise

import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import torch
from hypothesis import given
from hypothesis import strategies as st

from rmt_compress.analysis import AnalysisSettings, LayerAnalysis, analyze_layer
from rmt_compress.layers import Layer
from rmt_compress.rank_rules import RANK_RULES, hard_threshold, rank_to_keep
from tests.samples.seeds import GENERATORS


def analysis_of(matrix):
    layer = Layer("fc", "fc.weight", "linear", matrix.shape, "float64")
    return analyze_layer(layer, torch.from_numpy(matrix), AnalysisSettings())


@pytest.fixture
def layer(rng):
    """100 × 150 noise of variance 1 with three spikes far above it."""
    noise = rng.standard_normal((100, 150))
    u, v = np.linalg.qr(rng.standard_normal((100, 3)))[0], np.linalg.qr(rng.standard_normal((150, 3)))[0]
    return analysis_of(noise + (u * [90.0, 70.0, 50.0]) @ v.T)


def test_hard_threshold_of_a_square_matrix_is_the_published_one():
    """2.858·median, abstract of Gavish and Donoho, IEEE Trans. Inf. Theory 60(8), 2014."""
    assert hard_threshold(1.0) == pytest.approx(2.858, abs=5e-4)


@given(c=st.floats(0.02, 1.0))
def test_hard_threshold_is_near_the_papers_cubic(c):
    """GD14 gives ω(β) ≈ 0.56β³ − 0.95β² + 1.82β + 1.43."""
    assert hard_threshold(c) == pytest.approx(0.56 * c**3 - 0.95 * c**2 + 1.82 * c + 1.43, abs=0.02)


@pytest.mark.parametrize("c", (0.1, 0.5, 0.9, 1.0))
def test_hard_threshold_from_first_principles(c):
    """Where keeping a spike costs as much as dropping it, in units of the noise's median by quadrature.

    A spike x (noise level 1) shows as y² = (1 + x²)(c + x²)/x², at angles with cos·cos = (x⁴ − c)/(x³·y) to its
    vectors (BGN12). Kept, it costs x² + y² − 2xy·cos·cos, dropped x².
    """

    def shown(x):
        return np.sqrt((1 + x**2) * (c + x**2)) / x

    def gain(x):
        return 2 * (x**4 - c) / x**2 - shown(x) ** 2

    a, b = (1 - np.sqrt(c)) ** 2, (1 + np.sqrt(c)) ** 2

    def density(angle):
        # x = a + (b − a)·sin²(angle/2) takes the roots out of the density.
        x = a + (b - a) * np.sin(angle / 2) ** 2
        return np.sqrt((b - x) * (x - a)) / (2 * np.pi * c * x) * (b - a) * np.sin(angle) / 2

    def excess(angle):
        return scipy.integrate.quad(density, 1e-12, angle)[0] - 0.5

    threshold = shown(scipy.optimize.brentq(gain, c**0.25, 10))
    median = a + (b - a) * np.sin(scipy.optimize.brentq(excess, 0.01, np.pi) / 2) ** 2
    assert hard_threshold(c) == pytest.approx(threshold / np.sqrt(median), rel=1e-6)
    if c == 1:
        assert threshold == pytest.approx(4 / np.sqrt(3), rel=1e-9)


def test_bema_keeps_the_spikes_and_a_share_of_the_bulk(layer):
    assert layer.fit.spikes == 3
    for share, rank in ((0.0, 3), (0.1, 12), (0.5, 51), (1.0, 100)):
        assert rank_to_keep(layer, "bema", share) == rank


def test_bema_rounds_shares_down_but_not_what_only_binary_makes_a_fraction(rng):
    analysis = analysis_of(rng.standard_normal((100, 150)))
    assert analysis.fit.spikes == 0
    assert 0.29 * 100 < 29
    assert rank_to_keep(analysis, "bema", 0.29) == 29
    assert rank_to_keep(analysis, "bema", 0.299) == 29


def test_published_ranks_are_45_percent_of_the_bulk_and_the_spikes():
    """SJK23: 784 → 354, 1500 → 677, 500 → 228."""
    for p, spikes, rank in ((784, 3, 354), (1500, 4, 677), (500, 6, 228)):
        analysis = LayerAnalysis(
            Layer("fc", "fc.weight", "linear", (p, p), "float32"), fit=_fit(p, spikes), singular_values=np.ones(p)
        )
        assert rank_to_keep(analysis, "bema", 0.45) == rank


def _fit(p, spikes):
    class Fit:
        pass

    fit = Fit()
    fit.p, fit.n, fit.spikes = p, p, spikes
    return fit


@pytest.mark.parametrize("share", (0.1, 0.5, 0.9, 0.999, 1.0))
def test_energy_is_the_fewest_that_reach_the_share(layer, share):
    rank = rank_to_keep(layer, "energy", share)
    squares = layer.singular_values**2
    assert squares[:rank].sum() >= share * squares.sum() * (1 - 1e-9)
    assert rank == 1 or squares[: rank - 1].sum() < share * squares.sum()


def test_gd14_finds_the_planted_spikes(layer):
    assert rank_to_keep(layer, "gd14", 0) == 3


def test_ratio_and_rank(layer):
    assert rank_to_keep(layer, "ratio", 0.254) == 25
    assert rank_to_keep(layer, "ratio", 0.001) == 1
    assert rank_to_keep(layer, "rank", 17) == 17
    assert rank_to_keep(layer, "rank", 1000) == 100


@given(rng=GENERATORS, amounts=st.lists(st.floats(0, 1), min_size=2, max_size=5).map(sorted))
def test_ranks_grow_with_the_amount_and_stay_in_range(rng, amounts):
    analysis = analysis_of(rng.standard_normal((40, 60)))
    for rule in RANK_RULES:
        ranks = [rank_to_keep(analysis, rule, 40 * amount if rule == "rank" else amount) for amount in amounts]
        assert all(1 <= rank <= 40 for rank in ranks)
        assert all(low <= high for low, high in pairwise(ranks))


def test_skipped_layer_has_no_rank():
    skipped = LayerAnalysis(Layer("fc", "fc.bias", "vector", (3,), "float32"), reason="a vector")
    with pytest.raises(ValueError, match="fc was skipped"):
        rank_to_keep(skipped, "bema", 0.0)
