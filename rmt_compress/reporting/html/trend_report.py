"""The page of `analyze` of several states of one network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rmt_compress.analysis.trend import QUANTITIES
from rmt_compress.reporting.analysis_table import VERDICT_STYLES
from rmt_compress.reporting.html.analysis_report import skipped_rows
from rmt_compress.reporting.html.layer_facts import facts_of, pictured, sentences_of, share
from rmt_compress.reporting.html.layer_list import Cell, Column, LayerList, LayerRow
from rmt_compress.reporting.html.page import Page
from rmt_compress.reporting.html.page_parts import Axis, Badge, Chart, Fact, Point, Series, styled
from rmt_compress.reporting.layer_names import network_order
from rmt_compress.reporting.trend_plots import PANELS, changed_most, course, places_of
from rmt_compress.reporting.trend_table import from_to, missing_by_reason, trend_summary
from rmt_compress.wording import counted, listed, printable, times

if TYPE_CHECKING:
    from rmt_compress.analysis.trend import LayerTrend, Trend

_COLUMNS = (
    Column("matrix", "rows × columns of the weight", room="desk"),
    Column("spectrum", "of the last state; opens with the layer", numeric=False, sorts=False, room="phone"),
    Column("spikes", "directions above the edge, in the first and in the last state"),
    Column("edge s₊", "where the noise ends, in the first and in the last state", room="desk"),
    Column("bulk energy", "share of the squared weights below the edge"),
    Column("fit error", "distance to the law of noise"),
    Column("verdict", "of the last state", numeric=False, room="phone"),
)
_SAID = {
    "spikes": "spikes",
    "edge": "edge s₊",
    "bulk_energy": "bulk energy",
    "gof": "fit error",
    "sigma2": "noise variance σ̂²",
    "spectral_norm": "largest singular value",
}
_DRAWN = 6
"""Layers whose courses are drawn: as many as can be told apart by colour, dashes and mark."""
_NAMED = 6
"""States that the axis can name."""


def trend_page(trend: Trend) -> Page:
    """What training did to each layer: the first and the last state in a row, the courses between them above."""
    first, last = trend.analyses[0], trend.analyses[-1]
    layers = [trend.layers[i] for i in network_order([layer.name for layer in trend.layers])]
    return Page(
        title=printable(f"{trend.names[0]} → {trend.names[-1]}"),
        badge=Badge("unverified: nothing was run", "care"),
        headline=_headline(trend),
        facts=(
            Fact("states", f"{len(trend.names)}", printable(listed(trend.names, 4))),
            Fact("parameters", f"{last.parameters:,}"),
            Fact(
                "left if cut to spikes",
                share(last.parameters_after, last.parameters),
                f"was {share(first.parameters_after, first.parameters)} in the first state",
            ),
        ),
        remarks=trend_summary(trend),
        charts=tuple(_chart(trend, layers, quantity, caption) for quantity, caption in PANELS),
        layers=LayerList.of(
            [_row(trend, layer) for layer in layers],
            _COLUMNS,
            caption=f"{counted(len(layers), 'layer')} that {counted(len(trend.names), 'state')} share",
            choice="Verdict",
            skipped=skipped_rows(missing_by_reason(trend)),
        ),
    )


def _headline(trend: Trend) -> str:
    spikes = [sum(layer.states[place].fit.spikes for layer in trend.layers) for place in (0, -1)]
    fits = [sum(layer.states[place].fits for layer in trend.layers) for place in (0, -1)]
    layers = counted(len(trend.layers), "layer")
    if spikes[1] > spikes[0]:
        what = f"{spikes[1] - spikes[0]:,} more directions stick out of the noise"
    elif spikes[1] < spikes[0]:
        what = f"{spikes[0] - spikes[1]:,} fewer directions stick out of the noise"
    else:
        what = "As many directions stick out of the noise"
    ends = f"{printable(trend.names[-1])} than in {printable(trend.names[0])}"
    if spikes[1] == spikes[0]:
        ends = f"{printable(trend.names[-1])} as in {printable(trend.names[0])}"
    return (
        f"{what} in {ends}: {spikes[0]:,} → {spikes[1]:,} in {layers}. "
        f"{fits[0]} → {fits[1]} of them look like noise, with or without learned spikes."
    )


def _chart(trend: Trend, layers: Sequence[LayerTrend], quantity: str, caption: str) -> Chart:
    places, unit = places_of(trend.names)
    drawn = [layers[place] for place in changed_most(layers, _DRAWN)]
    series = tuple(
        Series(
            printable(layer.name),
            tuple(
                Point(place, value, f"{printable(name)}: {value:.4g}")
                for place, value, name in zip(places, course(layer, quantity), trend.names, strict=True)
            ),
        )
        for layer in drawn
    )
    which = f", the {len(drawn)} layers that changed most" if len(drawn) < len(layers) else ""
    if unit is None:
        named = trend.names if len(trend.names) <= _NAMED else (trend.names[0], "…", trend.names[-1])
        unit = f"state: {', '.join(map(printable, named))}"
    said = "; ".join(f"{each.name} {each.points[0].y:.3g} to {each.points[-1].y:.3g}" for each in series)
    gof = trend.analyses[0].settings.gof
    return Chart(
        title=f"{caption[:1].upper()}{caption[1:]}{which}",
        description=f"{caption} over the states, first to last: {said}.",
        x=Axis(printable(unit), whole=True),
        y=Axis(caption, zero=quantity in ("spikes", "gof")),
        series=series,
        levels=((gof, f"--gof {gof:g}"),) if quantity == "gof" else (),
    )


def _row(trend: Trend, layer: LayerTrend) -> LayerRow:
    first, last = layer.states[0], layer.states[-1]
    small, drawn, alt = pictured(last)
    names = [printable(name) for name in (trend.names[0], trend.names[-1])]
    became = f"{first.verdict[:1].upper()}{first.verdict[1:]} in {names[0]}, {last.verdict} in {names[1]}."
    if first.verdict == last.verdict:
        became = f"{last.verdict[:1].upper()}{last.verdict[1:]} in both {names[0]} and {names[1]}."
    courses = tuple(
        Fact(f"{_SAID[quantity]}, state by state", ", ".join(f"{value:.4g}" for value in values))
        for quantity in QUANTITIES
        if len(set(values := layer.series(quantity))) > 1
    )
    return LayerRow(
        name=printable(layer.name),
        shape=last.layer.shape,
        word=last.verdict,
        cells=(
            Cell(times(last.matrix), last.parameters),
            Cell("", picture=small),
            Cell(from_to([f"{spikes:.0f}" for spikes in layer.series("spikes")]), last.fit.spikes),
            Cell(from_to([f"{edge:.3g}" for edge in layer.series("edge")]), last.fit.edge),
            Cell(from_to([f"{energy:.0%}" for energy in layer.series("bulk_energy")]), last.bulk_energy),
            Cell(from_to([f"{error:.3f}" for error in layer.series("gof")]), last.fit.gof),
            Cell(last.verdict, last.verdict, styled(VERDICT_STYLES[last.verdict])),
        ),
        sentences=(f"{became} What follows is of {names[1]}.", *sentences_of(last)),
        facts=(*courses, *facts_of(last)),
        picture=drawn,
        alt=alt,
    )
