"""The Dyson equalizer against its formula by singular vectors, on noise with scales, and its symmetries."""

import numpy as np
import pytest

import rmt_compress.spectrum.equalizer as equalizer
from rmt_compress.spectrum import (
    DegenerateSpectrumError,
    NonFiniteError,
    equalize,
    fit_bulk,
    fit_error_quantile,
    marchenko_pastur,
)


def scales(generator, count):
    return np.exp(generator.standard_normal(count))


def bulk(matrix):
    n = max(matrix.shape)
    return fit_bulk(np.linalg.svd(matrix, compute_uv=False) ** 2 / n, n)


@pytest.mark.parametrize("shape", ((40, 40), (40, 90), (90, 40)))
def test_is_the_formula_of_singular_vectors(rng, shape):
    """method.md §15, written down for no more rows than columns, and applied to its own result."""
    matrix = scales(rng, shape[0])[:, None] * rng.standard_normal(shape)
    expected = wide = matrix if shape[0] <= shape[1] else matrix.T
    m, n = wide.shape
    eta = np.median(np.linalg.svd(wide, compute_uv=False))
    found_last, left = np.inf, np.inf
    while left > 0.04 * n ** (-1 / 3):
        u, s, vt = np.linalg.svd(expected, full_matrices=False)
        e = eta / (eta**2 + s**2)
        first, second = u**2 @ e, 1 / eta + (vt**2).T @ (e - 1 / eta)
        x = (1 / first - eta) / np.sqrt(m - eta * first.sum())
        y = (1 / second - eta) / np.sqrt(n - eta * second.sum())
        expected = expected / np.sqrt(np.outer(x, y))
        eta = np.sqrt(n * marchenko_pastur.quantile(np.array([0.5]), m / n)[0])
        found_before, found_last = found_last, np.hypot(np.log(x).std(), np.log(y).std())
        left = found_last * max(1.6 / np.sqrt(m), found_last / found_before)
    found = equalize(matrix)
    np.testing.assert_allclose(found.matrix if wide is matrix else found.matrix.T, expected, rtol=1e-8)


@pytest.mark.parametrize("shape", ((50, 50), (100, 400), (400, 100)))
def test_takes_log_normal_scales_out_of_noise(rng, shape):
    noise = rng.standard_normal(shape)
    rows, columns = scales(rng, shape[0]), scales(rng, shape[1])
    scaled = rows[:, None] * noise * columns
    found = equalize(scaled)
    null = fit_error_quantile(0.999, min(shape), max(shape))
    assert bulk(scaled).gof > 0.2 > null
    fit = bulk(found.matrix)
    assert fit.gof < null
    assert fit.sigma2 == pytest.approx(1.0, abs=0.1)
    # The scales themselves, up to the number that either side may give the other.
    for own, read in ((rows, found.rows), (columns, found.columns)):
        assert np.corrcoef(np.log(own), np.log(read))[0, 1] > 0.98


@pytest.mark.parametrize(("spike", "enough"), ((0.0, True), (3e3, False)))
def test_single_precision_where_it_is_enough(rng, monkeypatch, spike, enough):
    matrix = (scales(rng, 60)[:, None] * rng.standard_normal((60, 90)) + spike).astype(np.float32)
    found, double = equalize(matrix), equalize(matrix.astype(np.float64))
    assert found.matrix.dtype == np.float32
    np.testing.assert_allclose(found.rows, double.rows, rtol=1e-4)
    np.testing.assert_allclose(found.columns, double.columns, rtol=1e-4)
    # The second matrix asked for more.
    monkeypatch.setattr(equalizer, "_ROUNDING", np.inf)
    with np.errstate(invalid="ignore"):
        single = equalize(matrix)
    assert np.allclose(single.rows, double.rows, rtol=1e-4) == enough


