"""The law against adaptive quadrature of its density, and the quantiles against the law."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from rmt_compress.spectrum import marchenko_pastur as mp

RATIOS = (1.0, 0.999, 0.9, 0.5, 0.1, 0.01, 1e-4)


def textbook_density(x: float, c: float) -> float:
    """MP67 written down independently of the package."""
    a, b = (1 - c**0.5) ** 2, (1 + c**0.5) ** 2
    return ((b - x) * (x - a)) ** 0.5 / (2 * np.pi * c * x)


@pytest.mark.parametrize("c", RATIOS)
def test_cdf_equals_adaptive_quadrature(c):
    a, b = (1 - c**0.5) ** 2, (1 + c**0.5) ** 2
    for share in (1e-4, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.9999):
        x = a + (b - a) * share
        # x = a + t² takes the spike at the lower edge out of the integrand.
        area, _ = quad(
            lambda t: textbook_density(a + t * t, c) * 2 * t,
            0,
            (x - a) ** 0.5,
            epsabs=1e-13,
            epsrel=1e-12,
            limit=800,
        )
        assert mp.cdf(x, c) == pytest.approx(area, abs=1e-9)


@pytest.mark.parametrize("c", RATIOS)
def test_textbook_formula_with_arcsines(c):
    a, b = mp.support(c)
    x = np.linspace(a, b, 101)[1:-1]
    root = np.sqrt((b - x) * (x - a))
    last = (1 - c) * np.arcsin(np.clip(((1 + c) * x - (1 - c) ** 2) / (2 * c**0.5 * x), -1, 1)) if c < 1 else 0
    expected = 0.5 + (root + (1 + c) * np.arcsin((x - 1 - c) / (2 * c**0.5)) - last) / (2 * np.pi * c)
    np.testing.assert_allclose(mp.cdf(x, c), expected, atol=1e-10)


@pytest.mark.parametrize("c", RATIOS)
def test_cdf_is_0_below_and_1_above_the_support(c):
    a, b = mp.support(c)
    np.testing.assert_array_equal(mp.cdf([a - 1, a * 0.5 - 1e-9, b * 1.0001, b + 50], c), [0, 0, 1, 1])
    np.testing.assert_array_equal(mp.pdf([a - 1, b + 1e-9, b + 50], c), [0, 0, 0])


@pytest.mark.parametrize("c", RATIOS)
def test_quantile_inverts_cdf(c):
    a, b = mp.support(c)
    x = np.linspace(a, b, 4096)
    np.testing.assert_allclose(mp.quantile(mp.cdf(x, c), c), x, atol=1e-8)
    u = np.linspace(0, 1, 4096)
    np.testing.assert_allclose(mp.cdf(mp.quantile(u, c), c), u, atol=1e-12)


@given(c=st.floats(1e-8, 1.0), u=st.floats(0.0, 1.0))
def test_quantile_at_any_ratio(c, u):
    x = mp.quantile(u, c)
    a, b = mp.support(c)
    assert a - 1e-12 <= x <= b + 1e-12
    assert mp.cdf(x, c) == pytest.approx(u, abs=1e-9)


@pytest.mark.parametrize("c", (0.01, 0.010000001))
def test_series_and_closed_form_meet(c):
    x = np.linspace(*mp.support(c), 50)
    np.testing.assert_allclose(mp.cdf(x, 0.01), mp.cdf(x, 0.01000001), atol=1e-6)
    assert mp.cdf(1.0, c) == pytest.approx(0.5 + (mp.cdf(1.0, 0.01) - 0.5), abs=1e-7)


def test_mean_and_variance_are_1_and_c():
    for c in RATIOS:
        u = (np.arange(200_000) + 0.5) / 200_000
        x = mp.quantile(u, c)
        assert x.mean() == pytest.approx(1.0, abs=1e-6)
        assert x.var() == pytest.approx(c, rel=1e-5)


def test_shape_is_kept_and_bad_input_named():
    assert mp.quantile(np.full((2, 3), 0.5), 0.5).shape == (2, 3)
    assert mp.quantile([], 0.5).shape == (0,)
    for c in (0.0, -1.0, 1.1, float("nan")):
        with pytest.raises(ValueError, match="ratio"):
            mp.cdf(1.0, c)
    with pytest.raises(ValueError, match="probabilities"):
        mp.quantile([0.5, 1.2], 0.5)
