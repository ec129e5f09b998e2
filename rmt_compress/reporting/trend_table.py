"""Several states of one network as a table for a terminal and as CSV."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rmt_compress.reporting.analysis_table import VERDICT_STYLES, skipped_line
from rmt_compress.reporting.layer_names import network_order
from rmt_compress.reporting.layer_table import Column, LayerTable
from rmt_compress.wording import counted, printable, times

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.text import Text

    from rmt_compress.analysis.trend import LayerTrend, Trend

_STEPS = "▁▂▃▄▅▆▇█"
# More states than a row has room for are drawn at so many, evenly spread.
_DRAWN = 24


def trend_table(trend: Trend) -> Group:
    """A row for each layer: the first and the last state, and the course of the spikes between them."""
    from rich.console import Group
    from rich.text import Text

    layers = [trend.layers[i] for i in network_order([layer.name for layer in trend.layers])]
    between = len(trend.names) > 2
    columns = [
        Column("matrix", 1),
        Column("spikes", 8),
        *([Column("their\ncourse", 6, right=False)] if between else []),
        Column("edge s₊", 3, plain="edge s+"),
        Column("bulk energy", 7),
        Column("fit error", 5),
        Column("verdict", 4, right=False),
    ]
    rows: list[list[Text | str]] = []
    for layer in layers:
        row: list[Text | str] = [times(layer.states[0].matrix)]
        row.append(f"{from_to([f'{spikes:.0f}' for spikes in layer.series('spikes')])}/{layer.states[0].fit.p}")
        if between:
            row.append(_course(layer.series("spikes")))
        row.append(from_to([f"{edge:.3g}" for edge in layer.series("edge")]))
        row.append(from_to([f"{share:.0%}" for share in layer.series("bulk_energy")]))
        row.append(from_to([f"{error:.3f}" for error in layer.series("gof")]))
        row.append(_verdicts(layer))
        rows.append(row)
    first, last = trend.names[0], trend.names[-1]
    title = f"{first} → {last}" + (f", {counted(len(trend.names), 'state')}" if between else "")
    table = LayerTable(title, [printable(layer.name) for layer in layers], columns, rows)
    groups = missing_by_reason(trend)
    skipped: list[RenderableType] = [skipped_line(reason, names) for reason, names in groups.items()]
    said = Text("\n".join(f" {line}" for line in trend_summary(trend)))
    return Group(table, *skipped, *([""] if skipped else []), said)


def write_trend_csv(trend: Trend, target: Path) -> None:
    """One row per layer and state.

    Raises:
        OutputError: the file cannot be written.
    """
    import csv

    from rmt_compress.analysis.trend import QUANTITIES
    from rmt_compress.outputs import replacing

    with replacing(target) as path, path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["name", "tensor", "matrix", "place", "state", *QUANTITIES, "verdict"])
        for layer in trend.layers:
            for place, (name, state) in enumerate(zip(trend.names, layer.states, strict=True)):
                numbers = [measure(state) for measure in QUANTITIES.values()]
                shape = "x".join(map(str, state.matrix))
                table.writerow([layer.name, state.tensor, shape, place, name, *numbers, state.verdict])


def from_to(values: Sequence[str]) -> str:
    """The first and the last; one of them where nothing changed on the way."""
    return values[0] if len(set(values)) == 1 else f"{values[0]} → {values[-1]}"


def _course(values: Sequence[float]) -> str:
    """A line of blocks, from the least of these values to the largest."""
    if len(values) > _DRAWN:
        last = len(values) - 1
        values = [values[round(i * last / (_DRAWN - 1))] for i in range(_DRAWN)]
    low, high = min(values), max(values)
    if low == high:
        return _STEPS[0] * len(values)
    return "".join(_STEPS[round((value - low) / (high - low) * (len(_STEPS) - 1))] for value in values)


def _verdicts(layer: LayerTrend) -> Text:
    from rich.text import Text

    first, last = layer.states[0].verdict, layer.states[-1].verdict
    if first == last:
        return Text(last, style=VERDICT_STYLES[last])
    return Text.assemble((first, VERDICT_STYLES[first]), " → ", (last, VERDICT_STYLES[last]))


def missing_by_reason(trend: Trend) -> dict[str, list[str]]:
    """Why layers are not in every state -> their names."""
    groups: dict[str, list[str]] = {}
    for name, reason in trend.missing.items():
        groups.setdefault(reason, []).append(printable(name))
    return groups


def trend_summary(trend: Trend) -> tuple[str, ...]:
    """What the states say together, a sentence each."""
    first, last = ([layer.states[place] for layer in trend.layers] for place in (0, -1))
    gained = sum(b.fit.spikes > a.fit.spikes for a, b in zip(first, last, strict=True))
    lost = sum(b.fit.spikes < a.fit.spikes for a, b in zip(first, last, strict=True))
    spikes = [sum(layer.fit.spikes for layer in layers) for layers in (first, last)]
    energies = [
        sum(layer.bulk_energy * layer.parameters for layer in layers) / sum(layer.parameters for layer in layers)
        for layers in (first, last)
    ]
    fitting = [sum(layer.fits for layer in layers) for layers in (first, last)]
    return (
        f"{counted(len(trend.layers), 'layer')}: {gained} with more spikes at the end, {lost} with fewer; "
        f"{spikes[0]:,} → {spikes[1]:,} in all.",
        f"{fitting[0]} → {fitting[1]} fit Marchenko–Pastur at --gof {trend.analyses[0].settings.gof:g}; "
        f"bulk energy {energies[0]:.0%} → {energies[1]:.0%}, by weights.",
        f"Cutting those that fit to their spikes leaves {trend.analyses[0].parameters_after:,} → "
        f"{trend.analyses[-1].parameters_after:,} parameters.",
    )
