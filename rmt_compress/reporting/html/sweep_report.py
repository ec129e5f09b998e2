"""The page of `sweep`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rmt_compress.reporting.evaluation_table import called
from rmt_compress.reporting.html.curves import sweep_charts
from rmt_compress.reporting.html.page import Page
from rmt_compress.reporting.html.page_parts import Badge, Fact, Grid, GridCell
from rmt_compress.reporting.sweep_files import MEASURES, sweep_cells, sweep_words
from rmt_compress.wording import printable

if TYPE_CHECKING:
    from rmt_compress.sweep import Sweep


def sweep_page(sweeps: Sequence[Sweep]) -> Page:
    """The curves of one network, and the smallest network of each within some losses."""
    first = sweeps[0]
    metric = first.metric
    return Page(
        title=printable(called(Path(first.path)) if first.path else "model"),
        badge=Badge("measured: every point is a network that was run", "good"),
        headline=_headline(sweeps),
        facts=(
            Fact(
                f"{metric.name}, as it is", metric.shown(first.score), f"{first.samples:,} samples of {first.data}"
            ),
            Fact("parameters", f"{first.parameters:,}"),
        ),
        remarks=(
            "Nothing was retrained. What is picked from these curves was picked by these samples: on others it may "
            "do worse. Ringed is what the default would choose.",
        ),
        charts=tuple(chart for sweep in sweeps for chart in sweep_charts(sweep)),
        grids=tuple(_grid(sweep) for sweep in sweeps),
    )


def _headline(sweeps: Sequence[Sweep]) -> str:
    """The smallest network that loses next to nothing, of all that were tried."""
    first = sweeps[0]
    metric = first.metric
    loss, words = metric.losses[0]
    allowed = loss * metric.scale(first.score)
    found: dict[str, tuple[float, str]] = {}
    for sweep in sweeps:
        for curve in sweep.curves:
            point = curve.smallest_within(allowed, sweep.score, metric)
            share = None if point is None else sweep.share(point, curve.measure)
            if share is not None:
                best = found.get(curve.measure)
                found[curve.measure] = min(best or (share, curve.name), (share, curve.name))
    as_it_is = f"{metric.name[:1].upper()}{metric.name[1:]} {metric.shown(first.score)} as it is"
    asked = f"on {first.samples:,} samples of {first.data}"
    if not found:
        return f"{as_it_is}, {asked}. No network that was tried stays within {words}."
    said = "; ".join(
        f"{share:.1%} of the {MEASURES[measure]} ({printable(name)})" for measure, (share, name) in found.items()
    )
    return f"{as_it_is}, {asked}. Within {words}, the smallest network that was tried keeps {said}."


def _grid(sweep: Sweep) -> Grid:
    heads, names, rows = sweep_cells(sweep)
    title, units = sweep_words(sweep)
    return Grid(
        tuple(heads),
        tuple((GridCell(printable(name)), *map(GridCell, row)) for name, row in zip(names, rows, strict=True)),
        f"{printable(title)}. {units}",
    )
