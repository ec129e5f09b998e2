"""BEMA: error rates on noise, spikes, equivariance, and the published formula."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import brentq

from rmt_compress import spectrum
from rmt_compress.spectrum import (
    DegenerateSpectrumError,
    fit_bulk,
    marchenko_pastur,
    noise_eigenvalues,
    tracy_widom,
)


def fit_matrix(matrix, **options):
    values = np.linalg.svd(matrix, compute_uv=False)
    n = max(matrix.shape)
    return fit_bulk(values**2 / n, n, **options)


def planted(rng, rows, columns, strengths):
    """Noise of unit variance plus one spike per strength, in units of √n; BGN12's detection limit is c^¼."""
    u = np.linalg.qr(rng.standard_normal((rows, len(strengths))))[0]
    v = np.linalg.qr(rng.standard_normal((columns, len(strengths))))[0]
    scale = np.sqrt(max(rows, columns))
    return rng.standard_normal((rows, columns)) + (u * np.array(strengths) * scale) @ v.T


def textbook_quantile(u, c):
    a, b = (1 - c**0.5) ** 2, (1 + c**0.5) ** 2

    def below(x):
        return quad(lambda y: ((b - y) * (y - a)) ** 0.5 / (2 * np.pi * c * y), a, x, epsabs=1e-11)[0] - u

    return brentq(below, a, b)


@pytest.mark.parametrize("rule", ("midpoint", "paper"))
def test_sigma2_and_gof_written_out(rule, rng):
    """Steps 1, 2 of method.md §4 and the fit error of §5, one rank at a time."""
    p, n, alpha = 40, 64, 0.2
    spectrum_ = np.sort(np.linalg.eigvalsh((w := rng.standard_normal((p, n)) * 3) @ w.T) / n)
    ranks = [k for k in range(1, p + 1) if 0.2 * p <= k <= 0.8 * p]
    q = np.array([textbook_quantile((k - (0.5 if rule == "midpoint" else 0)) / p, p / n) for k in ranks])
    sigma2 = sum(q * spectrum_[np.array(ranks) - 1]) / sum(q**2)
    fit = fit_bulk(spectrum_, n, alpha=alpha, quantiles=rule)
    assert fit.window == (ranks[0], ranks[-1])
    assert fit.sigma2 == pytest.approx(sigma2, rel=1e-8)
    law = [float(marchenko_pastur.cdf(spectrum_[k - 1] / sigma2, p / n)) for k in ranks]
    distance = max(max(abs(f - k / p), abs(f - (k - 1) / p)) for f, k in zip(law, ranks, strict=True))
    assert fit.gof == pytest.approx(distance, abs=1e-8)


def test_paper_edge_is_the_published_formula(rng):
    fit = fit_bulk(noise_eigenvalues(100, 100, rng), 100, beta=0.1, quantiles="paper")
    t = 0.450143  # Tracy–Widom, 90 %
    assert fit.lambda_plus == pytest.approx(fit.sigma2 * (4 + 2 ** (4 / 3) * t * 100 ** (-2 / 3)), rel=1e-6)
    assert fit.edge == pytest.approx(np.sqrt(100 * fit.lambda_plus))
    p, n = 60, 600
    fit = fit_bulk(noise_eigenvalues(p, n, rng), n, beta=0.1, quantiles="paper")
    root = (p / n) ** 0.5
    wanted = (1 + root) ** 2 + t * n ** (-2 / 3) * (p / n) ** (-1 / 6) * (1 + root) ** (4 / 3)
    assert fit.lambda_plus == pytest.approx(fit.sigma2 * wanted, rel=1e-6)


def test_default_edge_tends_to_the_published_one():
    """All three corrections vanish as the matrix grows."""
    gaps = []
    for p in (50, 500, 5000):
        spectrum_ = marchenko_pastur.quantile((np.arange(p) + 0.5) / p, 0.5)
        ours, paper = (fit_bulk(spectrum_, 2 * p, quantiles=rule).lambda_plus for rule in ("midpoint", "paper"))
        gaps.append(abs(ours / paper - 1))
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 3e-4


@pytest.mark.parametrize(("p", "n"), ((50, 50), (100, 100), (100, 1000)))
def test_largest_noise_eigenvalue_passes_with_probability_beta(p, n, rng):
    _assert_rates(p, n, 1000, rng)


@pytest.mark.slow
def test_error_rate_on_a_transformer_sized_layer(rng):
    _assert_rates(384, 1536, 600, rng)


def _assert_rates(p, n, draws, rng):
    drawn = [noise_eigenvalues(p, n, rng) for _ in range(draws)]
    for beta in (0.1, 0.5, 0.9):
        passed = sum(fit_bulk(each, n, beta=beta).spikes > 0 for each in drawn)
        # ±0.02 for the rule (docs/statistics.md has 20,000 draws) and 2.6 standard errors for these draws.
        assert passed / draws == pytest.approx(beta, abs=0.02 + 2.6 * np.sqrt(beta * (1 - beta) / draws)), beta


