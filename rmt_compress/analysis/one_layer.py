"""What the spectrum says of one weight."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rmt_compress import spectrum
from rmt_compress.analysis.noise_models import ALL, NOISE_MODELS, Measured, NoiseFit, noise_model
from rmt_compress.analysis.records import AnalyzedLayer, AnalyzedStack, LayerAnalysis
from rmt_compress.analysis.settings import AnalysisSettings
from rmt_compress.analysis.unfitted import AnalyzedPair, SkippedLayer
from rmt_compress.decomposition.products import effective_rank, product_singular_values
from rmt_compress.layers.kinds import KINDS
from rmt_compress.layers.layer import FactorPair, Layer, as_matrix
from rmt_compress.layers.pairs import pair_products
from rmt_compress.layers.splitting import is_weight

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from rmt_compress.decomposition.kernels import TorchKernels


def analyze_layer(
    layer: Layer, weight: torch.Tensor, settings: AnalysisSettings, kernels: TorchKernels | None = None
) -> LayerAnalysis:
    """Analyse one weight that is already in memory, of the layer's shape, on any device."""
    if KINDS[layer.kind].stacked:
        return _analyze_stack(layer, weight, settings, kernels)
    return LayerTask(layer, weight, settings, kernels).finish()


def _analyze_stack(
    layer: Layer, weight: torch.Tensor, settings: AnalysisSettings, kernels: TorchKernels | None
) -> LayerAnalysis:
    """Every matrix of a stack by itself, and what they say together."""
    experts = []
    for number, matrix in enumerate(as_matrix(layer, weight).unbind(0)):
        expert = replace(layer, name=f"{layer.name}[{number}]", kind="linear", shape=tuple(matrix.shape))
        found = LayerTask(expert, matrix, settings, kernels).finish()
        if not isinstance(found, AnalyzedLayer):
            finite = not isinstance(found, SkippedLayer) or found.finite
            return SkippedLayer(layer, f"expert {number}: {found.reason}", finite=finite)
        experts.append(found)
    most = max(experts, key=lambda expert: expert.fit.spikes)
    fit = replace(most.fit, gof=max(expert.fit.gof for expert in experts))
    return AnalyzedStack(layer, fit, most.singular_values, settings, scaled=most.scaled, experts=tuple(experts))


class LayerTask:
    """The analysis of a weight of `layer`, on any device, in two steps; see `spectrum.SingularValues`."""

    def __init__(
        self, layer: Layer, weight: torch.Tensor, settings: AnalysisSettings, kernels: TorchKernels | None = None
    ) -> None:
        from rmt_compress.decomposition.kernels import TorchKernels

        self._layer, self._weight, self._settings = layer, weight, settings
        self._spectrum = spectrum.SingularValues(as_matrix(layer, weight), kernels or TorchKernels())

    def form_gram(self) -> None:
        """The first step, which `finish` makes up for if it was left out."""
        self._spectrum.form_gram()

    def finish(self) -> LayerAnalysis:
        """The rest. To be called once."""
        layer, settings = self._layer, self._settings
        try:
            values = self._spectrum.find(alpha=settings.alpha)
            rows, columns = layer.matrix or (0, 0)
            measured = Measured(values, max(rows, columns), self._entries)
            found = noise_model(settings).fit(measured, settings)
            models = _side_by_side(measured, found, settings) if settings.noise == ALL else {}
        except spectrum.NonFiniteError:
            if _is_mask(layer, self._weight):
                return SkippedLayer(layer, "a mask: it holds −inf where something is hidden, and is no weight")
            bad = int((~self._weight.isfinite()).sum())
            return SkippedLayer(layer, f"{bad:,} of its entries are NaN or Inf", finite=False)
        except spectrum.DegenerateSpectrumError as error:
            return SkippedLayer(
                layer, str(error), low_rank=bool(self._weight.any()) and settings.noise != "equalized"
            )
        return AnalyzedLayer(
            layer, found.fit, values, settings, details=found.details, models=models, scaled=found.values
        )

    def _entries(self) -> NDArray[np.float32] | NDArray[np.float64]:
        """The matrix for models that look at its entries, which work on the CPU."""
        matrix = as_matrix(self._layer, self._weight).detach().cpu()
        single: bool = matrix.element_size() <= 4
        entries: NDArray[np.float32] | NDArray[np.float64] = (matrix.float() if single else matrix).numpy()
        return entries


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


def _is_mask(layer: Layer, weight: torch.Tensor) -> bool:
    """Whether −inf in a tensor is meant: beside zeros alone, or in what is not called a weight."""
    finite = weight.isfinite()
    if not bool((finite | weight.isneginf()).all()):
        return False
    return not is_weight(layer.stored) or not bool(weight[finite].any())


def analyze_pair(layer: Layer, pair: FactorPair, down: torch.Tensor, up: torch.Tensor) -> LayerAnalysis:
    """What can be said of a product of two factors: how many of its directions it uses; it has no bulk to fit."""
    try:
        products = pair_products(down, up, stacked=pair.stacked)
        found = [product_singular_values(*factors) for factors in products]
        # Of a stack that expert is shown which uses the most of the rank that all have.
        return AnalyzedPair(layer, pair, max(found, key=effective_rank))
    except spectrum.NonFiniteError:
        bad = sum(int((~factor.isfinite()).sum()) for factor in (down, up))
        return SkippedLayer(layer, f"{bad:,} of its factors' entries are NaN or Inf", finite=False)
