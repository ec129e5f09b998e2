"""The rule `spiked` on planted spikes: the variance, the number and the fit that the first pass gets wrong."""

import numpy as np
import pytest

from rmt_compress.spectrum import fit_bulk, noise_eigenvalues


def planted(p: int, n: int, spikes: int, rng: np.random.Generator) -> np.ndarray:
    """Eigenvalues s²/n of unit noise with spikes of 2 to 6 times the limit √n·c^¼ at which one shows (BGN12)."""
    matrix = rng.standard_normal((p, n))
    if spikes:
        left, right = (np.linalg.qr(rng.standard_normal((side, spikes)))[0] for side in (p, n))
        strengths = np.sqrt(n) * (p / n) ** 0.25 * rng.uniform(2.0, 6.0, spikes)
        matrix += (left * strengths) @ right.T
    return np.linalg.svd(matrix, compute_uv=False) ** 2 / n


@pytest.mark.parametrize("share", [0.05, 0.1, 0.2, 0.3])
@pytest.mark.parametrize(("p", "n"), [(100, 100), (80, 320)])
def test_up_to_three_of_ten_directions_may_be_spikes(
    p: int, n: int, share: float, rng: np.random.Generator
) -> None:
    spikes = int(share * p)
    fits = [fit_bulk(planted(p, n, spikes, rng), n, quantiles="spiked") for _ in range(12)]
    variances = [fit.sigma2 for fit in fits]
    assert np.mean(variances) == pytest.approx(1.0, abs=0.045)
    # None is missed, and a noise direction is taken for one in about β of the cases.
    assert all(fit.spikes >= spikes for fit in fits)
    assert np.mean([fit.spikes - spikes for fit in fits]) <= 0.5
    assert np.median([fit.gof for fit in fits]) < 0.06


def test_the_first_pass_is_far_off_where_spikes_are_many(rng: np.random.Generator) -> None:
    spectrum = planted(100, 100, 30, rng)
    first, corrected = fit_bulk(spectrum, 100), fit_bulk(spectrum, 100, quantiles="spiked")
    assert first.sigma2 > 1.5
    assert first.gof > 2 * corrected.gof
    assert corrected.left_out == corrected.spikes >= 30 > first.spikes


def test_noise_without_a_spike_is_fitted_as_before(rng: np.random.Generator) -> None:
    for _ in range(20):
        spectrum = noise_eigenvalues(60, 90, rng)
        first = fit_bulk(spectrum, 90)
        assert fit_bulk(spectrum, 90, quantiles="spiked").spikes >= first.spikes
        if not first.spikes:
            assert fit_bulk(spectrum, 90, quantiles="spiked") == first


def test_scale_changes_nothing_else(rng: np.random.Generator) -> None:
    spectrum = planted(60, 90, 9, rng)
    one, other = (fit_bulk(factor * spectrum, 90, quantiles="spiked") for factor in (1.0, 1e-8))
    assert (one.spikes, one.left_out) == (other.spikes, other.left_out)
    assert other.sigma2 == pytest.approx(1e-8 * one.sigma2, rel=1e-9)
    assert other.gof == pytest.approx(one.gof, rel=1e-6)


def test_a_spectrum_that_is_all_spikes_keeps_its_first_fit() -> None:
    spectrum = np.geomspace(1e-6, 1e6, 50)
    assert fit_bulk(spectrum, 60, quantiles="spiked") == fit_bulk(spectrum, 60)
