"""What a checkpoint holds, as text for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rmt_compress.reporting.layer_names import network_order
from rmt_compress.reporting.layer_table import Column, LayerTable
from rmt_compress.wording import listed, printable, times

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table
    from rich.text import Text

    from rmt_compress.saving.description import Description, LayerDescription

_REASONS = 40


def contents(description: Description) -> Group:
    """Where a file comes from, its layers and why each is as it is, and its size."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [
        Text(printable(f"{description.path} ({description.format}), {description.bytes:,} bytes")),
        _origin(description),
    ]
    # Biases and norms would fill the screen.
    matrices = [layer for layer in description.layers if len(layer.shape) > 1]
    vectors = [layer for layer in description.layers if len(layer.shape) < 2]
    if matrices:
        parts.append(_table(matrices, compressed=description.manifest is not None))
    if vectors:
        count = sum(layer.parameters for layer in vectors)
        parts.append(Text(f" and {len(vectors)} biases and other vectors of {count:,} parameters together"))
    reasons: dict[str, list[str]] = {}
    for layer in matrices:
        if layer.reason:
            reasons.setdefault(layer.reason, []).append(printable(layer.name))
    parts.extend(
        Text.assemble((f" {listed(names, 5)}: ", "dim"), printable(reason))
        for reason, names in list(reasons.items())[:_REASONS]
    )
    if len(reasons) > _REASONS:
        parts.append(Text(f" … and {len(reasons) - _REASONS} more reasons (--json)"))
    parts.extend(Text(line) for line in _totals(description))
    return Group(*parts)


def _origin(description: Description) -> Table:
    """Where the file comes from, a name and a value a line."""
    from rich.table import Table
    from rich.text import Text

    facts = {}
    manifest = description.manifest
    if manifest is not None:
        source = manifest.source
        if source is not None:
            facts["source"] = f"{source.name} ({source.format}), {source.bytes:,} bytes"
            facts["SHA-256"] = source.sha256 or "none, it was never a file"
        facts["compressed"] = f"by rmt-compress {manifest.tool_version}, layout {manifest.layout}"
        if manifest.plan is not None:
            given = {key: value for key, value in manifest.plan.settings.items() if value is not None}
            facts["settings"] = ", ".join(f"{key}={value}" for key, value in given.items()) or "none recorded"
    if description.architecture is not None:
        facts["architecture"] = description.architecture
    if description.beside:
        facts["beside it"] = ", ".join(f"{entry.name} ({entry.kind})" for entry in description.beside)
    table = Table.grid(padding=(0, 2, 0, 0))
    for name, value in facts.items():
        table.add_row(f" {name}", Text(printable(value)))
    return table


def _table(layers: list[LayerDescription], *, compressed: bool) -> LayerTable:
    columns = [Column("shape", 5), Column("type", 1, right=False), Column("parameters", 4), Column("non-zeros", 3)]
    if compressed:
        columns[1:1] = [Column("rank", 6), Column("stored as", 2)]
        columns.insert(0, Column("action", 7, right=False))
    layers = [layers[index] for index in network_order([layer.name for layer in layers])]
    rows: list[list[Text | str]] = []
    for layer in layers:
        row: list[Text | str] = [
            times(layer.shape, scalar="scalar"),
            layer.dtype,
            f"{layer.parameters:,}",
            f"{_share(layer.nonzeros, layer.parameters)}{_encoding(layer)}",
        ]
        if compressed:
            stored = " + ".join(map(times, layer.factors)) if layer.factors else "as it was"
            stored += " (pivots)" if layer.packed else ""
            row[1:1] = [str(layer.rank or ""), stored]
            row.insert(0, layer.action or "not in the plan")
        rows.append(row)
    return LayerTable("", [layer.name for layer in layers], columns, rows)


def _encoding(layer: LayerDescription) -> str:
    return " (bitmask)" if layer.sparse else " (pattern)" if layer.patterned else ""


def _totals(description: Description) -> list[str]:
    before, after, nonzeros = description.parameters_before, description.parameters, description.nonzeros
    if description.manifest is None:
        return [f"\n {after:,} parameters, {_share(nonzeros, after)} of them not zero."]
    lines = [
        f"\n {after:,} of {before:,} parameters ({_share(after, before)}), {nonzeros:,} of them not zero "
        f"({_share(nonzeros, before)})"
    ]
    source = description.manifest.source
    if source is not None and source.bytes:
        share = _share(description.bytes, source.bytes)
        lines.append(f" {description.bytes:,} of the source's {source.bytes:,} bytes ({share})")
    return lines


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "0"
