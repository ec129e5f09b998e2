"""From a checkpoint to one verdict per layer: spectrum, bulk fit, spikes, or the reason it was skipped."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rmt_compress import spectrum
from rmt_compress.errors import SettingsError
from rmt_compress.layers.low_rank import split_parameters
from rmt_compress.layers.matrix_view import DEFAULT_MIN_SIZE, Layer, as_matrix

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rmt_compress.checkpoints.base import Checkpoint
    from rmt_compress.checkpoints.opening import Source

SCHEMA = "rmt-compress/analysis/1"

Verdict = Literal["noise", "mixed", "structured"]
Progress = Callable[[int, int, str], None]

# A layer that fits and holds no more than this share of its energy in spikes is called noise.
NOISE_ENERGY = 0.01


@dataclass(frozen=True)
class AnalysisSettings:
    """What decides the numbers of an analysis; names every problem at once.

    Attributes:
        alpha: share of the ranks BEMA leaves out at either end of the spectrum, in (0, ½).
        beta: the chance that the largest noise eigenvalue passes the edge, in (0, 1).
        gof: largest fit error at which a layer counts as Marchenko–Pastur noise plus spikes.
        quantiles: ``midpoint`` or ``paper``, see `rmt_compress.spectrum.bulk`.
        include: globs of layer names; when given, only these are analysed.
        exclude: globs of layer names that are left out.
        min_size: the least min(rows, columns) that is analysed.
        embeddings: whether embedding tables are analysed too.

    Raises:
        SettingsError: listing everything that is out of range.
    """

    alpha: float = 0.25
    beta: float = 0.1
    gof: float = 0.1
    quantiles: spectrum.QuantileRule = "midpoint"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    min_size: int = DEFAULT_MIN_SIZE
    embeddings: bool = False

    def __post_init__(self) -> None:
        problems = []
        if not 0 < self.alpha < 0.5:
            problems.append(f"alpha must lie between 0 and 0.5, got {self.alpha:g}")
        if not 1e-6 <= self.beta <= 1 - 1e-6:
            problems.append(f"beta must lie between 0.000001 and 0.999999, got {self.beta:g}")
        if not 0 <= self.gof <= 1:
            problems.append(f"gof must lie between 0 and 1, got {self.gof:g}")
        if self.quantiles not in spectrum.QUANTILE_RULES:
            names = " or ".join(spectrum.QUANTILE_RULES)
            problems.append(f"quantiles must be {names}, got {self.quantiles!r}")
        # A window needs two ranks whatever alpha: (1 − 2α)·p ≥ 3 leaves at least two whole numbers.
        if self.min_size < 2 or (0 < self.alpha < 0.5 and (1 - 2 * self.alpha) * self.min_size < 3):
            problems.append(
                f"min-size {self.min_size} with alpha {self.alpha:g} leaves fewer than two eigenvalues to fit"
            )
        if problems:
            raise SettingsError(problems)


@dataclass(frozen=True)
class LayerAnalysis:
    """What the spectrum says of one layer, or why it was not asked.

    Attributes:
        layer: the layer itself.
        fit: the fitted bulk; None where the layer was skipped.
        reason: why it was skipped; None where it was analysed.
        singular_values: all of them, descending; empty where skipped.
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
        """Weights left when the layer is cut to its spikes and split, where it fits and the split is smaller."""
        before = self.layer.parameters
        if self.fit is None or not self.fits or self.layer.matrix is None:
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
            "spectral_norm": float(self.singular_values[0]) if fit else None,
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
        settings = self.settings
        return {
            "schema": SCHEMA,
            "checkpoint": {
                "path": self.path,
                "format": self.format,
                "parameters": self.parameters,
                "notes": list(self.notes),
            },
            "settings": {
                "alpha": settings.alpha,
                "beta": settings.beta,
                "gof": settings.gof,
                "quantiles": settings.quantiles,
                "include": list(settings.include),
                "exclude": list(settings.exclude),
                "min_size": settings.min_size,
                "embeddings": settings.embeddings,
            },
            "layers": [layer.to_json() for layer in self.layers],
            "totals": {
                "parameters": self.parameters,
                "parameters_after": self.parameters_after,
                "layers_analyzed": len(self.analyzed),
                "layers_skipped": len(self.skipped),
            },
        }


