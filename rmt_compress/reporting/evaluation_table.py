"""One network's evaluation, or two side by side, as a table for a terminal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rmt_compress.reporting.blanks import blank_table
from rmt_compress.wording import printable

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from rmt_compress.data import Dataset
    from rmt_compress.networks.evaluation import Evaluation

# Ratios nearer to 1 than this are no gain and no loss: milliseconds vary as much from run to run.
_SAME = 1.1


def evaluation_table(dataset: Dataset, model: Evaluation, against: Evaluation | None = None) -> Table:
    """Rows of numbers; with `against` a column for each network and one for the change."""
    from rich.text import Text

    networks = [model] if against is None else [model, against]
    table = blank_table(f"{model.score.samples:,} {dataset.split} samples of {dataset.name}")
    table.add_column("")
    for network in networks:
        name = printable(Path(network.path).name if network.path else "model")
        table.add_column(Text(name), justify="right", overflow="fold")
    if against is not None:
        table.add_column("change", justify="right", no_wrap=True)

    def row(label: str, shown: Callable[[Evaluation], str], change: Text | str = "") -> None:
        cells: list[Text | str] = [label, *map(shown, networks)]
        table.add_row(*cells, *([change] if against is not None else []))

    first, second = model, against or model
    row("accuracy", lambda e: f"{e.score.accuracy:.2%}", _points(first.score.accuracy, second.score.accuracy))
    if first.score.top5 is not None and second.score.top5 is not None:
        change = _points(first.score.top5, second.score.top5)
        row("top-5 accuracy", lambda e: f"{e.score.top5 or 0:.2%}", change)
    row("loss", lambda e: f"{e.score.loss:.4f}", f"{first.score.loss - second.score.loss:+.4f}")
    if first.score.dead_outputs or second.score.dead_outputs:
        row("dead outputs", lambda e: f"{e.score.dead_outputs}")
    if first.score.never_predicted or second.score.never_predicted:
        row("classes never predicted", lambda e: f"{e.score.never_predicted}")
    row("parameters", lambda e: f"{e.parameters:,}", _ratio(first.parameters, second.parameters, "fewer", "more"))
    row("  not zero", lambda e: f"{e.nonzeros:,}", _ratio(first.nonzeros, second.nonzeros, "fewer", "more"))
    if first.bytes is not None and second.bytes is not None:
        row("bytes on disk", lambda e: f"{e.bytes or 0:,}", _ratio(first.bytes, second.bytes, "smaller", "larger"))
    row("multiply-adds", lambda e: f"{e.macs:,}", _ratio(first.macs, second.macs, "fewer", "more"))
    for size in first.latency_ms:

        def milliseconds(network: Evaluation, size: str = size) -> str:
            return f"{network.latency_ms[size]:.3g} ms"

        change = _ratio(first.latency_ms[size], second.latency_ms[size], "faster", "slower")
        row(f"time, batch of {size}", milliseconds, change)
    return table


def _points(new: float, old: float) -> Text:
    from rich.text import Text

    change = 100 * (new - old)
    return Text(f"{change:+.2f} points", style="red" if change < -1 else "")


def _ratio(new: float, old: float, better: str, worse: str) -> Text:
    """``3.1× fewer``; ``1.2× slower`` in red; ``no gain`` where it is within noise."""
    from rich.text import Text

    if old == new:
        return Text("the same", style="dim")
    if not old or not new or 1 / _SAME < old / new < _SAME:
        return Text("no gain", style="dim")
    if new < old:
        return Text(f"{_factor(old / new)}× {better}", style="green")
    return Text(f"{_factor(new / old)}× {worse}", style="red")


def _factor(ratio: float) -> str:
    return f"{ratio:.0f}" if ratio >= 100 else f"{ratio:.1f}"
