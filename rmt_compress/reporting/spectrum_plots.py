"""One picture per layer: the spectrum against the law it was fitted with."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rmt_compress.errors import OutputError, SettingsError
from rmt_compress.reporting.blanks import blank_figure, said_in_figure, write_figure
from rmt_compress.spectrum import marchenko_pastur
from rmt_compress.wording import times

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from rmt_compress.analysis import Analysis, AnalyzedLayer
    from rmt_compress.analysis.settings import AnalysisSettings
    from rmt_compress.progress import Progress
    from rmt_compress.spectrum import BulkFit

_BULK, _SPIKE, _LAW = "#9db4c8", "#c8553d", "#1d3557"


def check_drawable(settings: AnalysisSettings) -> None:
    """Refuse what is no Marchenko–Pastur law, which is all that is drawn.

    Raises:
        SettingsError: the noise has variances of its own.
    """
    if settings.noise == "general":
        raise SettingsError(["plots are of the Marchenko–Pastur law, and noise general of another: leave out one"])


def plot_layers(analysis: Analysis, folder: Path, *, progress: Progress | None = None) -> list[Path]:
    """Draw every analysed layer into `folder` (made if absent) and return the files written.

    Raises:
        SettingsError: as `check_drawable`.
        OutputError: the folder cannot be made.
    """
    check_drawable(analysis.settings)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot make this folder: {error.strerror}") from error
    written = []
    for done, layer in enumerate(analysis.analyzed, start=1):
        path = folder / plot_name(layer)
        figure = layer_figure(layer)
        write_figure(figure, path)
        written.append(path)
        if progress is not None:
            progress(done, len(analysis.analyzed), layer.name)
    return written


def plot_name(layer: AnalyzedLayer) -> str:
    """File name of a layer's picture: its name, with everything a file system may object to replaced."""
    return re.sub(r"[^\w.-]+", "_", layer.name).lstrip(".")[:120] + ".png"


def layer_figure(layer: AnalyzedLayer) -> Figure:
    """Left the eigenvalues with the fitted density, right the two distribution functions."""
    fit = layer.fit
    figure = blank_figure(11, 4.4, "--plots")
    left, right = figure.subplots(1, 2)
    values = layer.singular_values if layer.scaled is None else layer.scaled
    eigenvalues = values[::-1] ** 2 / fit.n
    _draw_histogram(left, layer, eigenvalues)
    _draw_distribution(right, layer, eigenvalues)
    for axes in (left, right):
        axes.locator_params(axis="x", nbins=5)  # numbers of many digits would run into each other
    title = (
        f"{layer.name}  ({times(layer.matrix)}):  {layer.verdict}, fit error {fit.gof:.3f} "
        f"(noise of this size: {layer.gof_null:.3f}), {fit.spikes} spikes of {fit.p}"
    )
    figure.suptitle(said_in_figure(title, 110))
    return figure


class _Law(NamedTuple):
    """The fitted law among all p eigenvalues: those that were left out of the ranks have no part in it.

    Attributes:
        unit: eigenvalues in this unit follow the law of variance 1.
        ratio: its c.
        share: of the eigenvalues that it is of.
    """

    unit: float
    ratio: float
    share: float


def _law(fit: BulkFit) -> _Law:
    p, n = fit.p - fit.left_out, fit.n - fit.left_out
    return _Law(fit.sigma2 * n / fit.n, p / n, p / fit.p)


def _draw_histogram(axes: Axes, layer: AnalyzedLayer, eigenvalues: np.ndarray) -> None:
    fit = layer.fit
    law = _law(fit)
    lower, upper = (law.unit * end for end in marchenko_pastur.support(law.ratio))
    # Eigenvalues far above the edge would squeeze the bulk into one bar: they are counted in a note instead.
    far = max(upper, fit.lambda_plus)
    shown = float(np.clip(eigenvalues[-1] * 1.03, 1.1 * far, 2.5 * far))
    count = int(np.clip(fit.p // 8, 20, 80))
    edges = np.linspace(0.0, shown, count + 1)
    bulk, spikes = np.split(eigenvalues, [fit.p - fit.spikes])
    width = edges[1] - edges[0]
    # Weighted so that bars and law are densities of the same p eigenvalues.
    for values, color, label in (
        (bulk, _BULK, f"bulk ({bulk.size})"),
        (spikes, _SPIKE, f"spikes ({spikes.size})"),
    ):
        axes.hist(
            values,
            bins=edges.tolist(),
            weights=np.full(values.size, 1 / (fit.p * width)),
            color=color,
            label=label,
        )
    grid = np.linspace(lower, upper, 600)[1:-1]
    density = law.share * marchenko_pastur.pdf(grid / law.unit, law.ratio) / law.unit
    axes.plot(grid, density, color=_LAW, lw=1.8, label="Marchenko–Pastur")
    axes.axvline(fit.lambda_plus, color=_LAW, ls="--", lw=1.2, label=f"edge λ₊ = {fit.lambda_plus:.3g}")
    # At c near 1 the density is unbounded at 0; the bars set the scale.
    tallest = max(patch.get_height() for patch in axes.patches)  # type: ignore[attr-defined]
    axes.set_ylim(0, 1.25 * tallest)
    axes.set_xlim(0, shown)
    inside = spikes[spikes <= shown]
    axes.plot(inside, np.full(inside.size, 0.02 * 1.25 * tallest), "|", color=_SPIKE, ms=14, mew=1.5)
    beyond = int(np.sum(eigenvalues > shown))
    if beyond:
        axes.annotate(
            f"{beyond} more up to {eigenvalues[-1]:.3g} →",
            (0.99, 0.1),
            xycoords="axes fraction",
            ha="right",
            color=_SPIKE,
        )
    axes.set(xlabel="eigenvalue λ = s²/n", ylabel="density", title="Spectrum")
    axes.legend(frameon=False)


def _draw_distribution(axes: Axes, layer: AnalyzedLayer, eigenvalues: np.ndarray) -> None:
    fit = layer.fit
    first, last = fit.window
    axes.axvspan(
        eigenvalues[first - 1], eigenvalues[last - 1], color="#e9ecef", label="window of the fit", zorder=0
    )
    axes.step(
        eigenvalues,
        np.arange(1, fit.p + 1) / fit.p,
        where="post",
        color=_SPIKE,
        lw=1.6,
        label="this layer",
    )
    high = max(fit.lambda_plus * 1.35, float(eigenvalues[last - 1]) * 1.2)
    grid = np.linspace(0.0, high, 800)
    law = _law(fit)
    below = law.share * marchenko_pastur.cdf(grid / law.unit, law.ratio)
    axes.plot(grid, below, color=_LAW, lw=1.4, label="Marchenko–Pastur")
    axes.axvline(fit.lambda_plus, color=_LAW, ls="--", lw=1.2)
    axes.set(xlim=(0, high), ylim=(0, 1.02))
    axes.set(xlabel="eigenvalue λ = s²/n", ylabel="share of eigenvalues below", title="Distribution function")
    axes.legend(loc="lower right")
