"""The null law of the fit error against fresh noise of sizes that are not in its grid."""

import numpy as np
import pytest

from rmt_compress.spectrum import fit_bulk, fit_error_p_value, fit_error_quantile, noise_eigenvalues


@pytest.mark.parametrize(
    ("p", "n", "alpha", "rule"),
    (
        (40, 70, 0.25, "midpoint"),
        (80, 80, 0.25, "midpoint"),
        (150, 2000, 0.25, "midpoint"),
        (80, 400, 0.12, "midpoint"),
        (60, 60, 0.25, "paper"),
        (100, 1000, 0.25, "paper"),
    ),
)
def test_coverage(p, n, alpha, rule, rng):
    errors = np.array(
        [fit_bulk(noise_eigenvalues(p, n, rng), n, alpha=alpha, quantiles=rule).gof for _ in range(1000)]
    )
    for probability in (0.5, 0.95):
        point = fit_error_quantile(probability, p, n, alpha=alpha, quantiles=rule)
        assert np.mean(errors <= point) == pytest.approx(probability, abs=0.05 if probability == 0.5 else 0.02)
        assert point == pytest.approx(np.quantile(errors, probability), rel=0.05)


def test_points_of_method_md():
    """95 % points of method.md §5, which were measured with the paper's plotting positions."""
    for p, n, expected in (
        (50, 50, 0.050),
        (100, 100, 0.028),
        (300, 300, 0.010),
        (100, 1000, 0.029),
        (384, 1536, 0.009),
    ):
        assert fit_error_quantile(0.95, p, n, quantiles="paper") == pytest.approx(expected, abs=0.0012)


def test_p_value_inverts_the_quantile():
    for probability in (0.05, 0.5, 0.9, 0.99, 0.999):
        point = fit_error_quantile(probability, 200, 300)
        assert fit_error_p_value(point, 200, 300) == pytest.approx(1 - probability, rel=1e-6)
    assert fit_error_p_value(0.5, 200, 300) == 1e-4
    assert fit_error_p_value(1e-5, 200, 300) == pytest.approx(1.0, abs=0.01)
    values = [fit_error_p_value(x, 200, 300) for x in np.linspace(0.001, 0.05, 100)]
    assert np.all(np.diff(values) <= 0)


def test_unknown_probability():
    with pytest.raises(ValueError, match="known for"):
        fit_error_quantile(0.9999, 100, 100)
