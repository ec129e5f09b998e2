"""What the spectrum says of one weight."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic

import numpy as np

from rmt_compress import spectrum
from rmt_compress.analysis.approximating import ApproximateSpectrum, SpectrumRoute, may_approximate
from rmt_compress.analysis.noise_models import ALL, NOISE_MODELS, Measured, NoiseFit, noise_model
from rmt_compress.analysis.records import AnalyzedLayer, LayerAnalysis
from rmt_compress.analysis.settings import AnalysisSettings
from rmt_compress.analysis.stack_record import AnalyzedStack
from rmt_compress.analysis.unfitted import AnalyzedPair, SkippedLayer
from rmt_compress.layers.kinds import KINDS, WeightT
from rmt_compress.layers.layer import FactorPair, Layer, as_matrix
from rmt_compress.layers.pairs import pair_products
from rmt_compress.layers.splitting import is_weight

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from rmt_compress.spectrum.marchenko_pastur import FloatArray
    from rmt_compress.spectrum.singular_values import ArrayKernels, Entries

MASK = "a mask: it holds −inf where something is hidden, and is no weight"
# The bulk may be many orders of magnitude below the largest singular value.
_SQUARED = (1e-140, 1e140)


def analyze_layer(
    layer: Layer, weight: WeightT, settings: AnalysisSettings, kernels: ArrayKernels[WeightT] | None = None
) -> LayerAnalysis:
    """Analyse one weight that is already in memory, of the layer's shape, on any device.

    Args:
        layer: what is known of it.
        weight: in the array library of `kernels`.
        settings: of the analysis.
        kernels: its operations; None for torch's.
    """
    if KINDS[layer.kind].stacked:
        return analyze_stack(layer, as_matrix(layer, weight), settings, kernels)
    return LayerTask(layer, weight, settings, kernels).finish()


def expert_of(layer: Layer, number: int) -> Layer:
    """One matrix of a stack as a layer of its own."""
    return replace(layer, name=f"{layer.name}[{number}]", kind="linear", shape=layer.shape[1:])


def analyze_stack(
    layer: Layer, matrices: Iterable[WeightT], settings: AnalysisSettings, kernels: ArrayKernels[WeightT] | None
) -> LayerAnalysis:
    """Every matrix of a stack by itself, and what they say together."""
    experts = []
    for number, matrix in enumerate(matrices):
        found = LayerTask(expert_of(layer, number), matrix, settings, kernels).finish()
        if not isinstance(found, AnalyzedLayer):
            finite = not isinstance(found, SkippedLayer) or found.finite
            return SkippedLayer(layer, f"expert {number}: {found.reason}", finite=finite)
        experts.append(found)
    most = max(experts, key=lambda expert: expert.fit.spikes)
    fit = replace(most.fit, gof=max(expert.fit.gof for expert in experts))
    return AnalyzedStack(
        layer, fit, most.singular_values, settings, scaled=most.scaled, route=most.route, experts=tuple(experts)
    )


class LayerTask(Generic[WeightT]):
    """The analysis of a weight of `layer`, on any device, in two steps; see `spectrum.SingularValues`."""

    def __init__(
        self,
        layer: Layer,
        weight: WeightT,
        settings: AnalysisSettings,
        kernels: ArrayKernels[WeightT] | None = None,
    ) -> None:
        self._layer, self._settings = layer, settings
        self._kernels: ArrayKernels[WeightT] = _torch_kernels() if kernels is None else kernels
        self._matrix: WeightT = as_matrix(layer, weight)
        self._spectrum: spectrum.SingularValues[WeightT] = spectrum.SingularValues(self._matrix, self._kernels)
        self._approximate = ApproximateSpectrum(self._matrix) if may_approximate(self._matrix, settings) else None
        self._route = SpectrumRoute()

    def form_gram(self) -> None:
        """The first step, which `finish` makes up for if it was left out."""
        if self._approximate is not None:
            try:
                self._approximate.multiply()
            except spectrum.UncertainSpectrumError as error:
                self._fall_back(error)
        if self._approximate is None:
            self._spectrum.form_gram()

    def finish(self) -> LayerAnalysis:
        """The rest. To be called once."""
        layer, settings = self._layer, self._settings
        if self._approximate is not None:
            try:
                values, found, route = self._approximate.fit(self._fitted)
                return AnalyzedLayer(layer, found.fit, values, settings, details=found.details, route=route)
            except spectrum.UncertainSpectrumError as error:
                self._fall_back(error)
        try:
            values = self._spectrum.find(alpha=settings.alpha)
            _check_squares(values)
            measured = self._measured(values)
            found = noise_model(settings).fit(measured, settings)
            models = _side_by_side(measured, found, settings) if settings.noise == ALL else {}
        except spectrum.NonFiniteError:
            entries = self._entries()
            if _is_mask(layer, entries):
                return SkippedLayer(layer, MASK)
            bad = int((~np.isfinite(entries)).sum())
            return SkippedLayer(layer, f"{bad:,} of its entries are NaN or Inf", finite=False)
        except spectrum.DegenerateSpectrumError as error:
            zero = self._kernels.largest(self._matrix) == 0
            return SkippedLayer(layer, str(error), low_rank=not zero and settings.noise != "equalized")
        return AnalyzedLayer(
            layer,
            found.fit,
            values,
            settings,
            details=found.details,
            models=models,
            scaled=found.values,
            route=self._route,
        )

    def _fall_back(self, error: spectrum.UncertainSpectrumError) -> None:
        self._approximate, self._route = None, SpectrumRoute(fell_back=str(error))

    def _measured(self, values: NDArray[np.float64]) -> Measured:
        rows, columns = self._layer.matrix or (0, 0)
        return Measured(values, max(rows, columns), self._entries, self._values_of)

    def _fitted(self, values: NDArray[np.float64]) -> NoiseFit:
        return noise_model(self._settings).fit(self._measured(values), self._settings)

    def _entries(self) -> Entries:
        """The matrix for models that look at its entries, which work on the CPU."""
        return self._kernels.entries(self._matrix)

    def _values_of(self, entries: Entries, alpha: float) -> FloatArray:
        """The singular values of what a model made of the matrix, by the route that the matrix' own came."""
        return spectrum.singular_values(self._kernels.taken(entries), self._kernels, alpha=alpha)


