"""What noise a bulk is taken for, one row per model; edge, spikes and fit error mean the same in all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from rmt_compress import spectrum

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from rmt_compress.analysis.settings import AnalysisSettings
    from rmt_compress.spectrum.marchenko_pastur import FloatArray
    from rmt_compress.spectrum.singular_values import Entries

ALL = "all"


def _by_numpy(matrix: Entries, alpha: float) -> FloatArray:
    return spectrum.singular_values(matrix, spectrum.NumpyKernels(), alpha=alpha)


@dataclass(frozen=True, eq=False)
class Measured:
    """One matrix as a noise model sees it.

    Attributes:
        values: singular values, descending.
        n: max(rows, columns).
        matrix: gives the matrix itself, (rows, columns), float32 or float64, for models that look at its entries.
        values_of: gives the singular values of a matrix that a model made of it, descending, and takes BEMA's α.
    """

    values: NDArray[np.float64]
    n: int
    matrix: Callable[[], Entries]
    values_of: Callable[[Entries, float], FloatArray] = _by_numpy


@dataclass(frozen=True)
class NoiseFit:
    """What one model says of one matrix.

    Attributes:
        fit: bulk, edge and spikes; `edge` and `sigma2` on the model's own scale.
        details: what only this model finds: plain JSON.
        values: the singular values that were fitted, descending, where they are not those of the matrix.
    """

    fit: spectrum.BulkFit
    details: dict[str, Any] = field(default_factory=dict)
    values: NDArray[np.float64] | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class NoiseModel:
    """One model of the noise.

    Attributes:
        name: what it is called everywhere.
        caption: in a few words, for tables.
        fit: from a matrix to the fitted bulk; raises `spectrum.DegenerateSpectrumError` where there is none.
        basis: which directions a cut by this model keeps, see `rmt_compress.decomposition.bases`.
    """

    name: str
    caption: str
    fit: Callable[[Measured, AnalysisSettings], NoiseFit]
    basis: str = "plain"


def _marchenko_pastur(measured: Measured, asked: AnalysisSettings) -> NoiseFit:
    return NoiseFit(_bulk(measured.values, measured.n, asked))


def _equalized(measured: Measured, asked: AnalysisSettings) -> NoiseFit:
    equalized = spectrum.equalize(measured.matrix(), measured.values)
    values = measured.values_of(equalized.matrix, asked.alpha)
    rows, columns = equalized.rows[equalized.used_rows], equalized.columns[equalized.used_columns]
    return NoiseFit(
        _bulk(values, max(equalized.matrix.shape), asked, equalized=True),
        # The spread of the scales in decades tells a layer of uneven rows from one that was even all along.
        {"row_scales": float(rows.max() / rows.min()), "column_scales": float(columns.max() / columns.min())},
        values,
    )


def _sign_flips(measured: Measured, asked: AnalysisSettings) -> NoiseFit:
    fit = _bulk(measured.values, measured.n, asked)
    flips = spectrum.sign_flips(measured.matrix(), measured.values, beta=asked.beta, rule=asked.flips)
    edge = replace(fit, edge=flips.edge, lambda_plus=flips.edge**2 / measured.n, spikes=flips.spikes)
    return NoiseFit(edge, {"flips": flips.flips})


def _general(measured: Measured, asked: AnalysisSettings) -> NoiseFit:
    noise = spectrum.fit_gamma_noise(
        measured.values**2 / measured.n,
        measured.n,
        alpha=asked.alpha,
        beta=asked.beta,
        side=spectrum.uneven_side(measured.matrix()),
    )
    return NoiseFit(noise.fit, {"spread": noise.spread, "side": noise.side})


def _bulk(
    values: NDArray[np.float64], n: int, asked: AnalysisSettings, *, equalized: bool = False
) -> spectrum.BulkFit:
    return spectrum.fit_bulk(
        values**2 / n, n, alpha=asked.alpha, beta=asked.beta, quantiles=asked.quantiles, equalized=equalized
    )


MARCHENKO_PASTUR = NoiseModel("mp", "Marchenko–Pastur", _marchenko_pastur)
NOISE_MODELS: dict[str, NoiseModel] = {
    model.name: model
    for model in (
        MARCHENKO_PASTUR,
        NoiseModel("equalized", "scales taken out", _equalized, basis="equalized"),
        NoiseModel("signflip", "signs flipped", _sign_flips),
        NoiseModel("general", "gamma variances", _general),
    )
}


def noise_model(settings: AnalysisSettings) -> NoiseModel:
    """The model whose edge decides; of all of them side by side it is Marchenko and Pastur's (method.md §4)."""
    return NOISE_MODELS.get(settings.noise, MARCHENKO_PASTUR)


def null_quantile(probability: float, fit: spectrum.BulkFit, asked: AnalysisSettings) -> float:
    """The fit error that pure noise of this size stays below with a probability.

    For every model it is that of Gaussian noise: scales taken out leave it nearly as it is, and a model with one
    more parameter fits no worse, so that it errs on the side of the fit.
    """
    size = fit.p - fit.left_out, fit.n - fit.left_out
    return spectrum.fit_error_quantile(probability, *size, alpha=asked.alpha, quantiles=asked.quantiles)


def p_value(fit: spectrum.BulkFit, asked: AnalysisSettings) -> float:
    """The chance that pure noise of this size fits as badly or worse."""
    size = fit.p - fit.left_out, fit.n - fit.left_out
    return spectrum.fit_error_p_value(fit.gof, *size, alpha=asked.alpha, quantiles=asked.quantiles)
