"""Pictures of training runs: score, loss and size over the epochs, cuts marked (BSSZ24 figures 1, 2, 5)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmt_compress.outputs import make_folder
from rmt_compress.reporting.blanks import blank_figure, write_figure
from rmt_compress.training.event_log import Event, of_kind

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from rmt_compress.training.finetuned import Finetuned, RunResult

_PRUNED, _BASELINE, _CUT = "#c8553d", "#6c757d", "#1d3557"


def training_figure(runs: Sequence[RunResult]) -> Figure:
    """Three panels; runs with cuts in colour, runs without in grey."""
    figure = blank_figure(13.5, 4.2, "--plots")
    score, loss, size = figure.subplots(1, 3)
    metric = runs[0].metric
    shares = metric.unit == "share"
    labelled: set[bool] = set()
    style: dict[str, Any]
    for run in runs:
        label = None if run.pruned in labelled else "with cuts" if run.pruned else "without cuts"
        labelled.add(run.pruned)
        color = _PRUNED if run.pruned else _BASELINE
        style = {"color": color, "lw": 1.6, "alpha": 1.0 if len(runs) <= 2 else 0.7}
        points = [event for event in run.events if event["event"] != "end"]
        score.plot(*_series(points, "test_score", 100 if shares else 1), "-", label=label, **style)
        loss.plot(*_series(of_kind(run.events, "epoch")[1:], "train_loss"), "-", label=label, **style)
        loss.plot(*_series(of_kind(run.events, "epoch"), "test_loss"), ":", **style)
        size.plot(*_series(points, "parameters"), "-", label=label, **style)
        if any(event["nonzeros"] < 0.995 * event["parameters"] for event in points):
            size.plot(*_series(points, "nonzeros"), ":", label=None if label is None else "not zero", **style)
    for epoch in sorted({event["epoch"] for run in runs for event in of_kind(run.events, "cycle")}):
        for axes in (score, loss, size):
            axes.axvline(epoch, color=_CUT, lw=0.7, ls="--", alpha=0.35, zorder=0)
    unit = "%" if shares else metric.unit
    named = f"test {metric.name}, {unit}" if unit else f"test {metric.name}"
    _finish(score, named, f"{metric.name.capitalize()}; dashed lines are cuts")
    _finish(loss, "loss", "Loss: training —, test ···")
    _finish(size, "parameters", "What is left")
    if shares:
        _zoom(score, runs)
    loss.set_yscale("log")
    size.set_ylim(bottom=0)
    size.yaxis.set_major_formatter("{x:,.0f}")
    return figure


def finetuned_figure(result: Finetuned) -> Figure:
    """That of all runs of one training."""
    return training_figure(result.runs)


def write_training_plots(runs: Sequence[RunResult], folder: Path) -> Path:
    """Draw all runs into ``training.png`` in `folder`, made if absent."""
    figure = training_figure(runs)
    make_folder(folder)
    path = folder / "training.png"
    write_figure(figure, path)
    return path


def _series(events: Sequence[Event], key: str, factor: float = 1.0) -> tuple[list[float], list[float]]:
    return [event["epoch"] for event in events], [factor * event[key] for event in events]


def _zoom(axes: Axes, runs: Sequence[RunResult]) -> None:
    """Leave the untrained network out of sight where it would flatten all the rest."""
    values = sorted(100 * event["test_score"] for run in runs for event in run.events)
    if values[-1] - values[0] > 30:
        low = values[len(values) // 10]
        axes.set_ylim(bottom=max(0, low - 0.5 * (values[-1] - low) - 1), top=values[-1] + 1)


def _finish(axes: Axes, ylabel: str, title: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set(xlabel="epoch", ylabel=ylabel, title=title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e9ecef", zorder=0)
    if len(axes.get_legend_handles_labels()[0]) > 1:
        axes.legend(frameon=False)
