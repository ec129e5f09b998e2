"""The spectrum of one matrix: Marchenko–Pastur, Tracy–Widom, the bulk and its edge. No torch in here."""

from rmt_compress.spectrum.bulk import (
    QUANTILE_RULES,
    BulkFit,
    DegenerateSpectrumError,
    QuantileRule,
    fit_bulk,
)
from rmt_compress.spectrum.effective_rank import effective_rank
from rmt_compress.spectrum.equalizer import Equalized, equalize
from rmt_compress.spectrum.gamma_noise import GammaNoise, fit_gamma_noise, uneven_side
from rmt_compress.spectrum.heavy_tail import HeavyTail, fit_heavy_tail
from rmt_compress.spectrum.noise import noise_eigenvalues
from rmt_compress.spectrum.null import fit_error_p_value, fit_error_quantile
from rmt_compress.spectrum.quadrature import (
    Approximation,
    Quadrature,
    UncertainSpectrumError,
    approximate_fit,
    converged,
)
from rmt_compress.spectrum.sign_flips import SignFlips, sign_flips
from rmt_compress.spectrum.singular_values import (
    Kernels,
    NonFiniteError,
    NumpyKernels,
    SingularValues,
    singular_values,
)
from rmt_compress.spectrum.spikes import LOSSES, Loss, Spikes, shrunk, spikes_behind

__all__ = [
    "LOSSES",
    "QUANTILE_RULES",
    "Approximation",
    "BulkFit",
    "DegenerateSpectrumError",
    "Equalized",
    "GammaNoise",
    "HeavyTail",
    "Kernels",
    "Loss",
    "NonFiniteError",
    "NumpyKernels",
    "Quadrature",
    "QuantileRule",
    "SignFlips",
    "SingularValues",
    "Spikes",
    "UncertainSpectrumError",
    "approximate_fit",
    "converged",
    "effective_rank",
    "equalize",
    "fit_bulk",
    "fit_error_p_value",
    "fit_error_quantile",
    "fit_gamma_noise",
    "fit_heavy_tail",
    "noise_eigenvalues",
    "shrunk",
    "sign_flips",
    "singular_values",
    "spikes_behind",
    "uneven_side",
]
