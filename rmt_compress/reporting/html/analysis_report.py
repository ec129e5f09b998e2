"""The page of `analyze`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rmt_compress.reporting.analysis_table import (
    VERDICT_STYLES,
    analysis_summary,
    skipped_by_reason,
    skipped_named,
)
from rmt_compress.reporting.evaluation_table import called
from rmt_compress.reporting.html.layer_facts import facts_of, pictured, sentences_of, share
from rmt_compress.reporting.html.layer_list import Cell, Column, LayerList, LayerRow, Skipped
from rmt_compress.reporting.html.page import Page
from rmt_compress.reporting.html.page_parts import Badge, Fact, styled
from rmt_compress.wording import counted, printable, times

if TYPE_CHECKING:
    from rmt_compress.analysis import Analysis, AnalyzedLayer

_COLUMNS = (
    Column("matrix", "rows × columns of the weight", room="desk"),
    Column("spectrum", "bulk, edge and spikes; opens with the layer", numeric=False, sorts=False, room="phone"),
    Column("fit error", "distance to the law of noise"),
    Column("(noise)", "what noise of this size reaches once in twenty times", room="desk"),
    Column("spikes", "directions above the edge"),
    Column("bulk energy", "share of the squared weights below the edge"),
    Column("verdict", numeric=False, room="phone"),
    Column("left if cut", "share of the weights that are left when the layer is cut to its spikes"),
)


def analysis_page(analysis: Analysis) -> Page:
    """What the spectra say, a layer a row."""
    before, after = analysis.parameters, analysis.parameters_after
    verdicts: list[str] = [layer.verdict for layer in analysis.analyzed]
    facts = (
        Fact("parameters", f"{before:,}"),
        Fact("left if cut to spikes", share(after, before), f"{after:,} parameters"),
        *(Fact(f"{verdict} layers", f"{verdicts.count(verdict)}") for verdict in VERDICT_STYLES),
    )
    return Page(
        title=printable(called(Path(analysis.path)) if analysis.path else "model"),
        badge=Badge("unverified: nothing was run", "care"),
        headline=_headline(analysis),
        facts=facts if analysis.analyzed else facts[:1],
        remarks=tuple(line.strip() for line in analysis_summary(analysis).plain.splitlines()),
        layers=LayerList.of(
            [_row(layer) for layer in analysis.analyzed],
            _COLUMNS,
            caption=f"{counted(len(analysis.analyzed), 'layer')} of a checkpoint of kind {analysis.format}",
            choice="Verdict",
            skipped=skipped_rows(skipped_by_reason(analysis)),
        ),
    )


def skipped_rows(by_reason: dict[str, list[str]]) -> tuple[Skipped, ...]:
    """What has no row, as the table under the layers says it."""
    return tuple(
        Skipped(skipped_named(names), printable(reason), len(names)) for reason, names in by_reason.items()
    )


def _headline(analysis: Analysis) -> str:
    if not analysis.analyzed:
        return "None of the layers can be analysed; the reasons stand below."
    fits = sum(layer.fits for layer in analysis.analyzed)
    layers = counted(len(analysis.analyzed), "layer")
    before, after = analysis.parameters, analysis.parameters_after
    if not fits:
        return f"None of {layers} looks like noise: the edge says little here, and a cut needs to be measured."
    saved = "cutting them to what sticks out of the noise would save nothing"
    if after < before:
        saved = f"cutting them to what sticks out of the noise would leave {share(after, before)} of the parameters"
    which = f"{fits} of {layers} {'looks' if fits == 1 else 'look'} like noise, with or without learned spikes"
    return f"{which}: {saved}. What that costs is unverified: nothing was run."


def _row(layer: AnalyzedLayer) -> LayerRow:
    fit = layer.fit
    left = layer.parameters_after / layer.parameters
    small, drawn, alt = pictured(layer)
    return LayerRow(
        name=printable(layer.name),
        shape=layer.layer.shape,
        word=layer.verdict,
        cells=(
            Cell(times(layer.layer.shape if len(layer.matrices) > 1 else layer.matrix), layer.parameters),
            Cell("", picture=small),
            Cell(f"{fit.gof:.3f}", fit.gof),
            Cell(f"{layer.gof_null:.3f}", layer.gof_null),
            Cell(f"{layer.spikes_shown}/{fit.p}", fit.spikes),
            Cell(f"{layer.bulk_energy:.0%}", layer.bulk_energy),
            Cell(layer.verdict, layer.verdict, styled(VERDICT_STYLES[layer.verdict])),
            Cell(f"{left:.0%}", left),
        ),
        sentences=sentences_of(layer),
        facts=facts_of(layer),
        picture=drawn,
        alt=alt,
    )
