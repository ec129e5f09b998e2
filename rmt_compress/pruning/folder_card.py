"""The model card of a folder that `prune` has written: its own words and numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rmt_compress.reporting.evaluation_table import milliseconds_said
from rmt_compress.reporting.html.prune_report import how_far_known, prune_headline
from rmt_compress.saving.model_card import CardNumbers, CardScore, write_model_card

if TYPE_CHECKING:
    from rmt_compress.pruning.result import PruneResult


def with_card(result: PruneResult, source: Path, target: Path, data: str | None) -> PruneResult:
    """Write the card beside the weights; a note in the result where there is none.

    Args:
        result: what was done and measured.
        source: the folder that was read.
        target: the folder that was written.
        data: what it was measured with, as after ``--data``; None for what asks by itself.

    Raises:
        OutputError: it cannot be written.
    """
    why = write_model_card(
        target,
        source,
        summary=prune_headline(result),
        numbers=_numbers(result),
        method=_method(result),
        score=_score(result, data),
    )
    return result if why is None else replace(result, notes=(*result.notes, why))


def _score(result: PruneResult, data: str | None) -> CardScore | None:
    """Of the compressed network on data that can be named."""
    if result.after is None or data is None or not result.after.score.samples:
        return None
    score = result.after.score
    unit = f", {score.metric.unit}" if score.metric.unit not in ("", "share") else ""
    return CardScore(f"{score.metric.name}{unit}", score.value, data, score.samples)


def _numbers(result: PruneResult) -> list[CardNumbers]:
    totals = result.totals
    rows = [CardNumbers("weights that are not 0", f"{totals['parameters']:,}", f"{totals['nonzeros']:,}")]
    if result.sizes is not None:
        rows.append(CardNumbers("bytes", *(f"{size:,}" for size in result.sizes)))
    before, after = result.before, result.after
    if before is None or after is None:
        return rows
    metric = after.score.metric
    asked = f", {after.score.samples:,} test samples" if after.score.samples else ""
    rows.append(CardNumbers(f"{metric.name}{asked}", *(metric.shown(each.score.value) for each in (before, after))))
    if before.macs is not None and after.macs is not None:
        rows.append(CardNumbers("multiply-adds for one sample", f"{before.macs:,}", f"{after.macs:,}"))
    for size in after.latency_ms:
        times = (milliseconds_said(each.latency_ms[size]) for each in (before, after))
        rows.append(CardNumbers(f"time, batch of {size}", *times))
    return rows


def _method(result: PruneResult) -> list[str]:
    actions = [decision.action for decision in result.plan.layers]
    counts = {action: actions.count(action) for action in ("factorized", "truncated", "kept")}
    said = ", ".join(f"{count} {action}" for action, count in counts.items() if count)
    directions = {
        "plain": "those of the largest singular values",
        "input": "chosen by the inputs that the layers get",
        "two-sided": "chosen by the inputs that the layers get and by the gradients of the loss",
    }.get(result.plan.basis, result.plan.basis)
    return [
        f"Layers: {said or 'none cut'}; in layout {result.layout}.",
        f"The directions that were kept are {directions}.",
        f"How far the cost is known: {how_far_known(result).word}.",
    ]