@pytest.mark.parametrize(("p", "n", "alpha"), ((40, 40, 0.25), (60, 240, 0.1), (30, 300, 0.4)))
def test_moments_of_sigma2_against_simulation(p, n, alpha, rng):
    estimates = np.array([fit_bulk(noise_eigenvalues(p, n, rng), n, alpha=alpha).sigma2 for _ in range(1500)])
    error = fit_bulk(noise_eigenvalues(p, n, rng), n, alpha=alpha).sigma2_error
    assert estimates.std() == pytest.approx(error, rel=0.06)
    assert estimates.mean() == pytest.approx(1.0, abs=0.012)


@pytest.mark.parametrize(("rows", "columns"), ((100, 100), (64, 256), (300, 100)))
def test_spikes_well_above_the_limit_are_counted_exactly(rows, columns, rng):
    limit = (min(rows, columns) / max(rows, columns)) ** 0.25
    # beta is the chance of one spike too many, so it is set below the 5 % of failures that are allowed.
    hits = sum(
        fit_matrix(planted(rng, rows, columns, limit * np.array([8, 5, 4, 3])), beta=0.01).spikes == 4
        for _ in range(100)
    )
    assert hits >= 95


def test_equivariance(rng):
    matrix = planted(rng, 120, 200, [4.0, 3.0, 2.5])
    fit = fit_matrix(matrix)
    for other, scale in (
        (matrix.T, 1.0),
        (7 * matrix, 7.0),
        (1e-6 * matrix, 1e-6),
        (matrix[rng.permutation(120)], 1.0),
    ):
        same = fit_matrix(other)
        assert same.spikes == fit.spikes == 3
        assert same.gof == pytest.approx(fit.gof, abs=1e-9)
        assert same.edge == pytest.approx(scale * fit.edge, rel=1e-9)
        assert same.sigma2 == pytest.approx(scale**2 * fit.sigma2, rel=1e-9)


def test_spikes_above_the_window_do_not_spoil_the_fit(rng):
    """The published notebook's distribution function is 0 above the edge, which puts this near 1."""
    matrix = planted(rng, 200, 300, np.linspace(4, 12, 20))
    fit = fit_matrix(matrix)
    assert fit.spikes == 20
    assert fit.gof < 0.06
    assert fit.sigma2 == pytest.approx(1.0, rel=0.15)


@pytest.mark.parametrize("size", (500, 1000))
def test_synthetic_example_of_sjk23(size, rng):
    """W = R + S of SJK23 §3.3: λ₊ about 4 and a handful of spikes."""
    i, j = np.mgrid[1 : size + 1, 1 : size + 1].astype(float)
    s = np.tan(np.pi / 2 + 1 / (j + 1)) + np.cos(i) * np.log(i + j + 1) + np.sin(j) * np.cos(i / j)
    fit = fit_matrix(rng.standard_normal((size, size)) + s)
    assert fit.lambda_plus == pytest.approx(4, rel=0.05)
    assert 3 <= fit.spikes <= 15
    assert fit.gof < 0.02


def test_low_rank_has_no_bulk(rng):
    matrix = rng.standard_normal((80, 3)) @ rng.standard_normal((3, 100))
    with pytest.raises(DegenerateSpectrumError, match="rank 3 of 80"):
        fit_matrix(matrix)
    with pytest.raises(DegenerateSpectrumError, match="rank 0 of 4"):
        fit_bulk(np.zeros(4), 9)


@pytest.mark.parametrize(
    ("options", "message"),
    (
        ({"alpha": 0.0}, "alpha"),
        ({"alpha": 0.5}, "alpha"),
        ({"beta": 0.0}, "beta"),
        ({"beta": 1.0}, "beta"),
        ({"quantiles": "median"}, "quantiles"),
    ),
)
def test_bad_parameters(options, message):
    with pytest.raises(ValueError, match=message):
        fit_bulk(np.ones(50), 100, **options)


def test_bad_spectra():
    with pytest.raises(ValueError, match="p ≤ n"):
        fit_bulk(np.ones(50), 49)
    with pytest.raises(ValueError, match="fewer than two"):
        fit_bulk(np.ones(2), 49)
    with pytest.raises(ValueError, match="NaN"):
        fit_bulk([1.0, np.nan] * 20, 49)


def test_window_ends_are_whole_ranks(rng):
    # 0.05·60 is 3.0000000000000004 in floating point: rank 3 belongs to the window.
    assert fit_bulk(noise_eigenvalues(60, 90, rng), 90, alpha=0.05).window == (3, 57)


def test_public_names_are_listed():
    assert set(spectrum.__all__) <= set(dir(spectrum))
    assert tracy_widom.quantile(0.9) == pytest.approx(0.450143, abs=1e-6)
