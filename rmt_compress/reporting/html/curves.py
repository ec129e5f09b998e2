"""Scores against sizes, as charts of a page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rmt_compress.planning.rules import RULES
from rmt_compress.reporting.html.page_parts import Axis, Chart, Point, Series
from rmt_compress.wording import printable

if TYPE_CHECKING:
    from rmt_compress.networks.tasks.task import Metric
    from rmt_compress.sweep import Sweep, SweepCurve, SweepPoint
    from rmt_compress.sweep.results import Measure

MEASURES: dict[Measure, tuple[str, str]] = {
    "keep": ("parameters", "parameters left"),
    "macs": ("multiply-adds", "multiply-adds left"),
    "latency": ("milliseconds", "milliseconds of a forward pass"),
}
"""What is measured, and what stands at an axis of it."""
_DIRECTIONS = {
    "two-sided": "two-sided: by inputs and gradients",
    "input": "input: weighted with inputs",
    "plain": "plain: singular values",
    "edge": "what the edge keeps",
}


def sweep_charts(sweep: Sweep) -> tuple[Chart, ...]:
    """The curves of a sweep; of one within budgets a chart for every measure."""
    if sweep.kind == "budget":
        measures = dict.fromkeys(curve.measure for curve in sweep.curves)
        return tuple(_budget_chart(sweep, measure) for measure in measures)
    if sweep.kind == "rank":
        x = Axis("singular values kept (the largest)", logarithmic=True)
        return (
            _chart(sweep, "by layer, the others whole", x, [point_of_rank(sweep, each) for each in sweep.curves]),
        )
    if sweep.kind == "share":
        x = Axis("share of the weights left", logarithmic=True, format="~%")
        return (_chart(sweep, "by rank rule", x, [_by_share(sweep, each) for each in sweep.curves]),)
    x = Axis("share of the weights left that are not 0", logarithmic=True, format="~%")
    return (_chart(sweep, "with small entries set to 0", x, [_by_share(sweep, each) for each in sweep.curves]),)


def height(metric: Metric) -> Axis:
    """The axis of a score."""
    unit = f", {metric.unit}" if metric.unit not in ("", "share") else ""
    return Axis(f"{metric.name}{unit}", format=".1%" if metric.unit == "share" else "")


def point_of_rank(sweep: Sweep, curve: SweepCurve) -> Series:
    """One layer's curve of a sweep over its rank."""
    return Series(printable(curve.name), tuple(_point(sweep, each, each.amount, "rank") for each in curve.points))


def _by_share(sweep: Sweep, curve: SweepCurve) -> Series:
    name = RULES[curve.name].caption if curve.name in RULES else curve.name
    points = (_point(sweep, each, each.weights / sweep.parameters, "number") for each in curve.points)
    return Series(printable(name), tuple(points))


def _point(sweep: Sweep, point: SweepPoint, x: float, amount: str) -> Point:
    left = f"{point.weights / sweep.parameters:.1%} of the weights"
    return Point(x, point.score, f"{sweep.metric.shown(point.score)}, {left}, {amount} {point.amount:.3g}")


def _chart(sweep: Sweep, how: str, x: Axis, series: list[Series]) -> Chart:
    chosen = [
        drawn.points[curve.points.index(curve.predicted)]
        for curve, drawn in zip(sweep.curves, series, strict=True)
        if curve.predicted is not None
    ]
    return _described(sweep, how, x, series, chosen)


def _budget_chart(sweep: Sweep, measure: Measure) -> Chart:
    short, title = MEASURES[measure]
    curves = [curve for curve in sweep.curves if curve.measure == measure]
    scale = 1.0 if measure == "latency" else {"keep": sweep.parameters, "macs": sweep.macs}[measure] or 1.0
    series = []
    chosen = []
    for curve in curves:
        points = [
            Point(
                size / scale,
                point.score,
                f"{sweep.metric.shown(point.score)}, "
                + (f"{size:.3g} ms" if measure == "latency" else f"{size / scale:.1%} of the {short}"),
            )
            for point in curve.points
            if (size := point.size(measure)) is not None
        ]
        series.append(Series(_DIRECTIONS.get(curve.name, printable(curve.name)), tuple(points)))
        if curve.predicted is not None:
            chosen += points[:1]
    x = Axis(title, zero=True) if measure == "latency" else Axis(f"share of the {title}", True, format="~%")
    return _described(sweep, f"against {short}", x, series, chosen)


def _described(sweep: Sweep, how: str, x: Axis, series: list[Series], chosen: list[Point]) -> Chart:
    metric = sweep.metric
    asked = f"{sweep.samples:,} samples of {printable(sweep.data)}"
    lines = "; ".join(
        f"{each.name}: {metric.shown(each.points[0].y)} at {each.points[0].x:.3g} to "
        f"{metric.shown(each.points[-1].y)} at {each.points[-1].x:.3g}"
        for each in series[:6]
        if each.points
    )
    return Chart(
        title=f"{metric.name[:1].upper()}{metric.name[1:]} {how}, on {asked}, nothing retrained",
        description=f"The score {how}. The network as it is: {metric.shown(sweep.score)}. {lines}.",
        x=x,
        y=height(metric),
        series=tuple(series),
        chosen=tuple(chosen),
        levels=((sweep.score, f"as it is: {metric.shown(sweep.score)}"),),
    )
