"""What a search within a budget tried, and what other budgets would give, for a page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from rmt_compress.planning.costs import MultiplyAdds, Parameters, Seconds
from rmt_compress.planning.price_record import curve_of_record
from rmt_compress.reporting.html.page_parts import Axis, Chart, Grid, GridCell, Point, Series

if TYPE_CHECKING:
    from rmt_compress.plan import Plan
    from rmt_compress.sweep.results import Measure

_SIZES: dict[Measure, str] = {"keep": "parameters", "macs": "multiply-adds", "latency": "time"}
_MEASURES: dict[str, Measure] = {Parameters.unit: "keep", MultiplyAdds.unit: "macs", Seconds.unit: "latency"}
_UNCUT = "uncut"
_PRICES = 40
# Sizes nearer to one another than this are one.
_ONE_SIZE = 0.02


def tried_networks(budget: Mapping[str, Any] | None) -> Chart | Grid | None:
    """The networks that were scored on the way to a plan, with the one that was chosen.

    A table where all have one size, a chart of the score against the size where they do not, and None where at most
    one was tried.
    """
    budget = budget or {}
    tried = [each for each in budget.get("tried", ()) if each["score"] is not None]
    cut = [each for each in tried if each["rule"] != _UNCUT]
    if len(cut) < 2:
        return None
    asked = budget["asked"]
    measure: Measure = next((name for name in _SIZES if name in asked), "keep")
    answer = budget["reached"][measure], budget.get("score"), budget.get("rule")
    chosen = next(
        (each for each in cut if (each[measure], each["score"], answer[2] and each["rule"]) == answer), None
    )
    sizes = [each[measure] for each in cut]
    if max(sizes) - min(sizes) < _ONE_SIZE * max(sizes):
        return _by_rule(cut, chosen, measure)
    return _against_size(cut, chosen, next((each for each in tried if each["rule"] == _UNCUT), None), measure)


def _by_rule(cut: list[dict[str, Any]], chosen: dict[str, Any] | None, measure: Measure) -> Grid:
    rows = [
        (
            GridCell(each["rule"]),
            GridCell(f"{each[measure]:.1%}"),
            GridCell(f"{each['score']:.4f}"),
            GridCell("chosen", "good") if each is chosen else GridCell(""),
        )
        for each in sorted(cut, key=lambda each: -each["score"])
    ]
    return Grid(
        ("rule", f"{_SIZES[measure]} left", "score", ""),
        tuple(rows),
        "Rules that were tried at this size, by the score on the samples that choose; higher is better",
    )


def _against_size(
    cut: list[dict[str, Any]], chosen: dict[str, Any] | None, whole: dict[str, Any] | None, measure: Measure
) -> Chart:
    title = _SIZES[measure]

    def point(each: dict[str, Any]) -> Point:
        said = f"{each['rule']}: {each[measure]:.1%} of the {title} left, score {each['score']:.4f}"
        return Point(each[measure], each["score"], said)

    rules = dict.fromkeys(each["rule"] for each in cut)
    least = min(cut, key=lambda each: each[measure])
    ringed = "" if chosen is None else f" The one that was chosen, ringed: {point(chosen).said}."
    return Chart(
        title=f"Networks that were tried: score on the samples that choose, against {title}",
        description=f"{len(cut)} cut networks of {len(rules)} rules. The smallest: {point(least).said}.{ringed}",
        x=Axis(f"share of the {title} left", format="~%"),
        y=Axis("score, higher is better"),
        series=tuple(Series(rule, tuple(point(each) for each in cut if each["rule"] == rule)) for rule in rules),
        joined=False,
        chosen=() if chosen is None else (point(chosen),),
        levels=() if whole is None else ((whole["score"], f"as it is: {whole['score']:.4f}"),),
    )


def price_chart(plan: Plan) -> Chart | None:
    """The rise of the loss that other sizes are expected to bring, from the plan's curve of prices.

    None where the plan has none, and where its directions are not those whose loss can be foretold.
    """
    if plan.curve is None or plan.basis != "two-sided":
        return None
    curve, whole, fixed = curve_of_record(plan.curve)
    points = []
    for share in np.geomspace(max((fixed + curve.least) / whole, 1e-6), 1.0, _PRICES):
        found = curve.at_cost(share * whole - fixed)
        left = (fixed + found.cost) / whole
        if found.loss > 0:
            points.append(Point(left, found.loss, f"{left:.1%} left, the loss {found.loss:.4g} higher"))
    unit = plan.curve["unit"]
    reached = plan.settings.get("budget", {}).get("reached", {}).get(_MEASURES.get(unit))
    if not points:
        return None
    chosen = [] if reached is None else [min(points, key=lambda point: abs(point.x - reached))]
    return Chart(
        title=f"What other sizes are expected to cost: rise of the loss against {unit}, predicted and not measured",
        description=f"Predicted rise of the loss: {points[0].said}; {points[len(points) // 2].said}.",
        x=Axis(f"share of the {unit} left", format="~%"),
        y=Axis("predicted rise of the loss", logarithmic=True),
        series=(Series("predicted", tuple(points)),),
        chosen=tuple(chosen),
    )
