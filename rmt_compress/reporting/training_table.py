"""A training run in words and numbers: a line per event while it goes on, a table when it is over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rmt_compress.networks.tasks.task import ACCURACY
from rmt_compress.reporting.blanks import blank_table
from rmt_compress.training.event_log import metric_of

if TYPE_CHECKING:
    from rich.table import Table

    from rmt_compress.training import Finetuned
    from rmt_compress.training.event_log import Event


def event_line(event: Event) -> str:
    """One plain line for an epoch, a cut, a sparsification; nothing for the end."""
    kind, epoch = event["event"], event["epoch"]
    left = f"{event['parameters']:,} parameters"
    if event["nonzeros"] < 0.995 * event["parameters"]:
        left += f", {event['nonzeros']:,} not zero"
    dead = f", {event['dead_outputs']} dead outputs" if event.get("dead_outputs") else ""
    metric = metric_of(event)
    # Everybody knows what a percentage is here; a loss is told from that of the training samples.
    score = ("" if metric == ACCURACY else "test ") + metric.called(event["test_score"])
    loss = "loss" if metric == ACCURACY else "training loss"
    if kind == "epoch" and epoch == 0:
        return f"start     {score:>7}{dead}, {left}"
    if kind == "epoch":
        rate = f"rate {event['learning_rate']:.3g}"
        return f"epoch {epoch:<3} {score:>7}{dead}, {loss} {event['train_loss']:.4f}, {rate}, {left}"
    if kind == "cycle":
        how = f"f = {event['keep_bulk']:.3g}" if "keep_bulk" in event else _shares(event["budget"])
        ranks = _ranks(event["layers"], at_edge="keep_bulk" in event)
        return f"  cut     {score:>7}{dead}, {how}, {ranks}; {left}"
    if kind == "sparsify":
        return f"  zeros   {score:>7}{dead}, |w| < {event['threshold']:g} set to 0; {left}"
    return ""


def _shares(budget: dict[str, float]) -> str:
    """The budget of one cut: ``keep 0.46``."""
    return ", ".join(f"{name} {share:.3g}" for name, share in budget.items())


def _ranks(layers: list[dict[str, Any]], *, at_edge: bool) -> str:
    """What became of the layers: ranks of those that stand as two, the number of those that are whole."""
    split = [f"{layer['name']} {layer['rank']}" for layer in layers if layer["rank"] is not None]
    looked_at = [layer for layer in layers if layer["status"] == "analyzed" and layer["rank"] is None]
    parts = [f"ranks {', '.join(split[:6])}{' …' if len(split) > 6 else ''}"] if split else []
    if looked_at and not at_edge:
        return ", ".join([*parts, f"{len(looked_at)} whole"])
    noisy = sum(layer["fits"] for layer in looked_at)
    if noisy:
        parts.append(f"{noisy} not smaller when split")
    if len(looked_at) > noisy:
        parts.append(f"{len(looked_at) - noisy} no noise")
    return ", ".join(parts) or "nothing to cut"


def finetune_table(result: Finetuned) -> Table:
    """Every run's first and last network; where there are several, mean and deviation below."""
    metric = result.runs[0].metric
    unit = f", {metric.name} in {metric.unit}" if metric.unit not in ("", "share") else ""
    table = blank_table(result.architecture + unit)
    several = len(result.runs) > 1
    if several:
        table.add_column("run")
    for name in (metric.name, "before", "parameters", "before", "fewer", "not zero", "seconds", "cutting"):
        table.add_column(name, justify="right", no_wrap=True)
    for run in result.runs:
        first, last, seconds = run.first, run.last, run.seconds
        table.add_row(
            *([run.name] if several else []),
            metric.shown(last["test_score"]),
            metric.shown(first["test_score"]),
            f"{last['parameters']:,}",
            f"{first['parameters']:,}",
            f"{1 - last['parameters'] / first['parameters']:.1%}",
            f"{last['nonzeros']:,}",
            f"{sum(seconds.values()):.0f}",
            f"{seconds['analyze'] / max(seconds['train'], 1e-9):.1%}",
        )
    if several:
        table.add_section()
        for pruned in sorted({run.pruned for run in result.runs}, reverse=True):
            mean, deviation = result.mean("test_score", pruned=pruned)
            spread = f"{100 * deviation:.2f}" if metric.unit == "share" else f"{deviation:.4f}"
            table.add_row(
                f"{'pruned' if pruned else 'baseline'}, mean",
                f"{metric.shown(mean)} ± {spread}",
                "",
                f"{result.mean('parameters', pruned=pruned)[0]:,.0f}",
                "",
                "",
                f"{result.mean('nonzeros', pruned=pruned)[0]:,.0f}",
            )
    return table
