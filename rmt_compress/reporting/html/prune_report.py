"""The page of `prune`."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmt_compress.analysis.risk import RISKS
from rmt_compress.networks.calibration_settings import SELF
from rmt_compress.reporting.evaluation_table import called
from rmt_compress.reporting.html.analysis_report import skipped_rows
from rmt_compress.reporting.html.budget_curves import price_chart, tried_networks
from rmt_compress.reporting.html.calibrated_picture import calibrated_pictures
from rmt_compress.reporting.html.certificate_report import certificate_grids
from rmt_compress.reporting.html.comparing import compared, faster
from rmt_compress.reporting.html.curves import sweep_charts
from rmt_compress.reporting.html.layer_facts import facts_of, pictured, sentences_of, share
from rmt_compress.reporting.html.layer_list import Cell, Column, LayerList, LayerRow
from rmt_compress.reporting.html.page import Page
from rmt_compress.reporting.html.page_parts import Badge, Chart, Fact, Grid, styled
from rmt_compress.reporting.prune_table import (
    ACTION_STYLES,
    RISK_STYLES,
    has_a_row,
    prune_summary,
    untouched_by_reason,
)
from rmt_compress.wording import counted, printable, times

if TYPE_CHECKING:
    from rmt_compress.analysis import AnalyzedLayer
    from rmt_compress.analysis.risk import Risk
    from rmt_compress.compression.weights import LayerOutcome
    from rmt_compress.plan import LayerDecision
    from rmt_compress.pruning.result import PruneResult

_COLUMNS = (
    Column("shape", "of the weight", room="desk"),
    Column("spectrum", "bulk, edge and spikes; opens with the layer", numeric=False, sorts=False, room="phone"),
    Column("action", numeric=False, room="phone"),
    Column("rank", "directions that are kept"),
    Column("weights left", "share of the layer's weights that are stored and not 0"),
    Column("fit error", "distance to the law of noise", room="desk"),
    Column("risk", "of this cut by itself, by the weights alone; only where nothing was measured", numeric=False),
    Column("why", numeric=False, words=True),
)
BADGES = {
    "measured": Badge("measured: the network was run on data before and after", "good"),
    "synthetic": Badge("synthetic: run only on {inputs}", "care"),
    "unverified": Badge("unverified: nothing was run", "care"),
}
_RISK = 6
"""Place of the column that is only there where there are risks."""


def prune_page(result: PruneResult) -> Page:
    """What was done to each layer and why, and what it cost as far as that is known."""
    sweeps = () if result.sweep is None else sweep_charts(result.sweep)
    tried = tried_networks(result.budget)
    priced = price_chart(result.plan)
    proven = () if result.certificate is None else certificate_grids(result.certificate)
    return Page(
        title=printable(called(Path(result.source))),
        badge=_badge(result),
        headline=prune_headline(result),
        facts=_facts(result),
        remarks=tuple(printable(line) for line in (*result.warnings, *prune_summary(result))),
        charts=(*(each for each in (tried, priced) if isinstance(each, Chart)), *sweeps),
        grids=(*((tried,) if isinstance(tried, Grid) else ()), *proven),
        layers=_layers(result),
    )


def _badge(result: PruneResult) -> Badge:
    if result.wreck is not None:
        return Badge("a wreck: the result is worth nothing", "bad")
    if result.missed:
        return Badge("the budget was missed", "bad")
    return how_far_known(result)


def how_far_known(result: PruneResult) -> Badge:
    """Whether the cost was measured, and of what inputs it was asked where it was not."""
    badge = BADGES[result.verified]
    return replace(badge, word=badge.word.format(inputs=_inputs(result)))


def _inputs(result: PruneResult) -> str:
    """What a network was run on that no data were asked of, in words."""
    given = (result.budget or {}).get("calibration", {}).get("inputs", SELF)
    return "inputs that the network made itself" if given == SELF else "the inputs that calibrated it"


def prune_headline(result: PruneResult) -> str:
    """What it cost and what it won, in two or three sentences; or that nobody knows."""
    if result.wreck is not None:
        return f"The file was written, but its {result.wreck}."
    if result.missed:
        kept = "The file was written all the same" if result.output else "Nothing was written"
        return f"The budget was missed: {result.missed}. {kept}."
    if not result.changes:
        return "Nothing can be cut at these settings, and nothing was written."
    return " ".join((_asked(result), *_left(result), _cost(result), _at_risk(result))).strip()


def _asked(result: PruneResult) -> str:
    """What the budget was, in words."""
    asked = (result.budget or {}).get("asked", {})
    words = {"keep": "of the parameters", "macs": "of the multiply-adds", "latency": "of the time"}
    said = [f"{100 * value:.3g} % {words[name]}" for name, value in asked.items() if name in words]
    if "max_drop" in asked and result.after is not None:
        drop = asked["max_drop"]
        points = result.after.score.metric.unit == "share"
        said.insert(0, f"{100 * drop:.3g} points less" if points else f"a change of {drop:.3g}")
    return f"Asked for at most {' and '.join(said)}." if said else ""


def _left(result: PruneResult) -> list[str]:
    totals = result.totals
    if result.dry_run or totals["nonzeros"] is None:
        cut = sum(decision.changes for decision in result.plan.layers)
        return [f"{counted(cut, 'layer')} would be cut; nothing was written (--dry-run)."]
    return [f"{share(totals['nonzeros'], totals['parameters'])} of the parameters are left."]


def _cost(result: PruneResult) -> str:
    """The score before and after, and the time; or how little is known."""
    before, after = result.before, result.after
    if before is None or after is None:
        if result.verified == "synthetic":
            return f"What that costs is known only on {_inputs(result)}."
        return "What that costs is unverified: nothing was run."
    metric = after.score.metric
    asked = f" on {after.score.samples:,} test samples" if after.score.samples else ""
    # What a ready plan was chosen with is not known here.
    asked += " that chose nothing" if asked and result.analysis is not None else ""
    change = metric.change(after.score.value, before.score.value)
    score = (
        f"{metric.name} {metric.shown(before.score.value)} → {metric.shown(after.score.value)}{asked} ({change})"
    )
    return f"{score[:1].upper()}{score[1:]}{faster(after, before)}."


def _at_risk(result: PruneResult) -> str:
    """How many of the cuts nobody has measured look dangerous."""
    risks = list(result.risks.values())
    if not (high := risks.count("high")):
        return ""
    return f"By the weights alone the risk is high for {high:,} of {counted(len(risks), 'cut')}."


def _facts(result: PruneResult) -> tuple[Fact, ...]:
    totals = result.totals
    facts = [Fact("parameters", f"{totals['parameters']:,}", "before")]
    if totals["nonzeros"] is not None:
        left = share(totals["nonzeros"], totals["parameters"])
        facts.append(Fact("weights left", left, f"{totals['nonzeros']:,} that are not 0"))
    if result.sizes is not None:
        before, after = result.sizes
        facts.append(Fact("bytes", share(after, before), f"{before:,} → {after:,}"))
    if result.before is not None and result.after is not None:
        facts += compared(result.after, result.before)
    cut = sum(decision.changes for decision in result.plan.layers)
    facts.append(Fact("layers cut", f"{cut}", f"of {sum(map(has_a_row, result.plan.layers))} with a row below"))
    return tuple(facts)


def _layers(result: PruneResult) -> LayerList:
    analyzed = {layer.tensor: layer for layer in (result.analysis.analyzed if result.analysis else ())}
    outcomes = {outcome.tensor: outcome for outcome in result.outcomes}
    calibrated = calibrated_pictures(result.plan)
    rows = [
        _calibrated(
            _row(each, analyzed.get(each.tensor), outcomes.get(each.tensor), result.risks),
            calibrated.get(each.tensor),
        )
        for each in result.plan.layers
        if has_a_row(each)
    ]
    written = f"{result.source} → {result.output or 'nothing'}"
    return LayerList.of(
        rows,
        _COLUMNS if result.risks else _COLUMNS[:_RISK] + _COLUMNS[_RISK + 1 :],
        caption=f"{counted(len(rows), 'layer')}, {printable(written)}",
        choice="Action",
        skipped=skipped_rows(untouched_by_reason(result)),
    )


def _row(
    decision: LayerDecision, layer: AnalyzedLayer | None, outcome: LayerOutcome | None, risks: dict[str, Risk]
) -> LayerRow:
    risk = risks.get(decision.tensor)
    action = decision.action if outcome is None else outcome.action
    rank = decision.rank if outcome is None else outcome.rank
    left = None if outcome is None else outcome.nonzeros / max(1, outcome.parameters)
    small, drawn, alt = (None, None, ()) if layer is None else pictured(layer)
    facts = () if layer is None else facts_of(layer)
    if decision.predicted_loss is not None:
        facts += (Fact("predicted rise of the loss", f"{decision.predicted_loss:.3g}"),)
    if outcome is not None:
        stored = (Fact("stored weights", f"{outcome.parameters_after:,}"), Fact("not 0", f"{outcome.nonzeros:,}"))
        facts = (*facts, *stored)
    return LayerRow(
        name=printable(decision.name),
        shape=decision.shape,
        word=action,
        cells=(
            Cell(times(decision.shape, scalar=""), math.prod(decision.shape)),
            Cell("", picture=small),
            Cell(action, action, styled(ACTION_STYLES[action])),
            Cell("" if rank is None else f"{rank}", rank),
            Cell("" if left is None else f"{left:.1%}", left),
            Cell("" if layer is None else f"{layer.fit.gof:.3f}", None if layer is None else layer.fit.gof),
            *([_risk(risk)] if risks else []),
            Cell(printable(decision.reason), decision.reason),
        ),
        sentences=(*_done(action, rank, decision, risk), *(() if layer is None else sentences_of(layer))),
        facts=facts,
        picture=drawn,
        alt=alt,
    )


def _calibrated(row: LayerRow, drawn: tuple[dict[str, Any], str] | None) -> LayerRow:
    """A row with the calibrated spectrum as the third of its pictures, where there are others."""
    if drawn is None or row.picture is None:
        return row
    return replace(row, picture={**row.picture, "calibrated": drawn[0]}, alt=(*row.alt, drawn[1]))


def _risk(risk: Risk | None) -> Cell:
    if risk is None:
        return Cell("")
    return Cell(risk, RISKS.index(risk), styled(RISK_STYLES[risk]))


def _done(action: str, rank: int | None, decision: LayerDecision, risk: Risk | None) -> list[str]:
    """What was done to a layer and why."""
    what = {
        "factorized": f"Cut to {counted(rank or 0, 'direction')} and stored as two thin layers",
        "truncated": f"Cut to {counted(rank or 0, 'direction')}, in its old shape",
        "kept": "Kept as it was",
        "skipped": "Not looked at",
    }[action]
    if action == "kept" and decision.zeroes:
        what = "Kept whole, its small entries set to zero"
    said = [f"{what}: {printable(decision.reason)}."]
    if risk is not None:
        said.append(f"The risk of this cut by itself, by the weights alone, is {risk}; nobody has measured it.")
    return said
