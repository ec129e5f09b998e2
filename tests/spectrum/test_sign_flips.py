"""Sign flips: their exact error rate on uneven noise, planted spikes, and the largest value against LAPACK."""

import numpy as np
import pytest

from rmt_compress.spectrum import sign_flips
from rmt_compress.spectrum.sign_flips import FLIP_RULES, FlipRule, flips_for


def values(matrix: np.ndarray) -> np.ndarray:
    """Singular values, descending."""
    return np.linalg.svd(matrix.astype(np.float64), compute_uv=False)


@pytest.mark.parametrize(("beta", "flips"), [(0.005, (199, 1)), (0.01, (199, 2)), (0.05, (39, 2)), (0.1, (19, 2))])
def test_as_many_flips_as_make_the_rate_exact(beta: float, flips: tuple[int, int]) -> None:
    assert flips_for(beta) == flips
    draws, k = flips
    assert k / (draws + 1) == pytest.approx(beta)


@pytest.mark.parametrize("rule", FLIP_RULES)
def test_noise_of_any_variances_shows_a_spike_as_often_as_it_should(
    rng: np.random.Generator, rule: FlipRule
) -> None:
    rows, columns, draws = 16, 24, 300
    scales = np.exp(rng.standard_normal((rows, columns)))
    found = 0
    for draw in range(draws):
        noise = rng.standard_normal((rows, columns)) * scales
        found += sign_flips(noise, values(noise), rule=rule, seed=draw).spikes > 0
    # Three standard errors of a share of 0.1.
    assert found / draws == pytest.approx(0.1, abs=0.052)


def test_the_edge_is_a_quantile_of_the_largest_singular_values(rng: np.random.Generator) -> None:
    noise = rng.standard_normal((40, 90))
    # Values that no flip reaches, so that none is left out.
    ours = sign_flips(noise, 10 * values(noise), rule="upper", seed=3)
    exact = sign_flips(noise, 10 * values(noise), rule="pairwise", seed=3)
    # The two rules draw the same first matrix; over 19 draws their edges are as near as draws are.
    assert ours.edge == pytest.approx(exact.edge, rel=0.05)
    assert ours.flips == exact.flips == 19


def test_flips_that_can_change_nothing_are_not_drawn(rng: np.random.Generator) -> None:
    fewer, spikes = 0, []
    for draw in range(10):
        noise = rng.standard_normal((20, 30))
        found = sign_flips(noise, values(noise), seed=draw)
        every = sign_flips(noise, 10 * values(noise), seed=draw)
        assert found.spikes == np.sum(values(noise) > every.edge)
        spikes.append(found.spikes > 0)
        fewer += found.flips < every.flips
        assert found.edge == every.edge or not found.spikes
    # All but those that show a spike, and those where the last flip decided.
    assert 5 < fewer <= 10 - sum(spikes)


def test_of_a_large_matrix_fewer_are_drawn() -> None:
    assert flips_for(0.1, 383) == (19, 2)
    assert flips_for(0.1, 384) == (9, 1)
    assert flips_for(0.05, 3000) == (19, 1)


def test_planted_spikes_are_found_in_any_orientation(rng: np.random.Generator) -> None:
    noise = rng.standard_normal((60, 150)) * np.exp(0.7 * rng.standard_normal(60))[:, None]
    left, right = np.linalg.qr(rng.standard_normal((60, 2)))[0], np.linalg.qr(rng.standard_normal((150, 2)))[0]
    planted = noise + 150.0 * left @ right.T
    for matrix in (planted, planted.T, 1e-6 * planted, 1e6 * planted.astype(np.float32)):
        assert sign_flips(matrix, values(matrix)).spikes == 2


def test_the_largest_singular_value_is_lapacks(rng: np.random.Generator) -> None:
    from rmt_compress.spectrum.sign_flips import _largest

    for shape in ((1, 7), (3, 3), (50, 50), (100, 700)):
        matrix = rng.standard_normal(shape, dtype=np.float32)
        assert _largest(matrix, rng) == pytest.approx(values(matrix)[0], rel=5e-4)


def test_same_seed_same_edge_and_unknown_rules_are_refused(rng: np.random.Generator) -> None:
    noise = rng.standard_normal((30, 30))
    assert sign_flips(noise, values(noise), seed=1) == sign_flips(noise, values(noise), seed=1)
    with pytest.raises(ValueError, match="one of upper, pairwise"):
        sign_flips(noise, values(noise), rule="both")
    with pytest.raises(ValueError, match=r"beta in \[0.005, 1\)"):
        sign_flips(noise, values(noise), beta=0.001)
