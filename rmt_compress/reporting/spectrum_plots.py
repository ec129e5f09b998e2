"""One picture per layer: the spectrum against the law it was fitted with."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rmt_compress.errors import SettingsError
from rmt_compress.layers.treating import matches
from rmt_compress.outputs import make_folder, together
from rmt_compress.reporting.blanks import blank_figure, said_in_figure, write_figure
from rmt_compress.reporting.layer_names import network_order
from rmt_compress.reporting.spectrum_series import SpectrumSeries, spectrum_series
from rmt_compress.wording import counted, did_you_mean, times

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from rmt_compress.analysis import Analysis, AnalyzedLayer
    from rmt_compress.analysis.settings import AnalysisSettings
    from rmt_compress.progress import Progress

_BULK, _SPIKE, _LAW = "#9db4c8", "#c8553d", "#1d3557"
_MOST = 24
"""Layers that have a panel each in one figure."""


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
    written = []
    with together():
        make_folder(folder)
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


def analysis_figure(analysis: Analysis, layers: Sequence[str] = ()) -> Figure:
    """The spectra of the layers of these names or globs, of none of them all; of one its `layer_figure`.

    Raises:
        SettingsError: as `check_drawable`, or a name is none of an analysed layer.
    """
    check_drawable(analysis.settings)
    for asked in layers:
        if not any(matches(layer.layer, asked) for layer in analysis.analyzed):
            names = [layer.name for layer in analysis.analyzed]
            raise SettingsError([f"no analysed layer is called {asked}{did_you_mean(asked, names)}"])
    chosen = [
        layer for layer in analysis.analyzed if not layers or any(matches(layer.layer, asked) for asked in layers)
    ]
    if not chosen:
        raise SettingsError(["there is no analysed layer to draw; the analysis has the reasons"])
    if len(chosen) == 1:
        return layer_figure(chosen[0])
    drawn = [chosen[place] for place in network_order([layer.name for layer in chosen])][:_MOST]
    columns = min(len(drawn), 3)
    rows = -(-len(drawn) // columns)
    figure = blank_figure(11, 2.9 * rows, "plot()")
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for layer, axes in zip(drawn, panels, strict=False):
        _draw_histogram(axes, layer, spectrum_series(layer))
        axes.set(xlabel="", ylabel="")
        axes.set_title(said_in_figure(f"{layer.name}: {layer.verdict}, {layer.fit.spikes} spikes", 44), fontsize=9)
        axes.locator_params(axis="x", nbins=5)
        axes.get_legend().remove()
    for axes in panels:
        axes.set_visible(False)
    more = f"; {counted(len(chosen) - len(drawn), 'more layer')} by name" if len(chosen) > len(drawn) else ""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    # Without the numbers, which are of one layer each.
    parts = [re.split(r" [(=]", label)[0] for label in labels]
    figure.legend(
        handles,
        parts,
        title=f"density of the eigenvalues λ = s²/n{more}",
        loc="outside lower center",
        ncols=len(parts),
        frameon=False,
        fontsize=9,
    )
    return figure


def layer_figure(layer: AnalyzedLayer) -> Figure:
    """Left the eigenvalues with the fitted density, right the two distribution functions.

    Raises:
        SettingsError: as `check_drawable`.
    """
    check_drawable(layer.settings)
    fit, series = layer.fit, spectrum_series(layer)
    figure = blank_figure(11, 4.4, "--plots")
    left, right = figure.subplots(1, 2)
    _draw_histogram(left, layer, series)
    _draw_distribution(right, layer, series)
    for axes in (left, right):
        axes.locator_params(axis="x", nbins=5)  # numbers of many digits would run into each other
    title = (
        f"{layer.name}  ({times(layer.matrix)}):  {layer.verdict}, fit error {fit.gof:.3f} "
        f"(noise of this size: {layer.gof_null:.3f}), {fit.spikes} spikes of {fit.p}"
    )
    figure.suptitle(said_in_figure(title, 110))
    return figure


def _draw_histogram(axes: Axes, layer: AnalyzedLayer, series: SpectrumSeries) -> None:
    fit, edges, spikes = layer.fit, series.edges, series.spikes
    for heights, color, label in (
        (series.bulk_bars, _BULK, f"bulk ({fit.p - fit.spikes})"),
        (series.spike_bars, _SPIKE, f"spikes ({fit.spikes})"),
    ):
        axes.hist(edges[:-1], bins=edges.tolist(), weights=heights, color=color, label=label)
    if series.law is not None:
        axes.plot(*series.law, color=_LAW, lw=1.8, label="Marchenko–Pastur")
    axes.axvline(fit.lambda_plus, color=_LAW, ls="--", lw=1.2, label=f"edge λ₊ = {fit.lambda_plus:.3g}")
    # At c near 1 the density is unbounded at 0; the bars set the scale.
    top = 1.25 * series.tallest
    axes.set_ylim(0, top)
    axes.set_xlim(0, edges[-1])
    inside = spikes[spikes <= edges[-1]]
    axes.plot(inside, np.full(inside.size, 0.02 * top), "|", color=_SPIKE, ms=14, mew=1.5)
    if series.beyond:
        axes.annotate(
            f"{series.beyond} more up to {series.eigenvalues[-1]:.3g} →",
            (0.99, 0.1),
            xycoords="axes fraction",
            ha="right",
            color=_SPIKE,
        )
    axes.set(xlabel="eigenvalue λ = s²/n", ylabel="density", title="Spectrum")
    axes.legend(frameon=False)


def _draw_distribution(axes: Axes, layer: AnalyzedLayer, series: SpectrumSeries) -> None:
    fit, eigenvalues = layer.fit, series.eigenvalues
    axes.axvspan(*series.window, color="#e9ecef", label="window of the fit", zorder=0)
    shares = np.arange(1, fit.p + 1) / fit.p
    axes.step(eigenvalues, shares, where="post", color=_SPIKE, lw=1.6, label="this layer")
    if series.distribution is not None:
        axes.plot(*series.distribution, color=_LAW, lw=1.4, label="Marchenko–Pastur")
    axes.axvline(fit.lambda_plus, color=_LAW, ls="--", lw=1.2)
    axes.set(xlim=(0, series.high), ylim=(0, 1.02))
    axes.set(xlabel="eigenvalue λ = s²/n", ylabel="share of eigenvalues below", title="Distribution function")
    axes.legend(loc="lower right")
