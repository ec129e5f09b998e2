"""The page of `finetune`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rmt_compress.reporting.html.curves import height
from rmt_compress.reporting.html.layer_facts import share
from rmt_compress.reporting.html.page import Page
from rmt_compress.reporting.html.page_parts import Axis, Badge, Chart, Fact, Grid, GridCell, Point, Series
from rmt_compress.reporting.training_table import event_line, finetune_table
from rmt_compress.training.event_log import of_kind
from rmt_compress.wording import counted, printable

if TYPE_CHECKING:
    from rmt_compress.training import Finetuned
    from rmt_compress.training.event_log import Event
    from rmt_compress.training.finetuned import RunResult


def training_page(result: Finetuned) -> Page:
    """The runs: score, loss and size over the epochs, with every cut, and what is left."""
    run = result.runs[0]
    metric, first, last = run.metric, run.first, run.last
    cuts, was = of_kind(run.events, "cycle"), metric.shown(first["test_score"])
    badge = Badge("measured: every epoch was tested", "good")
    if result.goal_missed:
        badge = Badge("the goal was missed", "bad")
    return Page(
        title=printable(result.architecture if result.output is None else result.output.name),
        badge=badge,
        headline=_headline(result, run),
        facts=(
            Fact(f"test {metric.name}", metric.shown(last["test_score"]), f"was {was}"),
            Fact(
                "parameters",
                share(last["parameters"], first["parameters"]),
                f"{first['parameters']:,} → {last['parameters']:,}",
            ),
            Fact("not zero", f"{last['nonzeros']:,}"),
            Fact("bytes on disk", f"{result.bytes:,}"),
            Fact("cuts", f"{len(cuts)}", f"in {counted(last['epoch'], 'epoch')}"),
        ),
        charts=tuple(chart for chart in _charts(result) if any(each.points for each in chart.series)),
        grids=(Grid.of(finetune_table(result)), *_cut_grids(result)),
    )


def _headline(result: Finetuned, run: RunResult) -> str:
    metric, first, last = run.metric, run.first, run.last
    score = f"Test {metric.name} {metric.shown(first['test_score'])} → {metric.shown(last['test_score'])}"
    change = metric.change(last["test_score"], first["test_score"])
    left = f"{share(last['nonzeros'], first['nonzeros'])} of the weights left"
    cuts = len(of_kind(run.events, "cycle"))
    how = f"{left} after {counted(cuts, 'cut')}" if run.pruned else "nothing was cut"
    said = f"{score} ({change}), {how}."
    return f"{printable(result.goal_missed)}. {said}" if result.goal_missed else said


def _charts(result: Finetuned) -> list[Chart]:
    metric = result.runs[0].metric
    cuts = sorted({event["epoch"] for run in result.runs for event in of_kind(run.events, "cycle")})
    marked = f" Cuts, dashed, after the epochs {', '.join(map(str, cuts))}." if cuts else " There were no cuts."

    def chart(title: str, y: Axis, series: list[Series]) -> Chart:
        ends = "; ".join(
            f"{each.name}: {each.points[0].said} at first, {each.points[-1].said} at last"
            for each in series
            if each.points
        )
        return Chart(
            title=title,
            description=f"{title}. {ends}.{marked}",
            x=Axis("epoch", format="d", whole=True),
            y=y,
            series=tuple(series),
            marks=tuple(float(epoch) for epoch in cuts),
        )

    def of(run: RunResult, name: str, key: str, shown: Callable[[float], str], *, kind: str = "") -> Series:
        events: list[Event] = [
            event
            for event in run.events
            if event["event"] != "end" and (not kind or event["event"] == kind) and event.get(key) is not None
        ]
        named = f"{run.name}, {name}" if run.name and name else run.name or name
        return Series(named, tuple(Point(event["epoch"], event[key], shown(event[key])) for event in events))

    called = metric.name
    scores = [of(run, f"test {called}", "test_score", metric.shown) for run in result.runs]
    losses = [
        of(run, f"{which} loss", f"{which}_loss", "{:.4g}".format, kind="epoch")
        for run in result.runs
        for which in ("train", "test")
    ]
    sizes = [of(run, "parameters", "parameters", "{:,}".format) for run in result.runs]
    return [
        chart(f"Test {called} over the epochs", height(metric), scores),
        chart("Loss over the epochs", Axis("loss", logarithmic=_positive(losses)), losses),
        chart("Parameters over the epochs", Axis("parameters", zero=True, format="~s"), sizes),
    ]


def _positive(series: list[Series]) -> bool:
    """Whether all can stand on a logarithmic axis."""
    return all(point.y > 0 for each in series for point in each.points)


def _cut_grids(result: Finetuned) -> list[Grid]:
    """Every cut of every run: the score before and after, and what became of the layers."""
    grids = []
    for run in result.runs:
        metric = run.metric
        rows = [
            (
                GridCell(f"{event['epoch']}"),
                GridCell(metric.shown(event["score_before"])),
                GridCell(metric.shown(event["test_score"])),
                GridCell(f"{event['parameters']:,}"),
                GridCell(printable(event_line(event).partition(", ")[2])),
            )
            for event in of_kind(run.events, "cycle")
        ]
        if rows:
            columns = ("after epoch", f"{metric.name} before", "after the cut", "parameters", "what was cut")
            grids.append(Grid(columns, tuple(rows), " ".join(("Cuts", *([f"of {run.name}"] if run.name else [])))))
    return grids
