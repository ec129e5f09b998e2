"""What `finetune` shows while it runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rmt_compress.cli.console import Loudness, bar_of, draws_bars, speaks, stderr_line

if TYPE_CHECKING:
    from rmt_compress.training.event_log import Event
    from rmt_compress.training.finetuning import Listeners
    from rmt_compress.training.steps import StepProgress


def leads() -> bool:
    """Whether this is the one of several processes that speaks; launchers number them."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def training_listeners(tensorboard: Path | None) -> Iterator[Listeners]:
    """A line per event on stderr; on a terminal also a bar that follows the epoch."""
    from rmt_compress.reporting.training_table import event_line
    from rmt_compress.training.finetuning import Listeners

    if not leads():
        yield Listeners()
        return
    board = None
    if tensorboard is not None:
        from rmt_compress.reporting.tensorboard import tensorboard_listener

        board = tensorboard_listener(tensorboard)

    def tell(event: Event) -> None:
        if not speaks(Loudness.QUIET) and (line := event_line(event)):
            stderr_line(line)
        if board is not None:
            board(event)

    def begin(name: str) -> None:
        if name and not speaks(Loudness.QUIET):
            stderr_line(name, style="bold")

    if not draws_bars():
        yield Listeners(run=begin, event=tell)
        return
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

    text = TextColumn("{task.description}", markup=False)
    with bar_of(text, BarColumn(), TimeRemainingColumn()) as bar:
        task = bar.add_task("Training", total=None)

        def steps(epoch: int) -> StepProgress:
            bar.reset(task, description=f"epoch {epoch}")
            return lambda done, total: bar.update(task, completed=done, total=total)

        yield Listeners(run=begin, event=tell, steps=steps)
