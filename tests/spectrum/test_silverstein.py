"""The Silverstein equation against the law of equal variances, simulated spectra and Tracy–Widom's centring."""

import numpy as np
import pytest
from scipy.integrate import trapezoid

from rmt_compress.spectrum import marchenko_pastur, silverstein

U = np.linspace(0.02, 0.98, 49)


@pytest.mark.parametrize("c", [0.05, 0.25, 0.7, 1.0])
def test_equal_variances_are_marchenko_and_pasturs(c: float) -> None:
    ours = silverstein.quantiles(U, np.ones(1), c, points=400)
    np.testing.assert_allclose(ours, marchenko_pastur.quantile(U, c), rtol=3e-4)
    # From the longer side the same eigenvalues, in other units.
    other = silverstein.quantiles(U, np.ones(1), 1 / c, points=400) * c
    np.testing.assert_allclose(other, marchenko_pastur.quantile(U, c), rtol=3e-4)


@pytest.mark.parametrize("ratio", [0.02, 0.2, 3.0])
def test_distribution_runs_from_the_zeros_to_one(ratio: float) -> None:
    t = np.array([0.5, 2.0, 2.0])
    x, level = silverstein.distribution(t, ratio)
    assert (np.diff(x) > 0).all()
    assert (np.diff(level) > -1e-9).all()
    assert level[0] == pytest.approx(max(0.0, 1 - ratio), abs=1e-3)
    assert level[-1] == pytest.approx(1.0, abs=1e-3)
    # The mean of the eigenvalues, zeros and all, is c times that of the variances.
    assert (1 - level[0]) * x[0] + trapezoid(1 - level, x) == pytest.approx(1.5 * ratio, rel=3e-3)


def test_bulks_that_lie_apart_hold_the_shares_of_their_variances() -> None:
    x, level = silverstein.distribution(np.array([1.0, 1.0, 1.0, 9.0]), 0.01)
    between = (x > 2) & (x < 8)
    np.testing.assert_allclose(level[between], 1 - 0.01 / 4, atol=1e-9)


def test_quantiles_are_those_of_drawn_matrices(rng: np.random.Generator) -> None:
    variances = np.repeat([0.3, 1.0, 3.0], 40)
    spectra = []
    for _ in range(10):
        x = rng.standard_normal((120, 300)) * np.sqrt(variances)[:, None]
        spectra.append(np.linalg.eigvalsh(x @ x.T / 300))
    drawn = np.quantile(np.concatenate(spectra), U[5:-5])
    np.testing.assert_allclose(silverstein.quantiles(U[5:-5], variances, 0.4), drawn, rtol=0.03)


def test_largest_eigenvalue_of_equal_variances_is_centred_as_by_ma() -> None:
    p, n = 60, 240
    centre, scale = silverstein.largest_eigenvalue(np.ones((1, p)), n)
    long, short = np.sqrt(n - 0.5), np.sqrt(p - 0.5)
    assert centre[0] * n == pytest.approx((long + short) ** 2, rel=1e-9)
    assert scale[0] * n == pytest.approx((long + short) * (1 / long + 1 / short) ** (1 / 3), rel=1e-9)


def test_a_variance_that_stands_out_takes_the_edge_with_it() -> None:
    n, spike = 500, 25.0
    variances = np.append(np.ones(49), spike)
    centre, _ = silverstein.largest_eigenvalue(variances[None], n)
    # Where a population spike ends up in the sample (Baik and Silverstein 2006).
    assert centre[0] == pytest.approx(spike * (1 + 50 / n / (spike - 1)), rel=0.1)
