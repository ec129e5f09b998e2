"""Empty tables, and figures from the first line to the file, all in one style."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rmt_compress.errors import MissingDependencyError
from rmt_compress.outputs import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table


def blank_table(title: str | None = None) -> Table:
    """A table without columns or rows."""
    from rich import box
    from rich.table import Table

    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))


def blank_figure(width: float, height: float, asked_by: str) -> Figure:
    """A figure of so many inches without axes; without matplotlib the error says what the user `asked_by`."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError("matplotlib", "report", asked_by) from error

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def write_figure(figure: Figure, target: Path) -> None:
    """Write a PNG file."""
    with replacing(target) as path:
        figure.savefig(path, dpi=130)
