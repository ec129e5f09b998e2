"""The model card of a folder that `finetune` has written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rmt_compress.saving.model_card import CardNumbers, CardScore, write_model_card
from rmt_compress.training.event_log import of_kind
from rmt_compress.wording import counted

if TYPE_CHECKING:
    from rmt_compress.training.finetuned import RunResult


def write_trained_card(folder: Path, source: Path, result: RunResult, data: str) -> str | None:
    """Write the card beside the weights; why there is none comes back.

    Raises:
        OutputError: it cannot be written.
    """
    metric, first, last = result.metric, result.first, result.last
    before, after = first["test_score"], last["test_score"]
    score = f"{metric.name} {metric.shown(before)} → {metric.shown(after)} ({metric.change(after, before)})"
    left = last["nonzeros"] / max(1, first["nonzeros"])
    cuts = len(of_kind(result.events, "cycle"))
    unit = f", {metric.unit}" if metric.unit not in ("", "share") else ""
    return write_model_card(
        folder,
        source,
        summary=f"Test {score} on {last['samples']:,} samples, with {left:.1%} of the weights left.",
        numbers=[
            CardNumbers("weights that are not 0", f"{first['nonzeros']:,}", f"{last['nonzeros']:,}"),
            CardNumbers(f"test {metric.name}", metric.shown(before), metric.shown(after)),
        ],
        score=CardScore(f"{metric.name}{unit}", after, data, last["samples"]),
        method=[
            f"Trained on {data} for {counted(last['epoch'], 'epoch')}, seed {result.seed}.",
            f"Cut {counted(cuts, 'time')} on the way, as the log beside it says.",
            "How far the cost is known: measured: the test samples were asked after every epoch and cut.",
        ],
    )
