"""One network's evaluation, or two side by side, as a table for a terminal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rmt_compress.checkpoints.config_file import CONFIG
from rmt_compress.reporting.blanks import blank_table
from rmt_compress.reporting.layer_names import names_in
from rmt_compress.saving.folders import source_folder
from rmt_compress.wording import printable

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from rmt_compress.networks.evaluation import Evaluation
    from rmt_compress.networks.tasks.task import Task

SAME = 1.1
"""Ratios nearer to 1 than this are no gain and no loss: milliseconds vary as much from run to run."""


# What details of a score are called, and whether they are shares; where there are none, 0 or None, there is no row.
_DETAILS = {
    "top5": ("top-5 accuracy", "share"),
    "r2": ("R²", "number"),
    "perplexity": ("perplexity", "number"),
    "token_accuracy": ("right tokens", "share"),
    "bits_per_byte": ("bits per byte", "number"),
    "dead_outputs": ("dead outputs", "count"),
    "never_predicted": ("classes never predicted", "count"),
}
_AGREEMENT = {
    "same_answer": ("same answer", "share"),
    "relative_error": ("distance of outputs", "share"),
    "cosine": ("cosine of outputs", "number"),
    "kl": ("Kullback–Leibler, nats", "number"),
    "same_neighbour": ("same nearest neighbour", "share"),
}
_NAME = 23
"""Characters of a name above a column."""
_FORMATS = {"share": "{:.2%}", "number": "{:.4f}", "count": "{:,}"}


def evaluation_table(task: Task, model: Evaluation, against: Evaluation | None = None) -> Table:
    """Rows of numbers; with `against` a column for each network and one for the change."""
    from rich.text import Text

    networks = [model] if against is None else [model, against]
    table = blank_table(_asked(task, model))
    table.add_column("")
    names = [printable(called(Path(network.path)) if network.path else "model") for network in networks]
    # Of longer ones there is no room for two in 80 columns; their beginnings and ends tell them apart.
    shown_names = names if against is None else names_in(_NAME, names)[1]
    for name in shown_names:
        table.add_column(Text(name), justify="right", no_wrap=True)
    if against is not None:
        table.add_column("change", justify="right", no_wrap=True)

    def row(label: str, shown: Callable[[Evaluation], str], change: Text | str = "") -> None:
        cells: list[Text | str] = [label, *map(shown, networks)]
        table.add_row(*cells, *([change] if against is not None else []))

    first, second = model, against or model
    metric = model.score.metric
    row(metric.name, lambda e: metric.shown(e.score.value), _worse(model, second))
    if metric.name != "loss" and first.score.loss is not None and task.kind != "regression":
        row("loss", lambda e: f"{e.score.loss or 0:.4f}", f"{first.score.loss - (second.score.loss or 0):+.4f}")
    for key, (label, kind) in _DETAILS.items():
        if any(network.score.details.get(key) for network in networks):

            def detail(network: Evaluation, key: str = key, kind: str = kind) -> str:
                value = network.score.details.get(key)
                return "–" if value is None else _FORMATS[kind].format(value)

            new, old = (network.score.details.get(key) for network in (first, second))
            shares = kind == "share" and new is not None and old is not None
            row(label, detail, _points(new or 0, old or 0) if shares else "")
    if model.agreement is not None:
        for key, (label, kind) in _AGREEMENT.items():
            value = model.agreement.details.get(key)
            if value is not None:
                table.add_row(label, _FORMATS[kind].format(value), "", "")
    row("parameters", lambda e: f"{e.parameters:,}", _ratio(first.parameters, second.parameters, "fewer", "more"))
    row("  not zero", lambda e: f"{e.nonzeros:,}", _ratio(first.nonzeros, second.nonzeros, "fewer", "more"))
    if first.bytes is not None and second.bytes is not None:
        row("bytes on disk", lambda e: f"{e.bytes or 0:,}", _ratio(first.bytes, second.bytes, "smaller", "larger"))
    if first.macs is not None and second.macs is not None:
        row("multiply-adds", lambda e: f"{e.macs or 0:,}", _ratio(first.macs, second.macs, "fewer", "more"))
    if first.bytes_moved and second.bytes_moved:
        change = _ratio(first.bytes_moved, second.bytes_moved, "fewer", "more")
        row("bytes moved, one sample", lambda e: f"{e.bytes_moved or 0:,}", change)
    if first.peak_memory and second.peak_memory:
        change = _ratio(first.peak_memory, second.peak_memory, "fewer", "more")
        row("bytes alive at the peak", lambda e: f"{e.peak_memory or 0:,}", change)
    for size in first.latency_ms:

        def milliseconds(network: Evaluation, size: str = size) -> str:
            return milliseconds_said(network.latency_ms[size])

        change = _ratio(first.latency_ms[size], second.latency_ms[size], "faster", "slower")
        row(f"time, batch of {size}", milliseconds, change)
    for size in first.latency.graph.keys() & second.latency.graph.keys():

        def in_graph(network: Evaluation, size: str = size) -> str:
            return milliseconds_said(network.latency.graph[size])

        change = _ratio(first.latency.graph[size], second.latency.graph[size], "faster", "slower")
        row(f"  in a CUDA graph, {size}", in_graph, change)
    for verb, field in (("reading", "prefill"), ("writing", "decode")):
        if first.generation is None or second.generation is None:
            continue

        def rate(network: Evaluation, field: str = field) -> float:
            return float(getattr(network.generation, field))

        count = first.generation.prompt if verb == "reading" else first.generation.written
        change = _ratio(1 / rate(first), 1 / rate(second), "faster", "slower")

        def shown(network: Evaluation, rate: Callable[[Evaluation], float] = rate) -> str:
            return f"{rate(network):,.0f}"

        row(f"tokens a second, {verb} {count}", shown, change)
    return table


def called(path: Path) -> str:
    """The name of a file, in a Hugging Face folder that of the folder: files are called alike there."""
    folder = source_folder(path) or path.parent
    return folder.resolve().name if (folder / CONFIG).is_file() else path.name


def milliseconds_said(value: float) -> str:
    """``3.21 ms``; of a second and more without digits behind the point."""
    return f"{value:,.0f} ms" if value >= 1000 else f"{value:.3g} ms"


def _asked(task: Task, model: Evaluation) -> str:
    """What the title says was asked."""
    samples = task.samples
    if samples is None:
        return task.metric.name
    what = "windows" if samples.targets == "tokens" else "samples"
    return f"{model.score.samples:,} {samples.part} {what} of {samples.name}"


def _worse(new: Evaluation, old: Evaluation) -> Text:
    """The change of the score, in red where it is worse by more than the second of what people ask about."""
    from rich.text import Text

    metric = new.score.metric
    allowed = metric.losses[1][0] * metric.scale(old.score.value)
    worse = metric.worse_by(new.score.value, old.score.value) > allowed
    return Text(metric.change(new.score.value, old.score.value), style="red" if worse else "")


def _points(new: float, old: float) -> Text:
    from rich.text import Text

    change = 100 * (new - old)
    return Text(f"{change:+.2f} points", style="red" if change < -1 else "")


def _ratio(new: float, old: float, better: str, worse: str) -> Text:
    """``3.1× fewer``; ``1.2× slower`` in red; ``no gain`` where it is within noise."""
    from rich.text import Text

    if old == new:
        return Text("the same", style="dim")
    if not old or not new or 1 / SAME < old / new < SAME:
        return Text("no gain", style="dim")
    if new < old:
        return Text(f"{_factor(old / new)}× {better}", style="green")
    return Text(f"{_factor(new / old)}× {worse}", style="red")


def _factor(ratio: float) -> str:
    return f"{ratio:.0f}" if ratio >= 100 else f"{ratio:.1f}"
