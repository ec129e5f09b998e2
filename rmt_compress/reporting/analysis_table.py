"""An analysis as a table for a terminal and as CSV."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rmt_compress.reporting.blanks import blank_table
from rmt_compress.wording import printable, times

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table

    from rmt_compress.analysis import Analysis, AnalyzedLayer, LayerAnalysis

VERDICT_STYLES = {"noise": "green", "mixed": "yellow", "structured": "red"}

Sort = Literal["order", "name", "gof", "spikes", "energy", "size", "saving"]

_SORT_KEYS: dict[Sort, Callable[[AnalyzedLayer], Any]] = {
    "name": lambda layer: layer.name,
    "gof": lambda layer: layer.fit.gof,
    "spikes": lambda layer: -layer.fit.spikes,
    "energy": lambda layer: -layer.bulk_energy,
    "size": lambda layer: -layer.parameters,
    "saving": lambda layer: layer.parameters_after - layer.parameters,
}


def analysis_table(analysis: Analysis, *, sort: Sort = "order") -> Group:
    """The table of layers, why others were skipped, and the totals.

    Args:
        analysis: what to show.
        sort: ``order`` (as in the checkpoint), ``name``, ``gof`` (best fit first), ``spikes`` (most first),
            ``energy`` (largest bulk share first), ``size`` or ``saving`` (largest first).
    """
    from rich.console import Group

    layers = list(analysis.analyzed)
    if sort != "order":
        layers.sort(key=_SORT_KEYS[sort])
    parts: list[RenderableType] = []
    if layers:
        parts.append(_layer_table(layers, title=f"{analysis.path or 'model'} ({analysis.format})"))
    if analysis.factorized:
        parts.append(_factor_table(analysis))
    parts.extend(_skipped_lines(analysis))
    parts.append(_footer(analysis))
    return Group(*parts)


def write_csv(analysis: Analysis, target: Path) -> None:
    """One row per layer with the keys of `analyze --json`; lists are written as 784x1000.

    Raises:
        OutputError: the file cannot be written.
    """
    import csv

    from rmt_compress.outputs import replacing

    rows = [layer.to_json() for layer in analysis.layers]
    with replacing(target) as path, path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, fieldnames=list(rows[0]) if rows else ["name"], lineterminator="\n")
        table.writeheader()
        table.writerows({key: _csv_value(value) for key, value in row.items()} for row in rows)


def _csv_value(value: object) -> object:
    if isinstance(value, list):
        if value and isinstance(value[0], dict):
            return len(value)
        separator = " " if value and isinstance(value[0], str) else "x"
        return separator.join(map(str, value))
    return value


def _layer_table(layers: list[AnalyzedLayer], *, title: str) -> Table:
    from rich.text import Text

    table = blank_table(title)
    # Rich takes room from the columns that may wrap: names give way to the numbers.
    table.add_column("layer", max_width=28)
    for heading in ("matrix", "σ̂²", "edge s₊", "fit error", "(noise)", "spikes", "bulk\nenergy"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("left if\ncut", justify="right", no_wrap=True)
    for layer in layers:
        fit, verdict = layer.fit, layer.verdict
        table.add_row(
            Text(_names(layer), no_wrap=True, overflow="ellipsis"),
            times(layer.layer.shape if len(layer.matrices) > 1 else layer.matrix),
            f"{fit.sigma2:.3g}",
            f"{fit.edge:.3g}",
            Text(f"{fit.gof:.3f}", style="" if layer.fits else "red"),
            Text(f"{layer.gof_null:.3f}", style="dim"),
            f"{layer.spikes_shown}/{fit.p}",
            f"{layer.bulk_energy:.0%}",
            Text(verdict, style=VERDICT_STYLES[verdict]),
            f"{layer.parameters_after / layer.parameters:.0%}",
        )
    return table


def _factor_table(analysis: Analysis) -> Table:
    from rich.text import Text

    table = blank_table("already factorized")
    table.add_column("layer", overflow="ellipsis", no_wrap=True, max_width=56)
    for heading in ("matrix", "rank", "effective rank", "largest s", "smallest s"):
        table.add_column(heading, justify="right", no_wrap=True)
    for layer in analysis.factorized:
        values = layer.singular_values
        table.add_row(
            Text(_names(layer)),
            times(layer.matrix),
            f"{len(values)}",
            f"{layer.effective_rank:.3g}",
            f"{values[0]:.3g}",
            f"{values[-1]:.3g}",
        )
    return table


def _names(layer: LayerAnalysis) -> str:
    return printable(" = ".join((layer.name, *layer.layer.aliases)))


def _skipped_lines(analysis: Analysis) -> list[RenderableType]:
    from rich.text import Text

    from rmt_compress.analysis.records import AnalyzedPair

    groups: dict[str, list[str]] = {}
    seconds = {layer.pair.second for layer in analysis.factorized}
    for layer in analysis.skipped:
        if isinstance(layer, AnalyzedPair) or layer.tensor in seconds:
            continue
        # Biases and norms would fill the screen; they are named when there is nothing else to say.
        if layer.kind != "vector" or not analysis.analyzed:
            groups.setdefault(layer.reason, []).append(_names(layer))
    every = not analysis.analyzed
    lines: list[RenderableType] = []
    for reason, names in groups.items():
        shown = names if every or len(names) <= 6 else [*names[:5], f"and {len(names) - 5} more"]
        lines.append(Text.assemble((" skipped ", "dim"), ", ".join(shown), (f": {reason}", "dim")))
    return lines


def _footer(analysis: Analysis) -> RenderableType:
    from rich.text import Text

    before, after = analysis.parameters, analysis.parameters_after
    vectors = [layer for layer in analysis.skipped if layer.kind == "vector"]
    matrices = len(analysis.skipped) - len(vectors) - 2 * len(analysis.factorized)
    analyzed = "1 layer" if len(analysis.analyzed) == 1 else f"{len(analysis.analyzed)} layers"
    others = "1 bias or other vector" if len(vectors) == 1 else f"{len(vectors)} biases and other vectors"
    counts = f"\n {analyzed} analysed, {matrices} skipped, {others}"
    if analysis.factorized:
        counts += f", {len(analysis.factorized)} factorized already"
    if not analysis.analyzed:
        return Text(counts)
    fitting = sum(layer.fits for layer in analysis.analyzed)
    share = f"{after / before:.1%}" if before else "100 %"
    return Text.assemble(
        counts,
        f"; {fitting} {'fits' if fitting == 1 else 'fit'} Marchenko–Pastur at --gof {analysis.settings.gof:g}.\n",
        f" Cutting those to their spikes leaves {after:,} of {before:,} parameters (",
        (share, "bold"),
        ").",
    )
