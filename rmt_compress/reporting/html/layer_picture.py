"""One layer's spectrum for a page: as numbers for its script, small beside the name, and in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rmt_compress.wording import counted

if TYPE_CHECKING:
    from markupsafe import Markup
    from numpy.typing import NDArray

    from rmt_compress.analysis import AnalyzedLayer
    from rmt_compress.reporting.spectrum_series import SpectrumSeries

LAW_POINTS = 64
"""Of the curves of the law; more would not be seen."""
_STEPS = 90
_TICKS = 30
_WIDTH, _HEIGHT, _BARS = 96, 22, 28


def picture(layer: AnalyzedLayer, series: SpectrumSeries) -> dict[str, Any]:
    """What the page's script draws a layer from, plain JSON."""
    inside = series.spikes[series.spikes <= series.edges[-1]]
    low = series.eigenvalues[series.eigenvalues <= series.high]
    kept = np.unique(np.linspace(0, len(low) - 1, min(len(low), _STEPS)).astype(int))
    p = layer.fit.p
    shares = (kept + 1) / p
    beyond = ""
    if series.beyond:
        beyond = f"{series.beyond} more up to {series.eigenvalues[-1]:.3g} →"
    return {
        "width": _short(series.edges[1]),
        "right": _short(series.edges[-1]),
        "top": _short(1.25 * series.tallest),
        "bulk": _list(series.bulk_bars),
        "spike": _list(series.spike_bars),
        "ticks": _list(inside[-_TICKS:]),
        "edge": _short(layer.fit.lambda_plus),
        "beyond": beyond,
        "law": _even(series.law),
        "high": _short(series.high),
        "window": [_short(end) for end in series.window],
        "steps": [[*_list(low[kept]), _short(series.high)], [*_list(shares), _short(shares[-1])]],
        "distribution": _even(series.distribution),
    }


def in_words(layer: AnalyzedLayer, series: SpectrumSeries) -> tuple[str, str]:
    """What the two pictures show, for those who do not see them."""
    fit = layer.fit
    spikes = "no spike above it"
    if fit.spikes:
        spikes = f"{counted(fit.spikes, 'spike')} above it, the largest at {series.eigenvalues[-1]:.3g}"
    law = "" if series.law is None else ", and the density of the fitted Marchenko–Pastur law"
    spectrum = (
        f"Histogram of {fit.p:,} eigenvalues: {fit.p - fit.spikes:,} in the bulk below the edge at "
        f"{fit.lambda_plus:.3g}, {spikes}{law}."
    )
    low, high = series.window
    distribution = (
        "Share of eigenvalues below a value, for this layer and for the fitted law. Over the window from "
        f"{low:.3g} to {high:.3g} they are {fit.gof:.3f} apart at most; pure noise of this size comes to "
        f"{layer.gof_null:.3f} once in twenty times."
    )
    return spectrum, distribution


def sparkline(layer: AnalyzedLayer, series: SpectrumSeries) -> Markup:
    """The bars of the spectrum and its edge as a small SVG, with an arrow where more lie right of it."""
    from markupsafe import Markup

    right = float(series.edges[-1])
    edges = np.linspace(0.0, right, _BARS + 1)
    parts = np.split(series.eigenvalues, [layer.fit.p - layer.fit.spikes])
    bulk, spikes = (np.histogram(part, edges)[0] for part in parts)
    tallest = max(int((bulk + spikes).max()), 1)
    edge = _WIDTH * layer.fit.lambda_plus / right
    arrow = f"M{_WIDTH - 5} {_HEIGHT - 8}l5 4l-5 4z" if series.beyond else ""
    return Markup(
        f'<svg class="spark" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" '
        f'aria-hidden="true"><path class="bulk" d="{_bars(np.zeros(_BARS), bulk / tallest)}"/>'
        f'<path class="spikes" d="{_bars(bulk / tallest, spikes / tallest)}{arrow}"/>'
        f'<path class="edge" d="M{edge:.1f} 0V{_HEIGHT}"/></svg>'
    )


def _bars(below: NDArray[np.float64], heights: NDArray[np.float64]) -> str:
    """A path of one rectangle for every height that is not 0, at least a pixel high: one spike is one too."""
    width = _WIDTH / _BARS
    path = []
    for index in np.flatnonzero(heights):
        height = max(1.0, float(heights[index]) * _HEIGHT)
        foot = _HEIGHT - float(below[index]) * _HEIGHT
        path.append(f"M{index * width:.4g} {foot:.3g}v{-height:.3g}h{width:.3g}v{height:.3g}z")
    return "".join(path)


def _even(curve: tuple[NDArray[np.float64], NDArray[np.float64]] | None) -> dict[str, Any] | None:
    """A curve over evenly spaced places: the first and the last of these, and its heights."""
    if curve is None:
        return None
    places, heights = curve
    return {"from": _short(places[0]), "to": _short(places[-1]), "heights": _list(heights)}


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def _list(values: NDArray[np.float64]) -> list[float]:
    return [_short(value) for value in values]