def analyze(
    source: Source,
    *,
    alpha: float = 0.25,
    beta: float = 0.1,
    gof: float = 0.1,
    quantiles: spectrum.QuantileRule = "midpoint",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    min_size: int = DEFAULT_MIN_SIZE,
    embeddings: bool = False,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> Analysis:
    """Find signal and noise in every weight of a checkpoint.

    Args:
        source: a path, a state dict, an `nn.Module` or an open `Checkpoint`.
        alpha: see `AnalysisSettings`, as for all settings up to `embeddings`.
        beta: chance that pure noise shows a spike.
        gof: largest fit error of a layer that fits.
        quantiles: ``midpoint`` or ``paper``.
        include: globs of layer names to analyse.
        exclude: globs of layer names to leave out.
        min_size: least min(rows, columns).
        embeddings: analyse embedding tables too.
        jobs: layers worked on at once; None for as many as there are cores. Each holds one tensor in memory.
        progress: called with (layers done, layers in all, name) after each layer, from the calling thread.

    Raises:
        CheckpointError: the source cannot be read.
        SettingsError: a setting is out of range, or a glob matches nothing.
    """
    from rmt_compress.checkpoints import open_checkpoint

    settings = AnalysisSettings(
        alpha=alpha,
        beta=beta,
        gof=gof,
        quantiles=quantiles,
        include=tuple(include),
        exclude=tuple(exclude),
        min_size=min_size,
        embeddings=embeddings,
    )
    with open_checkpoint(source) as checkpoint:
        layers = checkpoint.layers()
        _check_globs(settings, layers)
        results = _analyze_layers(checkpoint, layers, settings, jobs or _cores(), progress)
        return Analysis(
            path=None if checkpoint.path is None else str(checkpoint.path),
            format=checkpoint.format,
            notes=checkpoint.notes,
            settings=settings,
            layers=tuple(results),
        )


def analyze_layer(layer: Layer, weight: Any, settings: AnalysisSettings) -> LayerAnalysis:  # noqa: ANN401
    """Analyse one weight that is already in memory, a torch tensor of the layer's shape on any device."""
    from rmt_compress.layers.torch_kernels import TorchKernels

    try:
        values = spectrum.singular_values(as_matrix(layer, weight), TorchKernels(), alpha=settings.alpha)
        rows, columns = layer.matrix or (0, 0)
        n = max(rows, columns)
        fit = spectrum.fit_bulk(
            values**2 / n, n, alpha=settings.alpha, beta=settings.beta, quantiles=settings.quantiles
        )
    except spectrum.NonFiniteError:
        bad = int((~weight.isfinite()).sum())
        return LayerAnalysis(layer, reason=f"{bad:,} of its entries are NaN or Inf", finite=False)
    except spectrum.DegenerateSpectrumError as error:
        return LayerAnalysis(layer, reason=str(error))
    return LayerAnalysis(layer, fit=fit, singular_values=values, settings=settings)


def _analyze_layers(
    checkpoint: Checkpoint,
    layers: Sequence[Layer],
    settings: AnalysisSettings,
    jobs: int,
    progress: Progress | None,
) -> list[LayerAnalysis]:
    results: dict[str, LayerAnalysis] = {}
    work = []
    for layer in layers:
        if (reason := _left_out(layer, settings)) is not None:
            results[layer.tensor] = LayerAnalysis(layer, reason=reason, left_out=True)
        elif (reason := layer.skip_reason(min_size=settings.min_size, embeddings=settings.embeddings)) is not None:
            results[layer.tensor] = LayerAnalysis(layer, reason=reason)
        else:
            work.append(layer)
    if not work:
        return [results[layer.tensor] for layer in layers]

    import torch

    jobs = max(1, min(jobs, len(work)))
    cores = torch.get_num_threads()

    def one(layer: Layer) -> LayerAnalysis:
        return analyze_layer(layer, checkpoint.read(layer.tensor), settings)

    # The largest first, so that no long layer is left for the end; and one BLAS thread a worker when there are
    # as many workers as cores, since the count is per thread in OpenMP.
    work.sort(key=lambda layer: layer.parameters * min(layer.matrix or (1,)), reverse=True)
    threads = max(1, cores // jobs)
    with ThreadPoolExecutor(jobs, initializer=torch.set_num_threads, initargs=(threads,)) as pool:
        try:
            futures = {pool.submit(one, layer): layer for layer in work}
            for done, future in enumerate(as_completed(futures), start=1):
                layer = futures[future]
                results[layer.tensor] = future.result()
                if progress is not None:
                    progress(done, len(work), layer.name)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        finally:
            torch.set_num_threads(cores)
    return [results[layer.tensor] for layer in layers]


def _left_out(layer: Layer, settings: AnalysisSettings) -> str | None:
    if settings.include and not any(_matches(layer, glob) for glob in settings.include):
        return "not among the included layers"
    if any(_matches(layer, glob) for glob in settings.exclude):
        return "excluded"
    return None


def _matches(layer: Layer, glob: str) -> bool:
    return any(fnmatchcase(name, glob) for name in (layer.name, layer.tensor, *layer.aliases))


def _check_globs(settings: AnalysisSettings, layers: Sequence[Layer]) -> None:
    names = [layer.name for layer in layers if layer.kind != "vector"]
    listed = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    problems = [
        f"'{glob}' matches no layer; the layers are {listed or 'none'}"
        for glob in (*settings.include, *settings.exclude)
        if not any(_matches(layer, glob) for layer in layers)
    ]
    if problems:
        raise SettingsError(problems)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
