"""Pictures of sweeps: accuracy against singular values kept, weights left, thresholds, budgets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rmt_compress.planning.rules import RULES
from rmt_compress.reporting.blanks import blank_figure, said_in_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from rmt_compress.sweep import Sweep, SweepCurve, SweepPoint

_INK = "#1d3557"
# The first colour is for what this project proposes.
_COLORS = ("#c8553d", "#457b9d", "#8a9a5b", "#8d6a9f", "#d4a24c", "#6c757d")
_METRICS = {
    "two-sided": (_COLORS[0], "two-sided: inputs and gradients"),
    "input": (_COLORS[1], "input: weighted with inputs"),
    "plain": (_COLORS[2], "plain: singular values"),
    "edge": (_INK, "the edge's own"),
}
_TITLE_WIDTH = 56
"""Characters of a title that fit above a panel."""


def sweep_figure(sweep: Sweep) -> Figure:
    """One to three panels, the full accuracy as a dashed line, the predicted point as a ringed dot."""
    figure = blank_figure(
        {"rank": 7.2, "budget": _budget_width(sweep)}.get(sweep.kind, 11.4), 4.6, "a picture of a sweep"
    )
    draw = {"rank": _draw_ranks, "share": _draw_shares, "sparsity": _draw_sparsity, "budget": _draw_budgets}
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


def _budget_width(sweep: Sweep) -> float:
    return (7.2, 11.4, 14.4)[len({curve.measure for curve in sweep.curves}) - 1]


def _draw_budgets(figure: Figure, sweep: Sweep) -> None:
    """A panel for each measure, of its own curves; the edge's own network is a diamond in each.

    The panel of time has an axis of its own: what can be fast is seldom so small that all its answers are wrong.
    """
    measures = list(dict.fromkeys(curve.measure for curve in sweep.curves))
    panels = figure.subplots(1, len(measures), squeeze=False)[0].tolist()
    for axes, measure in zip(panels, measures, strict=True):
        for curve in sweep.curves:
            if curve.measure == measure:
                _plot_budget(axes, sweep, curve)
        _finish_budget(axes, sweep, measure)
    counted = [axes for axes, measure in zip(panels, measures, strict=True) if measure != "latency"]
    for axes in counted[1:]:
        axes.sharey(counted[0])
    panels[0].set_ylabel(_score_label(sweep))
    panels[0].legend(loc="lower right", edgecolor="none", framealpha=0.9)
    figure.suptitle(said_in_figure(f"{_asked(sweep)}, cut within budgets, no retraining", 2 * _TITLE_WIDTH))


def _plot_budget(axes: Axes, sweep: Sweep, curve: SweepCurve) -> None:
    x = [_budget_place(sweep, curve, point) for point in curve.points]
    y = [_height(sweep, point.score) for point in curve.points]
    color, label = _METRICS.get(curve.name, (_INK, curve.name))
    if len(x) > 1:
        # The network as it is belongs to every curve.
        whole = sweep.milliseconds if curve.measure == "latency" else 100.0
        ends = [*x, whole or 0.0]
        heights = [*y, _height(sweep, sweep.score)]
        # What this project proposes lies above the rest.
        above = 3 - 0.1 * list(_METRICS).index(curve.name) if curve.name in _METRICS else 2.0
        style: dict[str, Any] = {"color": color, "lw": 1.8, "ms": 6, "mec": "white", "mew": 0.8, "zorder": above}
        axes.plot(ends, heights, "-o", markevery=range(len(x)), label=label, **style)
        return
    axes.plot(x, y, "D", color=color, ms=8, mec="white", mew=1.2, zorder=5, label=label, ls="none")


def _budget_place(sweep: Sweep, curve: SweepCurve, point: SweepPoint) -> float:
    """Where a point stands: time in milliseconds, all else in percent of the network as it was."""
    if curve.measure == "latency":
        return point.milliseconds or 0.0
    return 100 * (sweep.share(point, curve.measure) or 0.0)


def _finish_budget(axes: Axes, sweep: Sweep, measure: str) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.axhline(
        _height(sweep, sweep.score),
        color=_INK,
        ls="--",
        lw=1.2,
        zorder=1,
        label=f"as it is: {sweep.metric.shown(sweep.score)}",
    )
    titles = {"keep": "Size", "macs": "Multiply-adds", "latency": "Time"}
    axes.set_title(titles[measure])
    if measure == "latency":
        axes.axvline(sweep.milliseconds or 0.0, color=_INK, ls=":", lw=1.0, zorder=1)
        axes.set_xlabel(said_in_figure(f"milliseconds\n{sweep.timed}", _TITLE_WIDTH))
        axes.set_xlim(left=0)
        return
    whole, unit = (sweep.parameters, "parameters") if measure == "keep" else (sweep.macs or 0.0, "multiply-adds")
    axes.set_xlabel(f"{unit} left\n% of {_rounded(whole)}")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(right=115)


def _rounded(count: float) -> str:
    """``1.33 million``."""
    for size, name in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if count >= size:
            return f"{count / size:.3g} {name}"
    return f"{count:,.0f}"


def _score_label(sweep: Sweep) -> str:
    unit = "%" if sweep.metric.unit == "share" else sweep.metric.unit
    return ", ".join(filter(None, (sweep.metric.name, unit)))


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
    axes.set(xlabel=xlabel, ylabel=_score_label(sweep))
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
