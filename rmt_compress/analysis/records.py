"""What an analysis finds: plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from rmt_compress import spectrum
from rmt_compress.analysis.approximating import SpectrumRoute
from rmt_compress.analysis.diagnosis import Diagnosis, Measures, as_json, diagnose, measure
from rmt_compress.analysis.layer_record import LayerRecord
from rmt_compress.analysis.noise_models import NoiseFit, null_quantile, p_value
from rmt_compress.analysis.settings import AnalysisSettings
from rmt_compress.analysis.unfitted import AnalyzedPair, SkippedLayer
from rmt_compress.layers.splitting import split_refusal
from rmt_compress.notebooks.figures import figure_of
from rmt_compress.notebooks.notebook_tables import data_frame, html_table
from rmt_compress.wording import times

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from rmt_compress.checkpoints.opening import Source


SCHEMA = "rmt-compress/analysis/1"

Verdict = Literal["noise", "mixed", "structured"]

# A layer that fits and holds no more than this share of its energy in spikes is called noise.
NOISE_ENERGY = 0.01


@dataclass(frozen=True)
class AnalyzedLayer(LayerRecord):
    """What the spectrum says of one layer: the fitted bulk, and all singular values, descending.

    Of an approximate spectrum the singular values of the bulk are the quantiles of its distribution.

    Attributes:
        details: what only the noise model that was asked finds.
        models: what every noise model says, by name, or why it says nothing; empty unless all were asked.
        scaled: the singular values that `fit` is of, where a model took scales out; None for the matrix's own.
        route: by which route the singular values came, and how exact they are.
    """

    fit: spectrum.BulkFit
    singular_values: NDArray[np.float64] = field(repr=False, compare=False)
    settings: AnalysisSettings = field(default_factory=AnalysisSettings, repr=False)
    details: Mapping[str, Any] = field(default_factory=dict, repr=False)
    models: Mapping[str, NoiseFit | str] = field(default_factory=dict, repr=False)
    scaled: NDArray[np.float64] | None = field(default=None, repr=False, compare=False)
    route: SpectrumRoute = field(default_factory=SpectrumRoute, repr=False)
    status: ClassVar[Literal["analyzed", "skipped"]] = "analyzed"
    reason: ClassVar[None] = None

    @property
    def matrix(self) -> tuple[int, int]:
        """Shape (rows, columns) of the matrix the weight is read as."""
        assert self.layer.matrix is not None  # what is no matrix has no spectrum
        return self.layer.matrix

    @property
    def matrices(self) -> tuple[AnalyzedLayer, ...]:
        """What the spectrum says of each matrix in the layer: of one, unless it is a stack."""
        return (self,)

    @property
    def spikes_shown(self) -> str:
        """The number of spikes as text."""
        return f"{self.fit.spikes}"

    @property
    def fits(self) -> bool:
        """Whether the fit error is at or below the threshold of the analysis."""
        return self.fits_at(self.settings.gof)

    def fits_at(self, threshold: float) -> bool:
        """Whether the fit error is at or below this threshold."""
        return self.fit.gof <= threshold

    @property
    def bulk_energy(self) -> float:
        """Share of ‖W‖_F² in singular values at or below the edge."""
        energy = self.singular_values**2
        return float(energy[self.fit.spikes :].sum() / energy.sum())

    @property
    def verdict(self) -> Verdict:
        """*structured*: does not fit; *noise*: fits, ≤ 1 % of the energy in spikes; *mixed*: fits, with spikes."""
        if not self.fits:
            return "structured"
        return "noise" if 1.0 - self.bulk_energy <= NOISE_ENERGY else "mixed"

    @cached_property
    def measures(self) -> Measures:
        """The numbers of the diagnosis, found when they are first asked for; `scaled` as far as it was tried."""
        said = self.models.get("equalized")
        fit, scaled = (said.fit, said.values) if isinstance(said, NoiseFit) else (self.fit, self.scaled)
        return measure(
            self.singular_values,
            self.matrix,
            self.layer.dtype,
            scaled=None if scaled is None else (scaled, fit.n),
            alpha=self.settings.alpha,
            beta=self.settings.beta,
            gof_error=self.route.gof_error,
        )

    @property
    def diagnosis(self) -> Diagnosis:
        """What the spectrum looks like, in words; of a stack the expert that fits worst."""
        return diagnose(self.measures)

    @property
    def signals(self) -> spectrum.Spikes | None:
        """The signals behind the spikes and their directions, on the scale of the fit (BGN12).

        None where the noise has variances of its own, or its matrix is another one than the layer's.
        """
        fit, (rows, columns) = self.fit, self.matrix
        if self.settings.noise == "general" or (fit.p, fit.n) != (min(rows, columns), max(rows, columns)):
            return None
        values = self.singular_values if self.scaled is None else self.scaled
        return spectrum.spikes_behind(values[: fit.spikes], fit.sigma2**0.5, self.matrix)

    @property
    def gof_null(self) -> float:
        """95 % point of the fit error of pure noise of this size, as this route would find it."""
        return null_quantile(0.95, self.fit, self.settings) + self.route.gof_error

    @property
    def gof_p_value(self) -> float:
        """The chance that pure noise of this size fits as badly or worse, at most where it is approximate."""
        return p_value(replace(self.fit, gof=max(0.0, self.fit.gof - self.route.gof_error)), self.settings)

    @property
    def parameters_after(self) -> int:
        """Weights left when the layer is cut to its spikes and split, where it fits and can be split into less."""
        if not self.fits or split_refusal(self.layer) is not None:
            return self.parameters
        if self.layer.why_in_place is not None:
            return self.parameters
        return min(self.parameters, self.layer.factor_parameters(max(1, self.fit.spikes)))

    def plot(self) -> Figure:
        """Its spectrum and distribution function against the law that was fitted, as `analyze --plots` draws it.

        Raises:
            MissingDependencyError: there is no matplotlib.
            SettingsError: the noise is no Marchenko–Pastur law.
        """
        return figure_of(self)

    def to_json(self) -> dict[str, Any]:
        """The layer's object in `analyze --json`."""
        fit = self.fit
        return super().to_json() | {
            "sigma2": fit.sigma2,
            "sigma2_error": fit.sigma2_error,
            "lambda_plus": fit.lambda_plus,
            "edge": fit.edge,
            "gof": fit.gof,
            "gof_null": self.gof_null,
            "gof_p_value": self.gof_p_value,
            "fits": self.fits,
            "spikes": fit.spikes,
            "bulk": fit.p - fit.spikes,
            "bulk_energy": self.bulk_energy,
            "spectral_norm": float(self.singular_values[0]),
            "verdict": self.verdict,
            **as_json(self.measures),
            "spectrum": self.route.to_json(),
            "signals": self._signals_said(),
            "noise": {"model": self.settings.noise, **self.details},
            "noise_models": {name: self._said_by(name) for name in self.models} or None,
        }

    def _signals_said(self) -> list[dict[str, float]] | None:
        if (found := self.signals) is None:
            return None
        values = self.singular_values if self.scaled is None else self.scaled
        each = zip(values, found.strength, found.left, found.right, strict=False)
        return [dict(zip(_OF_SIGNALS, map(float, signal), strict=True)) for signal in each]

    def _said_by(self, name: str) -> dict[str, Any]:
        """What one of several noise models says, as JSON."""
        said = self.models[name]
        if isinstance(said, str):
            return {"reason": said}
        fit = said.fit
        numbers = {key: getattr(fit, key) for key in ("sigma2", "edge", "gof", "spikes")}
        return numbers | {"gof_null": null_quantile(0.95, fit, self.settings), **said.details}


