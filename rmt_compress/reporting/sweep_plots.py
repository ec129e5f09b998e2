"""Pictures of sweeps: accuracy against singular values kept, weights left, thresholds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rmt_compress.planning.rules import RULES
from rmt_compress.reporting.blanks import blank_figure, said_in_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from rmt_compress.sweep import Sweep, SweepCurve

_INK = "#1d3557"
# The first colour is for what this project proposes.
_COLORS = ("#c8553d", "#457b9d", "#8a9a5b", "#8d6a9f", "#d4a24c", "#6c757d")
_TITLE_WIDTH = 56
"""Characters of a title that fit above a panel."""


def sweep_figure(sweep: Sweep) -> Figure:
    """One or two panels, the full accuracy as a dashed line, the predicted point as a ringed dot."""
    figure = blank_figure(7.2 if sweep.kind == "rank" else 11.4, 4.6, "a picture of a sweep")
    draw = {"rank": _draw_ranks, "share": _draw_shares, "sparsity": _draw_sparsity}
    draw[sweep.kind](figure, sweep)
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e9ecef", zorder=0)
    return figure


def _draw_ranks(figure: Figure, sweep: Sweep) -> None:
    axes = figure.subplots()
    for color, curve in zip(_colors(sweep), sweep.curves, strict=True):
        label = curve.name
        if curve.predicted is not None:
            label += f": predicted rank {curve.predicted.amount:g}, {sweep.metric.shown(curve.predicted.score)}"
        _plot(axes, sweep, curve, [point.amount for point in curve.points], color, label, annotate=True)
    _finish(axes, sweep, "singular values kept (the largest)")
    title = f"layer {sweep.curves[0].name}" if len(sweep.curves) == 1 else "one layer at a time, the others whole"
    axes.set_title(said_in_figure(f"{_asked(sweep)}:\n{title}", _TITLE_WIDTH))


def _draw_shares(figure: Figure, sweep: Sweep) -> None:
    left, right = figure.subplots(1, 2)
    for axes in (left, right):
        for color, curve in zip(_colors(sweep), sweep.curves, strict=True):
            caption = RULES[curve.name].caption if curve.name in RULES else curve.name
            _plot(axes, sweep, curve, _shares(sweep, curve), color, caption)
        _finish(axes, sweep, "weights left, % of all", percent=True)
    left.set_title(said_in_figure(f"{_asked(sweep)}, no retraining", _TITLE_WIDTH))
    metric, (loss, words) = sweep.metric, sweep.metric.losses[-1]
    right.set_title(f"The same, the last {words}")
    sign, zoom = (1 if metric.higher_is_better else -1), loss * metric.scale(sweep.score)
    ends = (_height(sweep, sweep.score - sign * zoom), _height(sweep, sweep.score + sign * zoom / 6))
    right.set_ylim(min(ends), max(ends))
    # Curves leave the narrow panel at its lower edge.
    inside = [
        share
        for curve in sweep.curves
        for share, point in zip(_shares(sweep, curve), curve.points, strict=True)
        if metric.worse_by(point.score, sweep.score) <= zoom
    ]
    if inside:
        right.set_xlim(min(inside) * 0.7, 110)
    right.get_legend().remove()


def _draw_sparsity(figure: Figure, sweep: Sweep) -> None:
    left, right = figure.subplots(1, 2, sharey=True)
    colors = ("#6c757d", _COLORS[0])
    for color, curve in zip(colors, sweep.curves, strict=True):
        _plot(left, sweep, curve, _shares(sweep, curve), color, curve.name)
        _plot(right, sweep, curve, [point.amount for point in curve.points], color, curve.name)
    _finish(left, sweep, "weights left that are not 0, % of all", percent=True)
    _finish(right, sweep, "threshold ξ: smaller entries become 0", logarithmic=False)
    left.set_title(said_in_figure(f"{_asked(sweep)}, no retraining", _TITLE_WIDTH))
    right.set_title("The same against the threshold")
    right.get_legend().remove()
    right.set_ylabel("")


def _plot(
    axes: Axes, sweep: Sweep, curve: SweepCurve, x: list[float], color: str, label: str, *, annotate: bool = False
) -> None:
    y = [_height(sweep, point.score) for point in curve.points]
    ours = curve.predicted is not None
    style: dict[str, Any] = {"lw": 2.0 if ours else 1.5, "zorder": 3 if ours else 2}
    axes.plot(
        x,
        y,
        "-o" if len(x) > 1 else "D",
        color=color,
        ms=4 if len(x) > 1 else 7,
        label=said_in_figure(label, _TITLE_WIDTH),
        **style,
    )
    if curve.predicted is None:
        return
    at = x[curve.points.index(curve.predicted)]
    ring: dict[str, Any] = {"ms": 11, "mfc": "none", "mec": color, "mew": 2, "zorder": 4}
    axes.plot([at], [_height(sweep, curve.predicted.score)], "o", **ring)
    if annotate:
        axes.axvline(at, color=color, ls=":", lw=1.2, zorder=1)


def _finish(axes: Axes, sweep: Sweep, xlabel: str, *, percent: bool = False, logarithmic: bool = True) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    full = _height(sweep, sweep.score)
    label = f"as it is: {sweep.metric.shown(sweep.score)}"
    axes.axhline(full, color=_INK, ls="--", lw=1.2, zorder=1, label=label)
    if logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    if percent:
        axes.set_xlim(right=110)
    unit = "%" if sweep.metric.unit == "share" else sweep.metric.unit
    axes.set(xlabel=xlabel, ylabel=", ".join(filter(None, (sweep.metric.name, unit))))
    axes.legend(loc="best", edgecolor="none", framealpha=0.9)


def _asked(sweep: Sweep) -> str:
    name = sweep.metric.name
    return f"{name[:1].upper()}{name[1:]} on {sweep.samples:,} samples of {sweep.data}"


def _height(sweep: Sweep, score: float) -> float:
    """Where a score stands on the axis: shares in percent."""
    return 100 * score if sweep.metric.unit == "share" else score


def _shares(sweep: Sweep, curve: SweepCurve) -> list[float]:
    return [100 * point.weights / sweep.parameters for point in curve.points]


def _colors(sweep: Sweep) -> list[str]:
    return [_COLORS[index % len(_COLORS)] for index in range(len(sweep.curves))]
