"""A page's chart as a panel of a figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rmt_compress.reporting.blanks import said_in_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from rmt_compress.reporting.html.page_parts import Axis, Chart, Point

_INK = "#1d3557"
_COLORS = ("#c8553d", "#457b9d", "#8a9a5b", "#8d6a9f", "#d4a24c", "#6c757d")
_MARKS = "osvD^P"
_WIDTH = 52
"""Characters of a title that fit above a panel."""


def draw_chart(axes: Axes, chart: Chart) -> None:
    """Draw its points, what is ringed, and the heights and places that are marked."""
    for place, series in enumerate(chart.series):
        axes.plot(
            *_places(series.points),
            ls="-" if chart.joined else "none",
            marker=_MARKS[place % len(_MARKS)],
            ms=4,
            color=_COLORS[place % len(_COLORS)],
            label=said_in_figure(series.name, 40),
        )
    ring: dict[str, Any] = {"ms": 12, "mfc": "none", "mec": _INK, "mew": 2, "zorder": 4}
    axes.plot(*_places(chart.chosen), "o", **ring)
    for y, said in chart.levels:
        axes.axhline(y, color=_INK, ls="--", lw=1.2, zorder=1, label=said_in_figure(said, 40))
    for x in chart.marks:
        axes.axvline(x, color=_INK, ls="--", lw=0.7, alpha=0.35, zorder=0)
    axes.set_title(said_in_figure(chart.title, _WIDTH), fontsize=10)
    _set_axis(axes, "x", chart.x)
    _set_axis(axes, "y", chart.y)
    if len(chart.series) + len(chart.levels) > 1:
        axes.legend(frameon=False, fontsize=8)


def _places(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [point.x for point in points], [point.y for point in points]


def _set_axis(axes: Axes, which: str, axis: Axis) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    named, line = (axes.set_xlabel, axes.xaxis) if which == "x" else (axes.set_ylabel, axes.yaxis)
    named(said_in_figure(axis.title, _WIDTH))
    percent = axis.format.endswith("%")
    if axis.logarithmic:
        (axes.set_xscale if which == "x" else axes.set_yscale)("log")
        if which == "x":
            line.set_major_locator(LogLocator(subs=(1, 2, 5)))
            line.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            line.set_minor_formatter(NullFormatter())
    elif axis.whole:
        line.set_major_locator(MaxNLocator(integer=True))
    if percent:
        line.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g}%"))
    if axis.zero:
        (axes.set_xlim if which == "x" else axes.set_ylim)(0)
