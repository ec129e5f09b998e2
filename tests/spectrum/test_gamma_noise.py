"""General BEMA on noise that it is made for, and on noise that it is not."""

import numpy as np
import pytest

from rmt_compress.spectrum import DegenerateSpectrumError, fit_bulk, fit_gamma_noise, gamma_noise, noise_eigenvalues


def eigenvalues(matrix: np.ndarray) -> np.ndarray:
    """s²/n of a matrix (p, n)."""
    return np.linalg.svd(matrix, compute_uv=False) ** 2 / max(matrix.shape)


def test_equal_variances_have_no_spread_and_the_usual_edge(rng: np.random.Generator) -> None:
    spectrum = noise_eigenvalues(100, 400, rng)
    found = fit_gamma_noise(spectrum, 400)
    usual = fit_bulk(spectrum, 400)
    assert found.spread < 0.02
    assert found.fit.edge == pytest.approx(usual.edge, rel=0.03)


@pytest.mark.parametrize("long_side", [False, True])
def test_spread_and_variance_come_back(rng: np.random.Generator, *, long_side: bool) -> None:
    p, n, spread = 100, 400, 0.5
    spreads, means = [], []
    for _ in range(12):
        count = n if long_side else p
        scales = np.sqrt(2.0 * rng.gamma(1 / spread, spread, count))
        noise = rng.standard_normal((p, n)) * (scales if long_side else scales[:, None])
        found = fit_gamma_noise(eigenvalues(noise), n)
        means.append(found.fit.sigma2)
        # Of one spectrum of this size the side that it is cannot always be told.
        if found.long_side == long_side:
            spreads.append(found.spread)
    assert len(spreads) >= 5
    assert np.mean(spreads) == pytest.approx(spread, rel=0.25)
    assert np.mean(means) == pytest.approx(2.0, rel=0.1)


def test_spikes_stand_out_of_uneven_noise(rng: np.random.Generator) -> None:
    p, n = 100, 400
    noise = rng.standard_normal((p, n)) * np.sqrt(rng.gamma(4.0, 0.25, p))[:, None]
    left, right = np.linalg.qr(rng.standard_normal((p, 3)))[0], np.linalg.qr(rng.standard_normal((n, 3)))[0]
    planted = noise + 120.0 * left @ right.T
    assert fit_gamma_noise(eigenvalues(planted), n).fit.spikes == 3
    # The usual edge takes large variances for spikes.
    assert fit_bulk(eigenvalues(planted), n).spikes > 3


def test_scale_and_transposition_change_nothing_else(rng: np.random.Generator) -> None:
    noise = rng.standard_normal((50, 120)) * np.sqrt(rng.gamma(2.0, 0.5, 50))[:, None]
    one, other = fit_gamma_noise(eigenvalues(noise), 120), fit_gamma_noise(eigenvalues(7.0 * noise.T), 120)
    assert other.spread == pytest.approx(one.spread, abs=1e-4)
    assert other.fit.edge == pytest.approx(7 * one.fit.edge, rel=1e-3)
    assert (other.fit.spikes, other.long_side) == (one.fit.spikes, one.long_side)


@pytest.mark.slow
@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_known_variances_pass_the_edge_as_often_as_they_should(rng: np.random.Generator, beta: float) -> None:
    p, n, spread, draws = 50, 200, 0.3, 1500
    edge = gamma_noise.gamma_edge(spread, p, n, beta)
    above = 0
    for _ in range(draws):
        noise = rng.standard_normal((p, n)) * np.sqrt(rng.gamma(1 / spread, spread, p))[:, None]
        above += np.linalg.norm(noise, 2) ** 2 / n > edge
    assert above / draws == pytest.approx(beta, abs=0.03 if beta < 0.3 else 0.06)


def test_a_matrix_of_low_rank_has_no_noise() -> None:
    with pytest.raises(DegenerateSpectrumError, match="rank 3 of 40"):
        fit_gamma_noise(np.append(np.zeros(37), [1.0, 2.0, 3.0]), 80)
