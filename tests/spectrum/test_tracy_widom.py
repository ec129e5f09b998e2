"""Tracy–Widom against published tables and the moments of Born10."""

import numpy as np
import pytest
from scipy.integrate import quad

from rmt_compress.spectrum import tracy_widom

# method.md §3, computed with 60 Gauss–Legendre nodes.
TABLE = {
    0.01: -3.8954,
    0.05: -3.1804,
    0.1: -2.7824,
    0.5: -1.2686,
    0.9: 0.4501,
    0.95: 0.9793,
    0.99: 2.0234,
    0.999: 3.2721,
}


@pytest.mark.parametrize(("probability", "expected"), TABLE.items())
def test_quantiles(probability, expected):
    assert tracy_widom.quantile(probability) == pytest.approx(expected, abs=1e-4)
    assert tracy_widom.cdf(tracy_widom.quantile(probability)) == pytest.approx(probability, abs=1e-9)


def test_the_table_is_the_law():
    points = np.linspace(-13, 15, 57) + 0.03
    expected = [tracy_widom.cdf(float(point)) for point in points]
    np.testing.assert_allclose(tracy_widom.near_cdf(points), expected, atol=1e-6)


def test_mean_and_variance_as_published():
    # E[s] = ∫(1 − F) − ∫F and E[s²] = ∫2s(1 − F) − ∫2sF over the two half lines.
    cdf = tracy_widom.cdf
    mean = quad(lambda s: 1 - cdf(s), 0, 14)[0] - quad(cdf, -14, 0)[0]
    square = quad(lambda s: 2 * s * (1 - cdf(s)), 0, 14)[0] - quad(lambda s: 2 * s * cdf(s), -14, 0)[0]
    assert mean == pytest.approx(-1.2065335745820, abs=1e-8)
    assert square - mean**2 == pytest.approx(1.6077810345810, abs=1e-7)
    assert mean == pytest.approx(tracy_widom.MEAN, abs=1e-8)
    assert square - mean**2 == pytest.approx(tracy_widom.VARIANCE, abs=1e-7)


def test_cdf_rises_from_0_to_1():
    values = [tracy_widom.cdf(s) for s in np.linspace(-18, 18, 60)]
    assert values[0] == pytest.approx(0, abs=1e-12)
    assert values[-1] == pytest.approx(1, abs=1e-12)
    assert np.all(np.diff(values) >= -1e-12)


@pytest.mark.parametrize("probability", (0.0, 1.0, -0.1, float("nan")))
def test_impossible_probability(probability):
    with pytest.raises(ValueError, match="probability"):
        tracy_widom.quantile(probability)
