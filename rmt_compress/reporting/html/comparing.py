"""Two networks side by side in a page: what the second has become."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rmt_compress.reporting.evaluation_table import SAME, milliseconds_said
from rmt_compress.reporting.html.layer_facts import share
from rmt_compress.reporting.html.page_parts import Fact

if TYPE_CHECKING:
    from rmt_compress.networks.evaluation import Evaluation


def compared(after: Evaluation, before: Evaluation) -> list[Fact]:
    """Score, parameters, multiply-adds and milliseconds of a network, and what they were before."""
    metric = after.score.metric
    was = f"was {metric.shown(before.score.value)}"
    facts = [Fact(f"{metric.name}", metric.shown(after.score.value), was)]
    if after.macs and before.macs:
        facts.append(Fact("multiply-adds", share(after.macs, before.macs), f"{before.macs:,} → {after.macs:,}"))
    for size in after.latency_ms:
        new, old = (milliseconds_said(each.latency_ms[size]) for each in (after, before))
        facts.append(Fact(f"time, batch of {size}", new, f"was {old}"))
    return facts


def faster(after: Evaluation, before: Evaluation) -> str:
    """What became of the time of the largest batch, to stand behind a sentence; empty where it was not measured."""
    if not after.latency_ms or not before.latency_ms:
        return ""
    size = list(after.latency_ms)[-1]
    ratio = before.latency_ms[size] / after.latency_ms[size]
    if ratio >= SAME:
        return f", {ratio:.1f} × faster at batch {size}"
    return f", {1 / ratio:.1f} × slower at batch {size}" if ratio <= 1 / SAME else f", no faster at batch {size}"
