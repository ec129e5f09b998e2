"""`--report` of every command: the page, with the command as it was typed and all of its settings."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from rmt_compress.cli.loudness import LOUDNESS
from rmt_compress.cli.options import was_typed
from rmt_compress.wording import printable

if TYPE_CHECKING:
    from rmt_compress.reporting.html.page import Page, Run


def check_report(report: Path | None, *, force: bool, inputs: Sequence[Path] = ()) -> None:
    """Refuse a report that cannot or must not be written, where one is asked for."""
    if report is not None:
        from rmt_compress.reporting.html.page_file import check_report as check

        check(report, force=force, inputs=tuple(inputs))


def write_report(
    report: Path | None, context: typer.Context, page: Callable[[], Page], notes: Sequence[str] = ()
) -> None:
    """Write what `page` makes of a command's results, where that is asked for."""
    if report is not None:
        from rmt_compress.reporting.html.page_file import write_report as write

        write(page(), _run(context, notes), report)


def _run(context: typer.Context, notes: Sequence[str]) -> Run:
    from rmt_compress.reporting.html.page import Run, Setting

    options = [option for option in context.command.params if option.param_type_name == "option"]
    settings = [
        Setting(option.opts[0], printable(_said(value)), was_typed(context, option.name or ""))
        for option in options
        if option.name not in (None, "help", *LOUDNESS)
        and (value := context.params.get(option.name or "")) not in (None, [], ())
    ]
    return Run(
        context.info_name or "",
        printable(shlex.join(["rmt-compress", *sys.argv[1:]])),
        tuple(settings),
        tuple(printable(note) for note in notes),
    )


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(getattr(value, "value", value))
