"""The edge of gamma noise: its parts against simulated fits, and how often noise passes it."""

import numpy as np
import pytest

from rmt_compress.spectrum import fit_gamma_noise, gamma_edge, gamma_noise
from rmt_compress.spectrum.gamma_edge import Size


def drawn(size: Size, spread: float, rng: np.random.Generator) -> np.ndarray:
    """Eigenvalues s²/n, ascending, of noise of mean variance 1."""
    noise = rng.standard_normal((size.p, size.n))
    scales = np.sqrt(rng.gamma(1 / spread, spread, size.count))
    noise *= scales if size.long_side else scales[:, None]
    return np.linalg.eigvalsh(noise @ noise.T) / size.n


def table_of(size: Size) -> tuple[gamma_noise._Table, slice]:
    """The model's quantiles of the default window, and the window."""
    first, last = int(np.ceil(size.p / 4)), int(0.75 * size.p)
    tables = gamma_noise._tables(size.p, size.n, first, last)
    side = "long" if size.long_side else "short"
    return next(table for table in tables if table.side == side), slice(first - 1, last)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "spread"), ((Size(60, 60), 0.5), (Size(50, 300), 0.3), (Size(50, 300, long_side=True), 0.3))
)
def test_chance_in_the_estimates_is_that_of_simulated_fits(
    rng: np.random.Generator, size: Size, spread: float
) -> None:
    table, window = table_of(size)
    found = []
    for _ in range(1500):
        spectrum = drawn(size, spread, rng)
        _, sigma2, estimated = table.best(spectrum[window])
        found.append([np.log(sigma2), estimated, np.log(spectrum[-1])])
    told = gamma_edge.estimates(spread, size, table.window(spread))
    edges = gamma_edge._edges(spread, size)
    law = told.of_variances(gamma_edge.gamma_law(spread))
    expected = told.entries + size.count * np.cov(law, bias=True)
    measured = np.cov(np.array(found).T)
    np.testing.assert_allclose(np.sqrt(np.diag(measured)[:2]), np.sqrt(np.diag(expected)), rtol=0.08)
    deviations = np.sqrt(np.outer(np.diag(measured), np.diag(measured)))
    assert (measured / deviations)[0, 1] == pytest.approx(expected[0, 1] / deviations[0, 1], abs=0.12)
    # With log λ: through the largest variance, the others, and the entries.
    middle = edges.middle
    each = told.of_variances(edges.others)
    means = edges.count * each.mean(axis=2) + told.of_variances(edges.largest)
    through = (means * (np.log(middle) - edges.weights @ np.log(middle))) @ edges.weights
    moved = edges.moved - edges.moved.mean(axis=1, keepdims=True)
    beside = edges.count * ((each * moved).mean(axis=2) / middle) @ edges.weights
    entries = sum(
        weight * told.with_edge(x, size.samples) / at
        for weight, x, at in zip(edges.weights, edges.x, middle, strict=True)
    )
    np.testing.assert_allclose(
        measured[:2, 2] / deviations[:2, 2], (through + beside + entries) / deviations[:2, 2], atol=0.1
    )


@pytest.mark.slow
@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_known_variances_pass_the_edge_as_often_as_they_should(rng: np.random.Generator, beta: float) -> None:
    size, spread, draws = Size(50, 200), 0.3, 1500
    edge = gamma_edge.gamma_edge(spread, size, beta)
    above = np.mean([drawn(size, spread, rng)[-1] > edge for _ in range(draws)])
    assert above == pytest.approx(beta, abs=0.03 if beta < 0.3 else 0.06)


@pytest.mark.slow
@pytest.mark.parametrize("size", (Size(50, 50), Size(40, 160), Size(40, 160, long_side=True)))
def test_noise_whose_variances_are_estimated_does_so_too(rng: np.random.Generator, size: Size) -> None:
    side = "long" if size.long_side else "short"
    spikes = np.mean([fit_gamma_noise(drawn(size, 0.4, rng), size.n, side=side).fit.spikes > 0 for _ in range(600)])
    # Three standard errors above; by an edge that takes the estimates for known it is .16 at 50 × 50. Of the longer
    # side it is kept with something to spare.
    assert (0.03 if size.long_side else 0.063) < spikes < 0.137


def test_many_quantiles_are_those_of_the_law() -> None:
    from scipy.special import gammaincinv

    levels = (np.arange(3000) + 0.5) / 3000
    for spread in (gamma_edge.LEAST_SPREAD, 0.3, 1.5):
        np.testing.assert_allclose(
            gamma_edge.gamma_variances(spread, levels), gammaincinv(1 / spread, levels) * spread, rtol=1e-8
        )