def _torch_kernels() -> ArrayKernels[Any]:
    from rmt_compress.decomposition.kernels import TorchKernels

    return TorchKernels()


def _check_squares(values: FloatArray) -> None:
    """Refuse singular values whose squares, the eigenvalues that all noise laws speak of, leave float64.

    Raises:
        DegenerateSpectrumError: saying how large they are.
    """
    low, high = _SQUARED
    if len(values) and values[0] > 0 and not low < values[0] < high:
        raise spectrum.DegenerateSpectrumError(
            f"its largest singular value is {values[0]:.1e}: squares of such numbers leave float64; scale it"
        )


def _side_by_side(measured: Measured, first: NoiseFit, settings: AnalysisSettings) -> dict[str, NoiseFit | str]:
    """What every model says of a matrix, or why it says nothing; `first` is said already."""
    said: dict[str, NoiseFit | str] = {noise_model(settings).name: first}
    for name, model in NOISE_MODELS.items():
        if name in said:
            continue
        try:
            said[name] = model.fit(measured, settings)
        except spectrum.DegenerateSpectrumError as error:
            said[name] = str(error)
    return said


def _is_mask(layer: Layer, entries: Entries) -> bool:
    """Whether −inf in a tensor is meant: beside zeros alone, or in what is not called a weight."""
    finite = np.isfinite(entries)
    if not (finite | np.isneginf(entries)).all():
        return False
    return not is_weight(layer.stored) or not entries[finite].any()


def analyze_pair(layer: Layer, pair: FactorPair, down: torch.Tensor, up: torch.Tensor) -> LayerAnalysis:
    """What can be said of a product of two factors: how many of its directions it uses; it has no bulk to fit."""
    from rmt_compress.decomposition.products import product_singular_values

    try:
        products = pair_products(down, up, stacked=pair.stacked)
        found = [product_singular_values(*factors) for factors in products]
        # Of a stack that expert is shown which uses the most of the rank that all have.
        return AnalyzedPair(layer, pair, max(found, key=spectrum.effective_rank))
    except spectrum.NonFiniteError:
        bad = sum(int((~factor.isfinite()).sum()) for factor in (down, up))
        return SkippedLayer(layer, f"{bad:,} of its factors' entries are NaN or Inf", finite=False)
