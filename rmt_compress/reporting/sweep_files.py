"""A sweep as CSV, JSON and picture, and as a table for a terminal."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rmt_compress.outputs import check_output, replacing, together
from rmt_compress.reporting.blanks import write_figure
from rmt_compress.reporting.layer_table import Column, LayerTable
from rmt_compress.wording import printable

if TYPE_CHECKING:
    from rich.console import Group

    from rmt_compress.sweep import Sweep, SweepCurve, SweepPoint

SUFFIXES = (".csv", ".json", ".png")
COLUMNS = ("curve", "amount", "weights", "share", "accuracy", "predicted", "ranks")
BUDGET_COLUMNS = ("curve", "measure", "amount", "weights", "macs", "milliseconds", "accuracy", "ranks")
MEASURES = {"keep": "parameters", "macs": "multiply-adds", "latency": "time"}

TITLES = {
    "rank": "Singular values of one layer, the others whole",
    "share": "All layers, by rank rule",
    "sparsity": "All layers, small entries zeroed",
    "budget": "All layers, within budgets",
}


def check_sweep_outputs(stems: Sequence[Path], *, force: bool, inputs: tuple[Path, ...] = ()) -> None:
    """Refuse, before any work is done, what `write_sweep` would overwrite."""
    for stem in stems:
        for suffix in SUFFIXES:
            check_output(_beside(stem, suffix), force=force, inputs=inputs)


def write_sweep(sweep: Sweep, stem: Path) -> list[Path]:
    """Write ``STEM.csv``, ``STEM.json`` and ``STEM.png``, all or none, and return their paths."""
    from rmt_compress.reporting.sweep_plots import sweep_figure

    # The picture first: it is what may be impossible.
    targets = [_beside(stem, suffix) for suffix in SUFFIXES]
    figure = sweep_figure(sweep)
    with together():
        write_figure(figure, targets[2])
        write_sweep_csv(sweep, targets[0])
        with replacing(targets[1]) as path:
            text = json.dumps(sweep.to_json(), indent=2, ensure_ascii=False, allow_nan=False)
            path.write_text(text + "\n", encoding="utf-8")
    return targets


def write_sweep_csv(sweep: Sweep, target: Path) -> None:
    """One row per trial, the network as it was first; ``ranks`` is written as ``fc1=59 fc2=33``."""
    with replacing(target) as path, path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        if sweep.kind == "budget":
            table.writerows(_budget_rows(sweep))
            return
        table.writerow([sweep.metric.name if column == "accuracy" else column for column in COLUMNS])
        table.writerow(["original", "", sweep.parameters, "1", f"{sweep.score:.6g}", "", ""])
        for curve in sweep.curves:
            for point in curve.points:
                ranks = " ".join(f"{name}={rank}" for name, rank in point.ranks.items())
                share = f"{point.weights / sweep.parameters:.6g}"
                score = f"{point.score:.6g}"
                predicted = int(point == curve.predicted)
                table.writerow([curve.name, f"{point.amount:.6g}", point.weights, share, score, predicted, ranks])


def _budget_rows(sweep: Sweep) -> Iterator[list[str]]:
    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.6g}"

    yield [sweep.metric.name if column == "accuracy" else column for column in BUDGET_COLUMNS]
    wholes = [str(sweep.parameters), number(sweep.macs), number(sweep.milliseconds)]
    yield ["original", "", "", *wholes, number(sweep.score), ""]
    for curve in sweep.curves:
        for point in curve.points:
            ranks = " ".join(f"{name}={rank}" for name, rank in point.ranks.items())
            sizes = [str(point.weights), number(point.macs), number(point.milliseconds)]
            yield [curve.name, curve.measure, number(point.amount), *sizes, number(point.score), ranks]


def sweep_table(sweep: Sweep) -> Group:
    """Per curve, what the default would do, and the smallest network within some losses."""
    from rich.console import Group
    from rich.text import Text

    heads, names, rows = sweep_cells(sweep)
    columns = [Column(heads[1], len(heads) - 2), *(Column(head, index) for index, head in enumerate(heads[2:]))]
    table = LayerTable("", names, columns, rows, first=heads[0])
    title, units = sweep_words(sweep)
    return Group(Text(printable(title), style="italic"), table, Text(f" {units}\n", style="dim"))


def sweep_cells(sweep: Sweep) -> tuple[list[str], list[str], list[list[str]]]:
    """The headings of a sweep's table, the curves' names, and each curve's cells."""
    first = {"rank": "layer", "share": "rule", "sparsity": "zeroed", "budget": "directions"}[sweep.kind]
    metric, scale = sweep.metric, sweep.metric.scale(sweep.score)
    rows = []
    for curve in sweep.curves:
        smallest = [curve.smallest_within(loss * scale, sweep.score, metric) for loss, _ in metric.losses]
        predicted = curve.predicted
        cell = f"{_size(sweep, curve, predicted)} → {metric.shown(predicted.score)}" if predicted else "–"
        rows.append([cell, *(_size(sweep, curve, point) if point else "–" for point in smallest)])
    names = [
        f"{curve.name}, {MEASURES[curve.measure]}" if sweep.kind == "budget" else curve.name
        for curve in sweep.curves
    ]
    return [first, "predicted", *(f"within {words}" for _, words in metric.losses)], names, rows


def sweep_words(sweep: Sweep) -> tuple[str, str]:
    """What a sweep's table is of, and what its cells are."""
    as_it_is = f"{sweep.metric.called(sweep.score)} as it is"
    shrunk = f"; what is kept shrunk ({sweep.shrink})" if sweep.shrink != "none" else ""
    title = f"{TITLES[sweep.kind]}{shrunk} ({as_it_is}, {sweep.samples:,} samples of {sweep.data})"
    units = {
        "rank": "Singular values kept; predicted: the spikes.",
        "budget": f"Share that is left of what is named; predicted: the spikes alone. {_timed(sweep)}".rstrip(),
    }.get(
        sweep.kind, "Share of all parameters that are left and not 0; predicted: the spikes alone, nothing zeroed."
    )
    return title, units


def _timed(sweep: Sweep) -> str:
    return f"Times: {sweep.timed}." if sweep.timed else ""


def _size(sweep: Sweep, curve: SweepCurve, point: SweepPoint) -> str:
    if sweep.kind == "rank":
        return f"{point.amount:g}"
    share = sweep.share(point, curve.measure)
    return "–" if share is None else f"{share:.1%}"


def _beside(stem: Path, suffix: str) -> Path:
    return stem.with_name(stem.name + suffix)
