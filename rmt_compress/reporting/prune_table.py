"""What `prune` did, as a table for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rmt_compress.analysis.risk import RISKS
from rmt_compress.analysis.unfitted import SkippedLayer
from rmt_compress.reporting.analysis_table import skipped_line
from rmt_compress.reporting.certificate_table import certificate_table
from rmt_compress.reporting.layer_names import block, blocks_named, network_order, sentence, sentences_merged
from rmt_compress.reporting.layer_table import Column, LayerTable
from rmt_compress.wording import listed, printable, times

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.text import Text

    from rmt_compress.analysis.risk import Risk
    from rmt_compress.plan import LayerDecision
    from rmt_compress.pruning.result import PruneResult

RISK_STYLES = {"low": "green", "medium": "yellow", "high": "red"}
ACTION_STYLES = {"factorized": "green", "truncated": "yellow", "kept": "", "skipped": "dim"}


_COLUMNS = (
    Column("shape", 1, right=False),
    Column("action", 5, right=False),
    Column("weights\nleft", 4),
    Column("risk", 3, right=False),
    Column("why", 2, words=True),
)


def prune_table(result: PruneResult, *, group: bool = False) -> Group:
    """The layers with what was done to each and why, then sizes and, with data, accuracies.

    Args:
        result: what to show.
        group: whether layers whose names differ in the number of their block, and that met with the same, make one
            row.
    """
    from rich.console import Group
    from rich.text import Text

    proven = [] if result.certificate is None else [certificate_table(result.certificate)]
    summary = Text("\n".join(f" {line}" for line in prune_summary(result)))
    return Group(_layers(result, group), *_skipped(result), summary, *proven)


def _layers(result: PruneResult, group: bool) -> LayerTable:
    from rich.text import Text

    outcomes = {outcome.tensor: outcome for outcome in result.outcomes}
    decisions = [decision for decision in result.plan.layers if has_a_row(decision)]
    groups: dict[tuple[object, ...], list[LayerDecision]] = {}
    for index in network_order([decision.name for decision in decisions]):
        each = decisions[index]
        like = (block(each.name), each.shape, each.action, sentence(each.reason)) if group else (each.tensor,)
        groups.setdefault(like, []).append(each)
    rows: list[list[Text | str]] = []
    for members in groups.values():
        first = members[0]
        done = [outcomes[each.tensor] for each in members if each.tensor in outcomes]
        action = done[0].action if done else first.action  # layout dense truncates what the plan would split
        before, nonzeros = sum(each.parameters for each in done), sum(each.nonzeros for each in done)
        rows.append(
            [
                times(first.shape, scalar=""),
                Text(action, style=ACTION_STYLES[action]),
                f"{nonzeros / max(1, before):.1%}" if done else "",
                _risk([result.risks[each.tensor] for each in members if each.tensor in result.risks]),
                Text(printable(sentences_merged([each.reason for each in members]))),
            ]
        )
    names = [
        blocks_named([each.name for each in members]) + (f" {len(members)}×" if len(members) > 1 else "")
        for members in groups.values()
    ]
    nothing = "nothing to cut"
    if result.dry_run or result.missed:
        nothing = f"nothing written ({'--dry-run' if result.dry_run else 'the budget was missed'})"
    title = f"{result.source} → {result.output or nothing}"
    return LayerTable(title, names, _COLUMNS, rows, first="layers" if group else "layer")


def _risk(risks: list[Risk]) -> Text:
    """The least and the greatest of a row's layers."""
    from rich.text import Text

    found = sorted(set(risks), key=RISKS.index)
    ends = [found[0], found[-1]] if len(found) > 1 else found
    return Text("–".join(ends), style=RISK_STYLES[found[-1]] if found else "")


def has_a_row(decision: LayerDecision) -> bool:
    """Whether a decision is shown by itself: of a layer that was looked at, or that is changed."""
    return decision.kind != "vector" and (decision.action != "skipped" or decision.changes)


def _skipped(result: PruneResult) -> list[RenderableType]:
    return [skipped_line(reason, names) for reason, names in untouched_by_reason(result).items()]


def untouched_by_reason(result: PruneResult) -> dict[str, list[str]]:
    """Why layers were not looked at -> their names; empty ones of those that the user left out, and so knows."""
    layers = {layer.tensor: layer for layer in (result.analysis.skipped if result.analysis else ())}
    groups: dict[str, list[str]] = {}
    for decision in result.plan.layers:
        if decision.kind == "vector" or has_a_row(decision):
            continue
        layer = layers.get(decision.tensor)
        unnamed = isinstance(layer, SkippedLayer) and layer.left_out
        groups.setdefault(decision.reason, []).append("" if unnamed else printable(decision.name))
    return groups


def prune_summary(result: PruneResult) -> list[str]:
    """What is left, what it costs as far as is known, and what was written: a sentence each."""
    lines = []
    totals = result.totals
    if result.outcomes:
        lines.append(
            f"{totals['nonzeros']:,} of {totals['parameters']:,} weights are left "
            f"({totals['nonzeros'] / max(1, totals['parameters']):.1%})"
        )
    if result.sizes is not None:
        before, after = result.sizes
        ratio = before / max(1, after)
        what = "bytes of weights" if result.left_out else "bytes"
        lines.append(
            f"{before:,} → {after:,} {what}: " + (f"{ratio:.1f} times smaller" if ratio >= 1.05 else "not smaller")
        )
    if result.left_out and result.bytes_out is not None:
        named = listed((printable(f"{entry.name} ({entry.kind})") for entry in result.left_out), 6)
        lines.append(f"{result.bytes_in:,} → {result.bytes_out:,} bytes on the disk, with {named} left out")
    if result.before is not None and result.after is not None:
        old, new = result.before.score, result.after.score
        metric = new.metric
        shown = f"{metric.name} {metric.shown(old.value)} → {metric.shown(new.value)}"
        asked = f" on {new.samples:,} test samples" if new.samples else ""
        lines.append(f"{shown}{asked} ({metric.change(new.value, old.value)})")
    if result.risks:
        counts = ", ".join(f"{n} {risk}" for risk in RISKS if (n := list(result.risks.values()).count(risk)))
        lines.append(f"unverified: nobody has measured what this costs; risk of each cut alone: {counts}")
    lines.extend(f"{what}: {', '.join(paths)}" for what, paths in result.written)
    return lines
