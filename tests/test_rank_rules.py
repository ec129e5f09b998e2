"""Rank rules against published constants and direct computations."""

from itertools import pairwise

import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import torch
from hypothesis import given
from hypothesis import strategies as st

from rmt_compress.analysis import AnalysisSettings, AnalyzedLayer, analyze_layer
from rmt_compress.layers import Layer
from rmt_compress.planning.rules import RULES, rule_and_number
from rmt_compress.planning.rules.gd14 import hard_threshold
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
        assert RULES["bema"].keep(layer, share) == rank


def test_bema_rounds_shares_down_but_not_what_only_binary_makes_a_fraction(rng):
    analysis = analysis_of(rng.standard_normal((100, 150)))
    assert analysis.fit.spikes == 0
    assert 0.29 * 100 < 29
    assert RULES["bema"].keep(analysis, 0.29) == 29
    assert RULES["bema"].keep(analysis, 0.299) == 29


def test_published_ranks_are_45_percent_of_the_bulk_and_the_spikes():
    """SJK23: 784 → 354, 1500 → 677, 500 → 228."""
    for p, spikes, rank in ((784, 3, 354), (1500, 4, 677), (500, 6, 228)):
        layer = Layer("fc", "fc.weight", "linear", (p, p), "float32")
        analysis = AnalyzedLayer(layer, _fit(p, spikes), np.ones(p))
        assert RULES["bema"].keep(analysis, 0.45) == rank


def _fit(p, spikes):
    class Fit:
        pass

    fit = Fit()
    fit.p, fit.n, fit.spikes = p, p, spikes
    return fit


@pytest.mark.parametrize("share", (0.1, 0.5, 0.9, 0.999, 1.0))
def test_energy_is_the_fewest_that_reach_the_share(layer, share):
    rank = RULES["energy"].keep(layer, share)
    squares = layer.singular_values**2
    assert squares[:rank].sum() >= share * squares.sum() * (1 - 1e-9)
    assert rank == 1 or squares[: rank - 1].sum() < share * squares.sum()


def test_gd14_finds_the_planted_spikes(layer):
    assert RULES["gd14"].keep(layer, 0) == 3


def test_ratio_and_rank(layer):
    assert RULES["ratio"].keep(layer, 0.254) == 25
    assert RULES["ratio"].keep(layer, 0.001) == 1
    assert RULES["rank"].keep(layer, 17) == 17
    assert RULES["rank"].keep(layer, 1000) == 100


@pytest.mark.slow
@given(rng=GENERATORS, amounts=st.lists(st.floats(0, 1), min_size=2, max_size=5).map(sorted))
def test_ranks_grow_with_the_amount_and_stay_in_range(rng, amounts):
    analysis = analysis_of(rng.standard_normal((40, 60)))
    for name, rule in RULES.items():
        ranks = [rule.keep(analysis, 40 * amount if name == "rank" else amount) for amount in amounts]
        assert all(1 <= rank <= 40 for rank in ranks)
        assert all(low <= high for low, high in pairwise(ranks))


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.name)
def test_every_rule_stands_alone(rule, layer):
    """What `prune`, sweeps and pictures ask of a row; a new one is tested by being there."""
    assert rule.caption
    assert rule.source
    numbers = rule.grid(5) if rule.grid else [1.0]
    assert rule.number is None or all(map(rule.number.suits, numbers))
    for number in numbers:
        assert 1 <= rule.keep(layer, number) <= layer.fit.p
        assert rule_and_number(rule.written(number)) == (rule, number if rule.number else None)
    # No number is left out of a sweep: only one that has none is a single point.
    assert len(numbers) == (5 if rule.grid and (rule.number or rule.from_spikes) else 1)


def test_rules_do_not_depend_on_scale_or_transposition(rng):
    noise = rng.standard_normal((60, 90)) + 3 * rng.standard_normal((60, 2)) @ rng.standard_normal((2, 90))
    alike = [analysis_of(matrix) for matrix in (noise, 1e-3 * noise, noise.T.copy())]
    for rule in RULES.values():
        for number in (0.1, 0.5, 1.0):
            assert len({rule.keep(layer, number) for layer in alike}) == 1, (rule.name, number)