# Singular value, what of it is signal, and the squared cosines of its left and right vectors.
_OF_SIGNALS = ("value", "strength", "left", "right")


LayerAnalysis = AnalyzedLayer | AnalyzedPair | SkippedLayer
"""What the spectrum says of one layer, or why it says nothing."""


@dataclass(frozen=True)
class Analysis:
    """All layers of one checkpoint.

    Attributes:
        path: the file or directory, None for a state dict or module.
        format: what kind of checkpoint it was.
        notes: what was chosen or left out on opening it.
        settings: the settings of this analysis.
        layers: one entry per tensor, tied tensors once, in the checkpoint's order.
        source: what was analysed, to read weights from again.
    """

    path: str | None
    format: str
    notes: tuple[str, ...]
    settings: AnalysisSettings
    layers: tuple[LayerAnalysis, ...]
    source: Source | None = field(default=None, repr=False, compare=False)

    @property
    def analyzed(self) -> tuple[AnalyzedLayer, ...]:
        """The layers that have numbers."""
        return tuple(layer for layer in self.layers if isinstance(layer, AnalyzedLayer))

    @property
    def skipped(self) -> tuple[SkippedLayer | AnalyzedPair, ...]:
        """The layers that have a reason instead."""
        return tuple(layer for layer in self.layers if not isinstance(layer, AnalyzedLayer))

    @property
    def factorized(self) -> tuple[AnalyzedPair, ...]:
        """The layers that are products of two factors already."""
        return tuple(layer for layer in self.layers if isinstance(layer, AnalyzedPair))

    @property
    def damaged(self) -> tuple[SkippedLayer, ...]:
        """The layers with NaN or Inf in them."""
        return tuple(layer for layer in self.layers if isinstance(layer, SkippedLayer) and not layer.finite)

    @property
    def parameters(self) -> int:
        """Entries of all tensors but buffers."""
        return sum(layer.parameters for layer in self.layers if not layer.is_buffer)

    @property
    def buffers(self) -> int:
        """Entries of the buffers."""
        return sum(layer.parameters for layer in self.layers if layer.is_buffer)

    @property
    def approximated(self) -> tuple[AnalyzedLayer, ...]:
        """The matrices whose spectra are approximate."""
        matrices = (matrix for layer in self.analyzed for matrix in layer.matrices)
        return tuple(matrix for matrix in matrices if matrix.route.approximation is not None)

    @property
    def parameters_after(self) -> int:
        """Entries left when every layer that fits is cut to its spikes."""
        return sum(layer.parameters_after for layer in self.layers if not layer.is_buffer)

    def plot(self, *layers: str) -> Figure:
        """The spectra of the analysed layers against the laws that were fitted, a small picture each.

        Args:
            layers: names, or globs of names, of those to draw, as for ``include``; none for all. Of one alone the
                distribution functions are drawn too, as `analyze --plots` does.

        Raises:
            MissingDependencyError: there is no matplotlib.
            SettingsError: no analysed layer is called so, or the noise is no Marchenko–Pastur law.
        """
        return figure_of(self, layers=layers)

    def to_pandas(self) -> pd.DataFrame:
        """A row for each layer with the keys of `analyze --json`, but for what is nested in them.

        Raises:
            MissingDependencyError: there is no pandas.
        """
        return data_frame(layer.to_json() for layer in self.layers)

    def _repr_html_(self) -> str:
        """What a notebook shows of it."""
        rows = [
            (
                layer.name,
                times(layer.matrix),
                f"{layer.fit.gof:.3f}",
                f"{layer.spikes_shown} of {layer.fit.p}",
                f"{layer.bulk_energy:.0%}",
                layer.verdict,
                f"{layer.parameters_after / layer.parameters:.0%}",
            )
            for layer in self.analyzed
        ]
        columns = ("layer", "matrix", "fit error", "spikes", "bulk energy", "verdict", "left if cut")
        summary = (
            f"{len(self.analyzed)} layers analysed, {len(self.skipped)} skipped; cut to their spikes those that "
            f"fit leave {self.parameters_after:,} of {self.parameters:,} parameters"
        )
        return html_table(self.path or self.format, columns, rows, summary)

    def to_json(self) -> dict[str, Any]:
        """The object printed by `analyze --json`."""
        return {
            "schema": SCHEMA,
            "checkpoint": {
                "path": self.path,
                "format": self.format,
                "parameters": self.parameters,
                "buffers": self.buffers,
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
