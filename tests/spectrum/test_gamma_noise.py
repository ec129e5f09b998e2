"""General BEMA on noise that it is made for, and on noise that it is not."""

from typing import Literal

import numpy as np
import pytest

from rmt_compress.spectrum import (
    DegenerateSpectrumError,
    fit_bulk,
    fit_gamma_noise,
    noise_eigenvalues,
    uneven_side,
)
from rmt_compress.spectrum.gamma_noise import _squares


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
    side = "long" if long_side else "short"
    spreads, means = [], []
    for _ in range(12):
        count = n if long_side else p
        scales = np.sqrt(2.0 * rng.gamma(1 / spread, spread, count))
        noise = rng.standard_normal((p, n)) * (scales if long_side else scales[:, None])
        # Of one spectrum of this size the side cannot always be told; of the entries it can.
        assert uneven_side(noise) == side
        found = fit_gamma_noise(eigenvalues(noise), n, side=side)
        means.append(found.fit.sigma2)
        spreads.append(found.spread)
        assert found.long_side == long_side
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


def test_a_matrix_tells_whose_variances_differ(rng: np.random.Generator) -> None:
    even = rng.standard_normal((100, 400))
    rows, columns = (np.sqrt(rng.gamma(10.0, 0.1, side)) for side in even.shape)
    for scale in (1e-200, 1.0, 1e200):
        assert uneven_side(even * scale) == "none"
        assert uneven_side(even * rows[:, None] * scale) == uneven_side((even * rows[:, None]).T * scale) == "short"
        assert uneven_side(even * columns * scale) == uneven_side((even * columns).T * scale) == "long"
    # Heavy entries make lengths uneven too, though all have one law.
    assert uneven_side(rng.standard_t(5, (100, 400))) == "none"
    assert uneven_side(np.ones((5, 9))) == "none"


@pytest.mark.parametrize("shape", ((700, 90), (90, 700), (3, 50_000), (1, 1)))
@pytest.mark.parametrize("order", "CF")
def test_sums_of_squares_are_those_of_the_whole_matrix_at_once(
    rng: np.random.Generator, shape: tuple[int, int], order: Literal["C", "F"]
) -> None:
    matrix = np.array(rng.standard_t(5, shape) + 3.0, dtype=np.float32, order=order)
    squares = np.square(matrix.astype(np.float64) / np.abs(matrix).max())
    *sums, variance = _squares(matrix)
    first = squares[0, 0]
    for axis, found in zip((1, 0), sums, strict=True):
        np.testing.assert_allclose(found, (squares - first).sum(axis=axis), rtol=1e-9, atol=1e-9)
    assert variance == pytest.approx(squares.var(), rel=1e-9)


def test_chance_finds_even_noise_uneven_as_rarely_as_it_should(rng: np.random.Generator) -> None:
    found = sum(uneven_side(rng.standard_normal((40, 70))) != "none" for _ in range(2000))
    assert 6 <= found <= 40


def test_even_noise_is_marchenko_and_pasturs(rng: np.random.Generator) -> None:
    spectrum = noise_eigenvalues(60, 100, rng)
    found = fit_gamma_noise(spectrum, 100, side="none")
    assert (found.fit, found.spread) == (fit_bulk(spectrum, 100), 0.0)


def test_a_matrix_of_low_rank_has_no_noise() -> None:
    with pytest.raises(DegenerateSpectrumError, match="rank 3 of 40"):
        fit_gamma_noise(np.append(np.zeros(37), [1.0, 2.0, 3.0]), 80)
