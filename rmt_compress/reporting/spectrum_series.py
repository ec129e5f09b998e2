"""The numbers of a layer's pictures: its eigenvalues in bars, and the law that they were fitted with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rmt_compress.spectrum import marchenko_pastur

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rmt_compress.analysis import AnalyzedLayer


@dataclass(frozen=True)
class SpectrumSeries:
    """One layer's spectrum on the scale of eigenvalues λ = s²/n.

    Attributes:
        eigenvalues: all of them, ascending.
        spikes: those above the edge.
        edges: ends of the bars, from 0 to the right end of the picture.
        bulk_bars: (bars,), density of the eigenvalues below the edge.
        spike_bars: (bars,), of those above, as a share of all eigenvalues too.
        beyond: how many lie right of the picture.
        law: the fitted law's density as (places, heights); None where the noise has variances of its own.
        distribution: its distribution function as (places, shares) up to `high`; None as `law`.
        window: the smallest and the largest eigenvalue that the law was fitted to.
        high: right end of the picture of the distribution functions.
    """

    eigenvalues: NDArray[np.float64]
    spikes: NDArray[np.float64]
    edges: NDArray[np.float64]
    bulk_bars: NDArray[np.float64]
    spike_bars: NDArray[np.float64]
    beyond: int
    law: tuple[NDArray[np.float64], NDArray[np.float64]] | None
    distribution: tuple[NDArray[np.float64], NDArray[np.float64]] | None
    window: tuple[float, float]
    high: float

    @property
    def tallest(self) -> float:
        """Height of the highest bar; the law has none where it is unbounded at 0."""
        return float(max(self.bulk_bars.max(), self.spike_bars.max()))


def spectrum_series(layer: AnalyzedLayer, *, points: int = 600) -> SpectrumSeries:
    """The numbers of a layer's pictures, the law at so many `points`."""
    fit = layer.fit
    values = layer.singular_values if layer.scaled is None else layer.scaled
    eigenvalues = values[::-1] ** 2 / fit.n
    # Among all p eigenvalues the law is of those alone that were not left out of the ranks.
    p, n = fit.p - fit.left_out, fit.n - fit.left_out
    unit, c, share = fit.sigma2 * n / fit.n, p / n, p / fit.p
    lower, upper = (unit * end for end in marchenko_pastur.support(c))
    # Eigenvalues far above the edge would squeeze the bulk into one bar: they are only counted.
    far = max(upper, fit.lambda_plus)
    shown = float(np.clip(eigenvalues[-1] * 1.03, 1.1 * far, 2.5 * far))
    edges = np.linspace(0.0, shown, int(np.clip(fit.p // 8, 20, 80)) + 1)
    bulk, spikes = np.split(eigenvalues, [fit.p - fit.spikes])
    # Bars and law are densities of the same p eigenvalues.
    bars = [np.histogram(part, edges)[0] / (fit.p * edges[1]) for part in (bulk, spikes)]
    first, last = fit.window
    window = float(eigenvalues[first - 1]), float(eigenvalues[last - 1])
    high = max(fit.lambda_plus * 1.35, window[1] * 1.2)
    law = distribution = None
    if layer.settings.noise != "general":
        grid = np.linspace(lower, upper, points)[1:-1]
        law = grid, share * marchenko_pastur.pdf(grid / unit, c) / unit
        grid = np.linspace(0.0, high, points)
        distribution = grid, share * marchenko_pastur.cdf(grid / unit, c)
    beyond = int(np.sum(eigenvalues > shown))
    return SpectrumSeries(eigenvalues, spikes, edges, bars[0], bars[1], beyond, law, distribution, window, high)
