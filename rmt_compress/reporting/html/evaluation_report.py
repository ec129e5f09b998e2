"""The page of `evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rmt_compress.reporting.evaluation_table import called, evaluation_table, milliseconds_said
from rmt_compress.reporting.html.comparing import compared, faster
from rmt_compress.reporting.html.layer_facts import share
from rmt_compress.reporting.html.page import Page
from rmt_compress.reporting.html.page_parts import Badge, Fact, Grid
from rmt_compress.wording import printable

if TYPE_CHECKING:
    from rmt_compress.networks.evaluation import Evaluation
    from rmt_compress.networks.tasks.task import Task


def evaluation_page(task: Task, model: Evaluation, against: Evaluation | None, wreck: str | None) -> Page:
    """What a network costs and what it is worth, beside another where there is one.

    Args:
        task: what both were asked.
        model: the network.
        against: the other.
        wreck: why the network is worth nothing beside the other; None where it is not.
    """
    badge = Badge("measured: the network was run", "good")
    if wreck is not None:
        badge = Badge("a wreck: the network is worth nothing", "bad")
    return Page(
        title=_name(model),
        badge=badge,
        headline=f"Its {wreck}." if wreck is not None else _headline(task, model, against),
        facts=_facts(model) if against is None else (_weights(model, against), *compared(model, against)),
        grids=(Grid.of(evaluation_table(task, model, against)),),
    )


def _name(network: Evaluation) -> str:
    return printable(called(Path(network.path)) if network.path else "model")


def _headline(task: Task, model: Evaluation, against: Evaluation | None) -> str:
    metric = model.score.metric
    samples = task.samples
    asked = (
        ""
        if samples is None
        else f" on {model.score.samples:,} {samples.part} samples of {printable(samples.name)}"
    )
    score = f"{metric.name[:1].upper()}{metric.name[1:]} {metric.shown(model.score.value)}{asked}"
    if against is None:
        return f"{score}, with {model.nonzeros:,} weights that are not 0."
    change = metric.change(model.score.value, against.score.value)
    left = share(model.nonzeros, against.nonzeros)
    return f"{score}: {change} beside {_name(against)}, with {left} of its weights{faster(model, against)}."


def _weights(model: Evaluation, against: Evaluation) -> Fact:
    counts = f"{against.nonzeros:,} → {model.nonzeros:,}"
    return Fact("weights that are not 0", share(model.nonzeros, against.nonzeros), counts)


def _facts(model: Evaluation) -> tuple[Fact, ...]:
    metric = model.score.metric
    facts = [Fact(metric.name, metric.shown(model.score.value)), Fact("parameters", f"{model.parameters:,}")]
    if model.bytes is not None:
        facts.append(Fact("bytes on disk", f"{model.bytes:,}"))
    if model.macs is not None:
        facts.append(Fact("multiply-adds", f"{model.macs:,}"))
    times = model.latency_ms.items()
    return (*facts, *(Fact(f"time, batch of {size}", milliseconds_said(value)) for size, value in times))
