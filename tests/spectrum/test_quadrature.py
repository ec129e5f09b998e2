"""Approximate spectra against exact ones, and what they say of their own error."""

import numpy as np
import pytest
import scipy.linalg
import torch

from rmt_compress.decomposition.block_lanczos import STAGES, KrylovSpace
from rmt_compress.spectrum import UncertainSpectrumError, approximate_fit, fit_bulk, marchenko_pastur, quadrature

ROWS, COLUMNS = 400, 600


def even(generator):
    return generator.standard_normal((ROWS, COLUMNS))


def spiked(generator):
    left = np.linalg.qr(generator.standard_normal((ROWS, 12)))[0]
    right = np.linalg.qr(generator.standard_normal((COLUMNS, 12)))[0]
    return even(generator) + (COLUMNS**0.5 * np.linspace(1.5, 60, 12) * left) @ right.T


def heavy(generator):
    return generator.standard_t(3, (ROWS, COLUMNS))


def uneven(generator):
    scales = np.exp(0.4 * generator.standard_normal(ROWS + COLUMNS))
    return scales[:ROWS, None] * even(generator) * scales[ROWS:]


def gap(generator):
    return np.repeat([1.0, 30.0], ROWS // 2)[:, None] * even(generator)


def low_rank(generator):
    return generator.standard_normal((ROWS, 30)) @ generator.standard_normal((30, COLUMNS))


def half_zero(generator):
    return even(generator) * (np.arange(ROWS) < 0.6 * ROWS)[:, None]


def space(matrix, stage=STAGES[-1], dtype=torch.float32, seed=0):
    found = KrylovSpace(torch.from_numpy(matrix).to(dtype), seed)
    found.grow(stage)
    return found.quadrature()


def fit(values):
    return fit_bulk(values**2 / COLUMNS, COLUMNS)


@pytest.fixture
def any_error(monkeypatch):
    """In so few directions chance is larger than is believed: whether the error is as said is another matter."""
    for name in ("EDGE_TOLERANCE", "GOF_TOLERANCE", "SPIKES_TOLERANCE"):
        monkeypatch.setattr(quadrature, name, 1.0)


@pytest.mark.parametrize("make", (even, spiked, heavy, uneven))
def test_error_is_no_larger_than_it_says(rng, any_error, make):
    matrix = make(rng)
    exact = scipy.linalg.svdvals(matrix)
    values, error = approximate_fit(space(matrix), fit)
    found, true = fit(values), fit(exact)
    assert abs(found.edge / true.edge - 1) <= error.edge_error <= 0.02
    assert abs(found.gof - true.gof) <= error.gof_error <= 0.03
    assert abs(found.spikes - true.spikes) <= max(1, error.spikes_error)
    np.testing.assert_allclose(np.square(values).sum(), np.square(exact).sum(), rtol=2e-3)
    # What is said to be exact is.
    np.testing.assert_allclose(values[: error.exact], exact[: error.exact], rtol=1e-3)
    assert np.all(np.diff(values) <= 0)


def test_errors_stay_within_what_is_said_for_95_in_100_choices_of_directions(rng, any_error):
    matrix = heavy(rng)
    true, within = fit(scipy.linalg.svdvals(matrix)), []
    for seed in range(20):
        values, error = approximate_fit(space(matrix, STAGES[0], seed=seed), fit)
        found = fit(values)
        off = abs(found.edge / true.edge - 1), abs(found.gof - true.gof)
        within.append(np.less_equal(off, (error.edge_error, error.gof_error)))
    assert np.all(np.sum(within, axis=0) >= 19)


@pytest.mark.parametrize("make", (gap, low_rank, half_zero))
def test_knows_when_it_does_not_know(rng, make):
    with pytest.raises(UncertainSpectrumError):
        approximate_fit(space(make(rng)), fit)


def test_small_or_unsound_matrices_are_refused(rng):
    for matrix, said in (
        (rng.standard_normal((80, 90)), "too few"),
        (np.full((ROWS, COLUMNS), np.nan), "float32"),
        (even(rng) * 1e20, "float32"),
        (np.zeros((ROWS, COLUMNS)), "float32"),
    ):
        with pytest.raises(UncertainSpectrumError, match=said):
            space(matrix)


def test_equal_singular_values_are_found_equal(rng):
    matrix = np.linalg.qr(rng.standard_normal((COLUMNS, ROWS)))[0].T
    np.testing.assert_allclose(space(matrix).eigenvalues(), 1.0, rtol=1e-3)


def test_repeats_and_follows_scale_and_transposition(rng):
    matrix = spiked(rng)
    first = space(matrix)
    np.testing.assert_array_equal(space(matrix).eigenvalues(), first.eigenvalues())
    np.testing.assert_allclose(space(8 * matrix.T).eigenvalues(), 64 * first.eigenvalues(), rtol=1e-3)


def test_formed_gram_matrix_says_the_same(rng, monkeypatch):
    matrix = even(rng)
    monkeypatch.setattr("rmt_compress.decomposition.block_lanczos._GRAM_GAIN", 1e9)
    formed = space(matrix)
    monkeypatch.setattr("rmt_compress.decomposition.block_lanczos._GRAM_GAIN", 1e-9)
    np.testing.assert_allclose(space(matrix).eigenvalues(), formed.eigenvalues(), rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("threads", (1, 2))
def test_one_thread_and_several_say_the_same(rng, monkeypatch, threads):
    """By numpy or by torch, as the number of threads says."""
    matrix = even(rng)
    once = space(matrix)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    for a in (matrix, np.asfortranarray(matrix)):
        np.testing.assert_allclose(space(a).eigenvalues(), once.eigenvalues(), rtol=2e-3, atol=1e-3)


def test_all_of_a_space_is_exact(rng, monkeypatch):
    """With as many steps as there are directions to find, nothing is left to chance."""
    monkeypatch.setattr("rmt_compress.decomposition.block_lanczos._LARGEST_SPACE", 1.0)
    matrix = even(rng)[: 4 * STAGES[-1].steps]
    found = space(matrix)
    assert found.values.size == len(matrix)
    np.testing.assert_allclose(found.values, np.sort(scipy.linalg.svdvals(matrix)) ** 2, rtol=1e-4)


def test_noise_is_continued_to_its_law():
    """Few Jacobi coefficients of Marchenko and Pastur's law, continued, are the law (its quadrature is closed)."""
    c = 0.5
    exact = marchenko_pastur.quantile((np.arange(4000) + 0.5) / 4000, c)
    nodes, weights = quadrature._continued(exact, np.full(4000, 1 / 4000), 12)
    found = quadrature._quantiles(nodes, weights, np.array([0.1, 0.25, 0.5, 0.75, 0.9]), None)
    np.testing.assert_allclose(
        found, marchenko_pastur.quantile(np.array([0.1, 0.25, 0.5, 0.75, 0.9]), c), rtol=2e-3
    )


def test_tilted_weights_have_the_moments(rng):
    nodes, weights = np.sort(rng.uniform(0.2, 2.0, 50)), np.full(50, 1 / 50)
    target = weights * (1 + 0.2 * (nodes - 1) ** 2)
    # Moments of a measure whose mean is 1.
    target *= 1 - 0.3 * (nodes - 1)
    target /= target.sum()
    nodes /= target @ nodes
    moments = np.array([target @ nodes**degree for degree in range(5)])
    tilted = quadrature._tilted(nodes, weights, moments)
    np.testing.assert_allclose([tilted @ nodes**degree for degree in range(5)], moments, rtol=1e-6)
