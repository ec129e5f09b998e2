"""Where text goes: results to stdout, everything else to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rmt_compress.errors import CheckpointError

if TYPE_CHECKING:
    from rich.console import Console

    from rmt_compress.progress import Progress

TABLE_WIDTH = 100


class GoalNotReached(Exception):  # noqa: N818 - an outcome, not an error
    """The work was done, but not what it was done for; exit status 1."""


def error_line(message: str) -> None:
    """Print one line on stderr, whatever line breaks the message holds."""
    stderr_console().print(f"[bold red]error:[/] {_escape(' '.join(message.split()))}", soft_wrap=True)


def note(message: str) -> None:
    """Print a remark on stderr."""
    stderr_console().print(f"[dim]note:[/] {_escape(message)}", soft_wrap=True)


def warning(message: str) -> None:
    """Print a warning on stderr."""
    stderr_console().print(f"[yellow]warning:[/] {_escape(message)}", soft_wrap=True)


def stdout_console() -> Console:
    """The console for results: as wide as the terminal, and 100 columns where there is none."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else TABLE_WIDTH, highlight=False)


def print_json(report: object) -> None:
    """Print one JSON value on stdout, on its own."""
    json.dump(report, sys.stdout, indent=2, ensure_ascii=False, allow_nan=False)
    sys.stdout.write("\n")


def stderr_console() -> Console:
    """The console for everything that is no result."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


@contextmanager
def progress_bar(description: str) -> Iterator[Progress]:
    """A bar on stderr that disappears when done; nothing where stderr is no terminal."""
    console = stderr_console()
    if not console.is_terminal:
        yield lambda _done, _total, _name: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(description, total=None)

        def advance(done: int, total: int, name: str) -> None:
            bar.update(task, completed=done, total=total, description=f"{description} {_escape(name)}")

        yield advance


def checkpoint_or_only_one_here(checkpoint: Path | None) -> Path:
    """The path given, or the only checkpoint in the current folder, named on stderr.

    Raises:
        CheckpointError: none was given and the folder holds none or several.
    """
    if checkpoint is not None:
        return checkpoint
    from rmt_compress.checkpoints.formats import weight_suffixes

    suffixes = weight_suffixes()
    # Hidden files are what a killed run has left behind.
    found = sorted(
        path.name
        for path in Path().iterdir()
        if path.suffix in suffixes and not path.name.startswith(".") and path.is_file()
    )
    if not found:
        raise CheckpointError(
            f"no checkpoint given, and none ({', '.join(suffixes)}) in the current folder; "
            "name one: rmt-compress analyze model.safetensors"
        )
    if len(found) > 1:
        raise CheckpointError(f"no checkpoint given, and the current folder holds several: {', '.join(found)}")
    note(f"no checkpoint given, taking {found[0]}")
    return Path(found[0])


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)
