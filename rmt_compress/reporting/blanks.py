"""Empty tables, and figures from the first line to the file, all in one style."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rmt_compress.errors import MissingDependencyError
from rmt_compress.outputs import replacing
from rmt_compress.wording import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

_NOTEBOOK_DPI = 90
"""At which the widest figure fits into the column of a page."""


def blank_table(title: str | None = None) -> Table:
    """A table without columns or rows; the title is a stranger's text."""
    from rich.box import SIMPLE_HEAD, Box
    from rich.table import Table
    from rich.text import Text

    # Rich would put frames of + and | about it where its line cannot be printed; that becomes hyphens instead.
    box = Box(str(SIMPLE_HEAD), ascii=True)
    said = None if title is None else Text(printable(title))
    return Table(title=said, title_justify="left", box=box, padding=(0, 0, 0, 1))


def blank_figure(width: float, height: float, asked_by: str) -> Figure:
    """A figure of so many inches without axes; without matplotlib the error says what the user `asked_by`."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError("matplotlib", "report", asked_by) from error

    class Shown(Figure):
        def _repr_png_(self) -> bytes:
            """What a notebook shows, which pyplot need not know of."""
            from io import BytesIO

            png = BytesIO()
            self.savefig(png, format="png", dpi=_NOTEBOOK_DPI)
            return png.getvalue()

    figure = Shown(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def said_in_figure(text: str, width: int) -> str:
    """A text for a title or a legend: on lines of `width` characters, a stranger's dollar signs no formula."""
    import textwrap

    lines = (textwrap.fill(line, width) for line in text.split("\n"))
    return "\n".join(printable(line) for every in lines for line in every.split("\n")).replace("$", r"\$")


def write_figure(figure: Figure, target: Path) -> None:
    """Write a PNG file."""
    with replacing(target) as path:
        figure.savefig(path, dpi=130)
