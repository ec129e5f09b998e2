"""What an analysis finds: plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rmt_compress import spectrum
from rmt_compress.analysis.settings import AnalysisSettings
from rmt_compress.decomposition.products import effective_rank
from rmt_compress.layers.layer import Layer
from rmt_compress.layers.splitting import split_parameters, split_refusal

if TYPE_CHECKING:
    from numpy.typing import NDArray


SCHEMA = "rmt-compress/analysis/1"

Verdict = Literal["noise", "mixed", "structured"]

# A layer that fits and holds no more than this share of its energy in spikes is called noise.
NOISE_ENERGY = 0.01


@dataclass(frozen=True)
class LayerAnalysis:
    """What the spectrum says of one layer, or why it was not asked.

    Attributes:
        layer: the layer itself.
        fit: the fitted bulk; None where the layer was skipped, or is a product of two factors already.
        reason: why it was skipped; None where it was analysed.
        singular_values: all of them, descending, of two factors those of the product; empty where skipped.
        settings: the settings of the analysis.
        finite: False where NaN or Inf was found.
        left_out: True where include or exclude left it out.
    """

    layer: Layer
    fit: spectrum.BulkFit | None = None
    reason: str | None = None
    singular_values: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0), repr=False, compare=False)
    settings: AnalysisSettings = field(default_factory=AnalysisSettings, repr=False)
    finite: bool = True
    left_out: bool = False

    @property
    def status(self) -> Literal["analyzed", "skipped"]:
        """Whether there are numbers."""
        return "skipped" if self.fit is None else "analyzed"

    @property
    def fits(self) -> bool:
        """Whether the fit error is at or below the threshold (False where skipped)."""
        return self.fit is not None and self.fit.gof <= self.settings.gof

    @property
    def bulk_energy(self) -> float:
        """Share of ‖W‖_F² in singular values at or below the edge."""
        if self.fit is None:
            return 0.0
        energy = self.singular_values**2
        return float(energy[self.fit.spikes :].sum() / energy.sum())

    @property
    def verdict(self) -> Verdict | None:
        """*structured*: does not fit; *noise*: fits, ≤ 1 % of the energy in spikes; *mixed*: fits, with spikes."""
        if self.fit is None:
            return None
        if not self.fits:
            return "structured"
        return "noise" if 1.0 - self.bulk_energy <= NOISE_ENERGY else "mixed"

    @property
    def effective_rank(self) -> float | None:
        """Of a product of two factors, how many of its directions it uses; None for other layers."""
        if self.layer.pair is None or not len(self.singular_values):
            return None
        return effective_rank(self.singular_values)

    @property
    def gof_null(self) -> float | None:
        """95 % point of the fit error of pure noise of this size."""
        if self.fit is None:
            return None
        return spectrum.fit_error_quantile(
            0.95, self.fit.p, self.fit.n, alpha=self.settings.alpha, quantiles=self.settings.quantiles
        )

    @property
    def gof_p_value(self) -> float | None:
        """The chance that pure noise of this size fits as badly or worse."""
        if self.fit is None:
            return None
        return spectrum.fit_error_p_value(
            self.fit.gof, self.fit.p, self.fit.n, alpha=self.settings.alpha, quantiles=self.settings.quantiles
        )

    @property
    def parameters_after(self) -> int:
        """Weights left when the layer is cut to its spikes and split, where it fits and can be split into less."""
        before = self.layer.parameters
        if self.fit is None or not self.fits or self.layer.matrix is None or split_refusal(self.layer) is not None:
            return before
        return min(before, split_parameters(*self.layer.matrix, max(1, self.fit.spikes)))

    def to_json(self) -> dict[str, Any]:
        """The layer's object in `analyze --json`; numbers are null where the layer was skipped."""
        fit = self.fit
        return {
            "name": self.layer.name,
            "tensor": self.layer.tensor,
            "aliases": list(self.layer.aliases),
            "kind": self.layer.kind,
            "shape": list(self.layer.shape),
            "matrix": list(self.layer.matrix) if self.layer.matrix else None,
            "dtype": self.layer.dtype,
            "status": self.status,
            "reason": self.reason,
            "sigma2": fit and fit.sigma2,
            "sigma2_error": fit and fit.sigma2_error,
            "lambda_plus": fit and fit.lambda_plus,
            "edge": fit and fit.edge,
            "gof": fit and fit.gof,
            "gof_null": self.gof_null,
            "gof_p_value": self.gof_p_value,
            "fits": self.fits if fit else None,
            "spikes": fit and fit.spikes,
            "bulk": fit and fit.p - fit.spikes,
            "bulk_energy": self.bulk_energy if fit else None,
            "spectral_norm": float(self.singular_values[0]) if len(self.singular_values) else None,
            "factors": [self.layer.tensor, self.layer.pair.second] if self.layer.pair else None,
            "effective_rank": self.effective_rank,
            "verdict": self.verdict,
            "parameters": self.layer.parameters,
            "parameters_after": self.parameters_after,
        }


@dataclass(frozen=True)
class Analysis:
    """All layers of one checkpoint.

    Attributes:
        path: the file or directory, None for a state dict or module.
        format: what kind of checkpoint it was.
        notes: what was chosen or left out on opening it.
        settings: the settings of this analysis.
        layers: one entry per tensor, tied tensors once, in the checkpoint's order.
    """

    path: str | None
    format: str
    notes: tuple[str, ...]
    settings: AnalysisSettings
    layers: tuple[LayerAnalysis, ...]

    @property
    def analyzed(self) -> tuple[LayerAnalysis, ...]:
        """The layers that have numbers."""
        return tuple(layer for layer in self.layers if layer.fit is not None)

    @property
    def skipped(self) -> tuple[LayerAnalysis, ...]:
        """The layers that have a reason instead."""
        return tuple(layer for layer in self.layers if layer.fit is None)

    @property
    def factorized(self) -> tuple[LayerAnalysis, ...]:
        """The layers that are products of two factors already."""
        return tuple(layer for layer in self.layers if layer.effective_rank is not None)

    @property
    def damaged(self) -> tuple[LayerAnalysis, ...]:
        """The layers with NaN or Inf in them."""
        return tuple(layer for layer in self.layers if not layer.finite)

    @property
    def parameters(self) -> int:
        """Entries of all tensors."""
        return sum(layer.layer.parameters for layer in self.layers)

    @property
    def parameters_after(self) -> int:
        """Entries left when every layer that fits is cut to its spikes."""
        return sum(layer.parameters_after for layer in self.layers)

    def to_json(self) -> dict[str, Any]:
        """The object printed by `analyze --json`."""
        return {
            "schema": SCHEMA,
            "checkpoint": {
                "path": self.path,
                "format": self.format,
                "parameters": self.parameters,
                "notes": list(self.notes),
            },
            "settings": self.settings.to_json(),
            "layers": [layer.to_json() for layer in self.layers],
            "totals": {
                "parameters": self.parameters,
                "parameters_after": self.parameters_after,
                "layers_analyzed": len(self.analyzed),
                "layers_skipped": len(self.skipped),
            },
        }
