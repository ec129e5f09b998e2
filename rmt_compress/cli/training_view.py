"""What `finetune` shows while it runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rmt_compress.cli.console import stderr_console

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
    console = stderr_console()
    board = None
    if tensorboard is not None:
        from rmt_compress.reporting.tensorboard import tensorboard_listener

        board = tensorboard_listener(tensorboard)

    def tell(event: Event) -> None:
        if line := event_line(event):
            console.print(line, soft_wrap=True)
        if board is not None:
            board(event)

    def begin(name: str) -> None:
        if name:
            console.print(name, style="bold")

    if not sys.stderr.isatty():
        yield Listeners(run=begin, event=tell)
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("Training", total=None)

        def steps(epoch: int) -> StepProgress:
            bar.reset(task, description=f"epoch {epoch}")
            return lambda done, total: bar.update(task, completed=done, total=total)

        yield Listeners(run=begin, event=tell, steps=steps)