def test_scales_leave_no_trace(rng, monkeypatch):
    """Taken out to the end, what is given back does not depend on them."""
    monkeypatch.setattr(equalizer, "_LEFT", 1e-9)
    monkeypatch.setattr(equalizer, "_MOST_TIMES", 40)
    noise = rng.standard_normal((30, 50))
    scaled = scales(rng, 30)[:, None] * noise * scales(rng, 50)
    np.testing.assert_allclose(equalize(scaled).matrix, equalize(noise).matrix, rtol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize(("p", "n"), ((50, 50), (50, 300)))
def test_noise_of_any_scales_passes_the_edge_with_the_chance_that_was_asked(rng, p, n):
    draws = 500
    passed = {0.1: 0, 0.5: 0}
    for _ in range(draws):
        matrix = scales(rng, p)[:, None] * rng.standard_normal((p, n)) * scales(rng, n)
        values = np.linalg.svd(equalize(matrix).matrix, compute_uv=False)
        for beta in passed:
            passed[beta] += fit_bulk(values**2 / n, n, beta=beta, equalized=True).spikes > 0
    for beta, count in passed.items():
        # Three standard errors of the count, and .02. Without a correction it is .3 at 50 × 50 and β = .1.
        assert abs(count / draws - beta) < 3 * np.sqrt(beta * (1 - beta) / draws) + 0.02


def test_leaves_noise_of_one_variance_as_noise(rng):
    noise = 3 * rng.standard_normal((200, 300))
    fit = bulk(equalize(noise).matrix)
    assert fit.spikes == 0
    assert fit.gof < fit_error_quantile(0.999, 200, 300)


def test_keeps_a_spike(rng):
    """Of signs alone, so that the spike gives no row or column a scale of its own."""
    spike = np.outer(rng.choice([-1.0, 1.0], 200), rng.choice([-1.0, 1.0], 300)) / 5
    noise = rng.standard_normal((200, 300))
    raw, found = bulk(noise + spike), bulk(equalize(noise + spike).matrix)
    assert found.spikes == raw.spikes == 1
    assert found.edge == pytest.approx(raw.edge, rel=0.02)


@pytest.mark.parametrize("factor", (1e-200, 0.1, 1e200))
def test_does_not_see_the_scale_of_the_whole(rng, factor):
    matrix = rng.standard_normal((20, 30))
    found, scaled = equalize(matrix), equalize(matrix * factor)
    np.testing.assert_allclose(scaled.matrix, found.matrix, rtol=1e-9)
    np.testing.assert_allclose(scaled.rows[:, None] * scaled.columns / factor, np.outer(found.rows, found.columns))


def test_follows_permutations_signs_and_a_transposition(rng):
    matrix = scales(rng, 20)[:, None] * rng.standard_normal((20, 30))
    rows, columns, signs = rng.permutation(20), rng.permutation(30), rng.choice([-1.0, 1.0], 20)
    found = equalize(matrix)
    moved = equalize((signs[:, None] * matrix)[rows][:, columns])
    np.testing.assert_allclose(moved.matrix, (signs[:, None] * found.matrix)[rows][:, columns], rtol=1e-9)
    np.testing.assert_allclose(moved.rows, found.rows[rows], rtol=1e-9)
    np.testing.assert_allclose(moved.columns, found.columns[columns], rtol=1e-9)
    turned = equalize(matrix.T)
    np.testing.assert_allclose(turned.matrix, found.matrix.T, rtol=1e-9)
    np.testing.assert_allclose(turned.rows, found.columns, rtol=1e-9)


def test_rows_and_columns_of_zeros_are_left_out_and_come_back(rng):
    full = rng.standard_normal((20, 30))
    matrix = np.zeros((24, 33))
    rows, columns = np.delete(np.arange(24), (0, 7, 8, 23)), np.delete(np.arange(33), (5, 6, 32))
    matrix[np.ix_(rows, columns)] = full
    found = equalize(matrix)
    np.testing.assert_allclose(found.matrix, equalize(full).matrix, rtol=1e-12)
    np.testing.assert_array_equal(np.flatnonzero(found.used_rows), rows)
    np.testing.assert_array_equal(np.flatnonzero(found.used_columns), columns)
    np.testing.assert_allclose(found.scaled_back(found.matrix), matrix, rtol=1e-12)


def test_a_cut_that_is_scaled_back_keeps_its_rank(rng):
    found = equalize(scales(rng, 20)[:, None] * rng.standard_normal((20, 30)))
    u, s, vt = np.linalg.svd(found.matrix, full_matrices=False)
    cut = found.scaled_back((u[:, :4] * s[:4]) @ vt[:4])
    assert np.linalg.matrix_rank(cut) == 4


def test_refuses_what_has_no_noise(rng):
    for matrix in (np.zeros((5, 6)), rng.standard_normal((20, 5)) @ rng.standard_normal((5, 30))):
        with pytest.raises(DegenerateSpectrumError, match="zero"):
            equalize(matrix)
    with pytest.raises(NonFiniteError, match="NaN"):
        equalize([[1.0, np.nan], [0.0, 1.0]])
