"""Strengths, overlaps and shrinkers against closed forms, direct minimisation, and planted spikes."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from rmt_compress.spectrum import LOSSES, shrunk, spikes_behind

SHAPES = ((200, 200), (150, 600), (600, 150))


def observed(theta, c):
    """BGN12: where a strength shows, in units of σ√n."""
    return np.sqrt((1 + theta**2) * (c + theta**2)) / theta


def cosines(theta, c):
    """BGN12: the expected cosines of the short and the long side."""
    short = 1 - c * (1 + theta**2) / (theta**2 * (theta**2 + c))
    long = 1 - (c + theta**2) / (theta**2 * (theta**2 + 1))
    return np.sqrt(short), np.sqrt(long)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("sigma", (1.0, 1e-6))
def test_strengths_come_back(shape, sigma):
    p, n = min(shape), max(shape)
    theta = (p / n) ** 0.25 * np.array([1.01, 1.5, 3.0, 20.0])
    found = spikes_behind(observed(theta, p / n) * sigma * n**0.5, sigma, shape)
    np.testing.assert_allclose(found.strength, theta * sigma * n**0.5, rtol=1e-9)
    short, long = cosines(theta, p / n)
    sides = (found.left, found.right) if shape[0] <= shape[1] else (found.right, found.left)
    np.testing.assert_allclose(sides, (short**2, long**2), rtol=1e-9)


def test_square_matrices_have_a_closed_form():
    """c = 1: θ = (y + √(y² − 4))/2, both cosines 1 − 1/θ², and Frobenius' shrinker is √(y² − 4)."""
    y = np.array([2.1, 3.0, 10.0])
    theta = (y + np.sqrt(y**2 - 4)) / 2
    found = spikes_behind(y * 10, 1.0, (100, 100))
    np.testing.assert_allclose(found.strength, 10 * theta)
    np.testing.assert_allclose(found.left, 1 - theta**-2)
    np.testing.assert_allclose(found.left, found.right)
    np.testing.assert_allclose(shrunk(y * 10, 1.0, (100, 100), "frobenius"), 10 * np.sqrt(y**2 - 4))
    np.testing.assert_allclose(shrunk(y * 10, 1.0, (100, 100), "operator"), 10 * theta)
    # GD17 (9) at β = 1: (x⁴ − 1 − xy)/(x²y) with xy = x² + 1.
    np.testing.assert_allclose(
        shrunk(y * 10, 1.0, (100, 100), "nuclear"),
        10 * np.maximum(theta**4 - theta**2 - 2, 0) / (theta**3 + theta),
    )


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("c", (0.05, 0.5, 1.0))
@pytest.mark.parametrize("theta", (1.1, 1.6, 4.0))
def test_no_other_value_is_nearer_to_the_signal(loss, c, theta):
    """The distance of one direction from the signal is that of two 2 × 2 matrices whose angles BGN12 gives."""
    short, long = cosines(theta, c)
    signal = theta * np.diag([1.0, 0.0])
    left, right = np.array([short, np.sqrt(1 - short**2)]), np.array([long, np.sqrt(1 - long**2)])

    def distance(value):
        values = np.linalg.svd(signal - value * np.outer(left, right), compute_uv=False)
        return {"frobenius": np.sqrt((values**2).sum()), "operator": values[0], "nuclear": values.sum()}[loss]

    found = float(shrunk(observed(theta, c) * 1000**0.5, 1.0, (round(1000 * c), 1000), loss)) / 1000**0.5
    best = minimize_scalar(distance, bounds=(0, 2 * theta), method="bounded", options={"xatol": 1e-10})
    assert distance(found) == pytest.approx(best.fun, rel=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_planted_spikes(shape, rng):
    """Strengths, cosines and the error of each shrinker on one draw, as the limits of large matrices say."""
    p, n = min(shape), max(shape)
    c, sigma = p / n, 0.3
    unit = sigma * n**0.5
    theta = c**0.25 * np.array([5.0, 4.0, 3.0, 2.0])
    left, right = (np.linalg.qr(rng.standard_normal((side, theta.size)))[0] for side in shape)
    signal = (left * theta * unit) @ right.T
    u, values, vt = np.linalg.svd(signal + sigma * rng.standard_normal(shape), full_matrices=False)
    u, values, vt = u[:, : theta.size], values[: theta.size], vt[: theta.size]
    found = spikes_behind(values, sigma, shape)
    np.testing.assert_allclose(found.strength, theta * unit, rtol=0.08)
    np.testing.assert_allclose(found.left, (u * left).sum(0) ** 2, atol=0.08)
    np.testing.assert_allclose(found.right, (vt.T * right).sum(0) ** 2, atol=0.08)

    def errors(kept):
        rest = np.linalg.svd(signal - (u * kept) @ vt, compute_uv=False)
        return {"frobenius": np.sqrt((rest**2).sum()), "operator": rest[0], "nuclear": rest.sum()}

    before = errors(values)
    for loss in LOSSES:
        after = errors(shrunk(values, sigma, shape, loss))[loss]
        assert after < 0.97 * before[loss]
    # ‖S − W′‖_F² = Σ θ²(1 − cos²cos²) with the best values, GD17 §VI.
    short, long = cosines(theta, c)
    expected = np.sqrt((theta**2 * (1 - short**2 * long**2)).sum()) * unit
    assert errors(shrunk(values, sigma, shape, "frobenius"))["frobenius"] == pytest.approx(expected, rel=0.06)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("shape", ((100, 300), (200, 200)))
def test_noise_is_nothing_and_nothing_grows(loss, shape):
    values = np.linspace(0, 100, 400)
    edge = shape[0] ** 0.5 + shape[1] ** 0.5
    found = shrunk(values, 1.0, shape, loss)
    assert (found[values <= edge] == 0).all()
    assert (found <= values).all()
    assert (np.diff(found) >= 0).all()
    behind = spikes_behind(values, 1.0, shape)
    assert ((behind.strength == 0) == (values <= edge)).all()


def test_refuses_what_is_no_noise():
    with pytest.raises(ValueError, match="standard deviation"):
        spikes_behind([1.0], 0.0, (3, 4))
    with pytest.raises(ValueError, match="rows"):
        shrunk([1.0], 1.0, (0, 4), "frobenius")
    with pytest.raises(ValueError, match="frobenius"):
        shrunk([1.0], 1.0, (3, 4), "spectral")
