"""An analysis as a table for a terminal and as CSV."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rmt_compress.reporting.layer_names import block, blocks_named, network_order, span
from rmt_compress.reporting.layer_table import Column, LayerTable
from rmt_compress.wording import counted, printable, times

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.text import Text

    from rmt_compress.analysis import Analysis, AnalyzedLayer, LayerAnalysis

# What does not fit is the healthy case: no red.
VERDICT_STYLES = {"noise": "green", "mixed": "yellow", "structured": "blue"}
_NO_FIT_STYLE = "blue"

_COLUMNS = (
    Column("matrix", 4),
    Column("σ̂²", 1, plain="sigma2"),
    Column("edge s₊", 2, plain="edge s+"),
    Column("fit error", 9),
    Column("(noise)", 3),
    Column("spikes", 8),
    Column("bulk\nenergy", 5),
    Column("verdict", 10, right=False),
    Column("left if\ncut", 6),
)
_DIAGNOSIS_COLUMNS = (
    Column("diagnosis", 10, right=False),
    Column("Hill α", 8, plain="Hill alpha"),
    Column("of", 1),
    Column("stable\nrank", 3),
    Column("effective\nrank", 2),
    Column("why", 9, words=True),
)
_GROUP_COLUMNS = (
    Column("", 11),
    Column("matrix", 4),
    Column("fit error", 9),
    Column("worst fit", 3, right=False),
    Column("spikes", 8),
    Column("bulk\nenergy", 5),
    Column("verdict", 10, right=False),
    Column("left if\ncut", 6),
)

Sort = Literal["order", "name", "gof", "spikes", "energy", "size", "saving"]

_SORT_KEYS: dict[Sort, Callable[[AnalyzedLayer], Any]] = {
    "name": lambda layer: layer.name,
    "gof": lambda layer: layer.fit.gof,
    "spikes": lambda layer: -layer.fit.spikes,
    "energy": lambda layer: -layer.bulk_energy,
    "size": lambda layer: -layer.parameters,
    "saving": lambda layer: layer.parameters_after - layer.parameters,
}


def analysis_table(analysis: Analysis, *, sort: Sort = "order", group: bool = False) -> Group:
    """The table of layers, why others were skipped, and the totals.

    Args:
        analysis: what to show.
        sort: ``order`` (of the network, as far as names tell it), ``name``, ``gof`` (best fit first), ``spikes``
            (most first), ``energy`` (largest bulk share first), ``size`` or ``saving`` (largest first).
        group: whether layers whose names differ in the number of their block make one row.
    """
    from rich.console import Group

    layers = [analysis.analyzed[i] for i in network_order([layer.name for layer in analysis.analyzed])]
    if sort != "order":
        layers.sort(key=_SORT_KEYS[sort])
    parts: list[RenderableType] = []
    if layers:
        title = f"{analysis.path or 'model'} ({analysis.format}){_noise_named(analysis)}"
        parts.append(_group_table(layers, title) if group else _layer_table(layers, title))
    if any(layer.models for layer in layers):
        parts += [_models_table(layers), _diagnosis_table(layers)]
    if analysis.factorized:
        parts.append(_factor_table(analysis))
    skipped = _skipped_lines(analysis)
    # The blank line below a table is its own.
    blank = [""] if skipped or not parts else []
    return Group(*parts, *skipped, *blank, analysis_summary(analysis))


def _noise_named(analysis: Analysis) -> str:
    from rmt_compress.analysis.noise_models import MARCHENKO_PASTUR, noise_model

    model = noise_model(analysis.settings)
    if model == MARCHENKO_PASTUR:
        return ""
    scales = ", σ̂² and edge without them" if any(layer.scaled is not None for layer in analysis.analyzed) else ""
    return f", noise: {model.caption}{scales}"


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


def _layer_table(layers: list[AnalyzedLayer], title: str) -> LayerTable:
    from rich.text import Text

    rows: list[list[Text | str]] = []
    for layer in layers:
        fit = layer.fit
        rows.append(
            [
                times(layer.layer.shape if len(layer.matrices) > 1 else layer.matrix),
                f"{fit.sigma2:.3g}",
                f"{fit.edge:.3g}",
                Text(f"{fit.gof:.3f}", style="" if layer.fits else _NO_FIT_STYLE),
                Text(f"{layer.gof_null:.3f}", style="dim"),
                f"{layer.spikes_shown}/{fit.p}",
                f"{layer.bulk_energy:.0%}",
                Text(layer.verdict, style=VERDICT_STYLES[layer.verdict]),
                f"{layer.parameters_after / layer.parameters:.0%}",
            ]
        )
    return LayerTable(title, [_names(layer) for layer in layers], _COLUMNS, rows)


def _models_table(layers: list[AnalyzedLayer]) -> LayerTable:
    """Fit error and spikes of every noise model, a layer a row."""
    from rich.text import Text

    from rmt_compress.analysis.noise_models import NOISE_MODELS, null_quantile

    columns = [
        Column(model.caption.replace(" ", "\n"), 9 - place) for place, model in enumerate(NOISE_MODELS.values())
    ]
    matrices = [matrix for layer in layers for matrix in layer.matrices if matrix.models]
    rows: list[list[Text | str]] = []
    for layer in matrices:
        cells: list[Text | str] = []
        for name in NOISE_MODELS:
            said = layer.models[name]
            if isinstance(said, str):
                cells.append("–")
                continue
            fits = said.fit.gof <= max(layer.settings.gof, null_quantile(0.95, said.fit, layer.settings))
            # Sign flips assume no law that could fit.
            error = "" if name == "signflip" else f"{said.fit.gof:.3f} "
            cells.append(Text(f"{error}{said.fit.spikes:>4}", style="" if fits or not error else _NO_FIT_STYLE))
        rows.append(cells)
    return LayerTable("fit error and spikes by noise model", [_names(layer) for layer in matrices], columns, rows)


def _diagnosis_table(layers: list[AnalyzedLayer]) -> LayerTable:
    """What every layer looks like and why, a layer a row."""
    matrices = [matrix for layer in layers for matrix in layer.matrices]
    rows = []
    for layer in matrices:
        found, diagnosis = layer.measures, layer.diagnosis
        tail = found.tail
        rows.append(
            [
                diagnosis.word,
                "–" if tail is None else f"{tail.alpha:.2f} ± {tail.error:.2f}",
                "–" if tail is None else f"{tail.size}/{layer.fit.p}",
                f"{found.stable_rank:.1f}",
                f"{found.effective_rank:.0f}",
                diagnosis.reason,
            ]
        )
    return LayerTable("diagnosis", [_names(layer) for layer in matrices], _DIAGNOSIS_COLUMNS, rows)


def _group_table(layers: list[AnalyzedLayer], title: str) -> LayerTable:
    """A row for all layers of one size whose names differ in the number of their block."""
    from rich.text import Text

    groups: dict[tuple[str, tuple[int, int]], list[AnalyzedLayer]] = {}
    for layer in layers:
        groups.setdefault((block(layer.name), layer.matrix), []).append(layer)
    rows: list[list[Text | str]] = []
    for (_, matrix), members in groups.items():
        verdicts = [layer.verdict for layer in members]
        worst = max(members, key=lambda layer: layer.fit.gof)
        before, after = (sum(values) for values in zip(*map(_sizes, members), strict=True))
        found = [verdict for verdict in VERDICT_STYLES if verdict in verdicts]
        rows.append(
            [
                f"{len(members)}×",
                times(matrix),
                Text(span(f"{layer.fit.gof:.3f}" for layer in members), style="" if worst.fits else _NO_FIT_STYLE),
                _numbers_of(worst.name) if len(members) > 1 else "",
                f"{span(str(layer.fit.spikes) for layer in members)}/{worst.fit.p}",
                span(f"{layer.bulk_energy:.0%}" for layer in members),
                Text("\n").join(
                    Text(
                        verdict if len(found) == 1 else f"{verdicts.count(verdict)} {verdict}",
                        style=VERDICT_STYLES[verdict],
                    )
                    for verdict in found
                ),
                f"{after / before:.0%}",
            ]
        )
    names = [blocks_named([layer.name for layer in members]) for members in groups.values()]
    return LayerTable(title, names, _GROUP_COLUMNS, rows, first="layers")


def _sizes(layer: AnalyzedLayer) -> tuple[int, int]:
    return layer.parameters, layer.parameters_after


def _numbers_of(name: str) -> str:
    """Which block a layer is in: ``17``, ``3.5`` of an expert in a block."""
    return ".".join(part for part in name.split(".") if part.isdecimal())


def _factor_table(analysis: Analysis) -> LayerTable:
    columns = [Column("matrix", 3), Column("rank", 5), Column("effective rank", 4)]
    columns += [Column("largest s", 2), Column("smallest s", 1)]
    layers = [analysis.factorized[i] for i in network_order([layer.name for layer in analysis.factorized])]
    rows = [
        [
            times(layer.matrix),
            f"{len(layer.singular_values)}",
            f"{layer.effective_rank:.3g}",
            f"{layer.singular_values[0]:.3g}",
            f"{layer.singular_values[-1]:.3g}",
        ]
        for layer in layers
    ]
    return LayerTable("already factorized", [_names(layer) for layer in layers], columns, rows)


def _names(layer: LayerAnalysis) -> str:
    return printable(" = ".join((layer.name, *layer.layer.aliases)))


def skipped_by_reason(analysis: Analysis) -> dict[str, list[str]]:
    """Why layers have no numbers -> their names; empty ones of those that the user left out, and so knows."""
    from rmt_compress.analysis.unfitted import AnalyzedPair

    groups: dict[str, list[str]] = {}
    seconds = {layer.pair.second for layer in analysis.factorized}
    for layer in analysis.skipped:
        if isinstance(layer, AnalyzedPair) or layer.tensor in seconds:
            continue
        # Biases and norms would fill the screen; they are named when there is nothing else to say.
        if layer.kind != "vector" or not analysis.analyzed:
            names = groups.setdefault(layer.reason, [])
            names.append("" if layer.left_out and analysis.analyzed else _names(layer))
    return groups


def _skipped_lines(analysis: Analysis) -> list[RenderableType]:
    return [
        skipped_line(reason, names, every=not analysis.analyzed and any(names))
        for reason, names in skipped_by_reason(analysis).items()
    ]


def skipped_named(names: list[str], *, every: bool = False) -> str:
    """Some of the names, or all; only their number where they have none here."""
    shown = names if every or len(names) <= 6 else [*names[:5], f"and {len(names) - 5} more"]
    return ", ".join(shown) if any(names) else counted(len(names), "layer")


def skipped_line(reason: str, names: list[str], *, every: bool = False) -> RenderableType:
    """Why layers were skipped, after `skipped_named`."""
    from rich.text import Text

    return Text.assemble((" skipped ", "dim"), skipped_named(names, every=every), (f": {printable(reason)}", "dim"))


def analysis_summary(analysis: Analysis) -> Text:
    """How many layers there are of what, and what cutting them would leave."""
    from rich.text import Text

    from rmt_compress.analysis.diagnosis import WORDS
    from rmt_compress.analysis.noise_models import ALL

    before, after = analysis.parameters, analysis.parameters_after
    vectors = [layer for layer in analysis.skipped if layer.kind == "vector"]
    matrices = len(analysis.skipped) - len(vectors) - 2 * len(analysis.factorized)
    analyzed = "1 layer" if len(analysis.analyzed) == 1 else f"{len(analysis.analyzed)} layers"
    others = "1 bias or other vector" if len(vectors) == 1 else f"{len(vectors)} biases and other vectors"
    counts = f" {analyzed} analysed, {matrices} skipped, {others}"
    if analysis.factorized:
        counts += f", {len(analysis.factorized)} factorized already"
    if not analysis.analyzed:
        return Text(counts)
    words = [layer.diagnosis.word for layer in analysis.analyzed]
    looks = ", ".join(f"{words.count(word)} {word}" for word in WORDS if word in words)
    more = "" if analysis.settings.noise == ALL else " (--noise all says why)"
    fitting = sum(layer.fits for layer in analysis.analyzed)
    share = f"{after / before:.1%}" if before else "100 %"
    return Text.assemble(
        counts,
        f"; {fitting} {'fits' if fitting == 1 else 'fit'} Marchenko–Pastur at --gof {analysis.settings.gof:g}.\n",
        f" Cutting those to their spikes leaves {after:,} of {before:,} parameters (",
        (share, "bold"),
        f").\n Diagnosis: {looks}{more}.",
        f"\n {said}" if (said := approximation_said(analysis)) else "",
    )


def approximation_said(analysis: Analysis) -> str:
    """How many spectra are approximate and how exact they are, and which were tried; nothing where none was."""
    found = [layer.route.approximation for layer in analysis.approximated if layer.route.approximation is not None]
    matrices = [matrix for layer in analysis.analyzed for matrix in layer.matrices]
    fell_back = [f"{layer.name} ({layer.route.fell_back})" for layer in matrices if layer.route.fell_back]
    said = []
    if found:
        edge, gof = max(each.edge_error for each in found), max(each.gof_error for each in found)
        verb = "spectrum is" if len(found) == 1 else "spectra are"
        said.append(
            f"{len(found)} {verb} approximate: edges to ±{edge:.2%}, fit errors to ±{gof:.4f}, 98 times in 100 "
            "(--exact finds every singular value)."
        )
    if fell_back:
        shown = [*fell_back[:3], *([f"{len(fell_back) - 3} more"] if len(fell_back) > 3 else [])]
        said.append(printable(f"Exact, as an approximation would not be exact enough: {', '.join(shown)}."))
    return "\n ".join(said)
