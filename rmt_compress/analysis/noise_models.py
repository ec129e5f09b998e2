"""What noise a bulk is taken for, one row per model; edge, spikes and fit error mean the same in all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rmt_compress import spectrum

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from rmt_compress.analysis.settings import AnalysisSettings


@dataclass(frozen=True)
class NoiseModel:
    """One model of the noise.

    Attributes:
        name: what it is called everywhere.
        fit: from singular values, descending, and n = max(rows, columns) to the fitted bulk.
        null_quantile: the fit error that pure noise of this size stays below with a probability.
        p_value: the chance that pure noise of this size fits as badly or worse.
    """

    name: str
    fit: Callable[[NDArray[np.float64], int, AnalysisSettings], spectrum.BulkFit]
    null_quantile: Callable[[float, spectrum.BulkFit, AnalysisSettings], float]
    p_value: Callable[[spectrum.BulkFit, AnalysisSettings], float]


MARCHENKO_PASTUR = NoiseModel(
    "mp",
    lambda values, n, asked: spectrum.fit_bulk(
        values**2 / n, n, alpha=asked.alpha, beta=asked.beta, quantiles=asked.quantiles
    ),
    lambda probability, fit, asked: spectrum.fit_error_quantile(
        probability, fit.p, fit.n, alpha=asked.alpha, quantiles=asked.quantiles
    ),
    lambda fit, asked: spectrum.fit_error_p_value(
        fit.gof, fit.p, fit.n, alpha=asked.alpha, quantiles=asked.quantiles
    ),
)


def noise_model(settings: AnalysisSettings) -> NoiseModel:
    """The model that an analysis asks for; there is one so far (KML21, method.md §4, §5)."""
    del settings
    return MARCHENKO_PASTUR
