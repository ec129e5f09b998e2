"""What pages are made of: words, numbers, small tables and curves, as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from rmt_compress.wording import printable

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

Style = Literal["good", "care", "bad", "calm", ""]
"""How a word is set off; colour is never all that tells it."""

_STYLES: dict[str, Style] = {"green": "good", "yellow": "care", "red": "bad", "blue": "calm"}


def styled(style: str) -> Style:
    """The page's style for one of the terminal's."""
    return _STYLES.get(style, "")


@dataclass(frozen=True)
class Badge:
    """How far a result is known, in a word or a few."""

    word: str
    style: Style


@dataclass(frozen=True)
class Fact:
    """One number, or the name of a tensor, with what it is; `note` stands small below it."""

    label: str
    value: str
    note: str = ""
    is_name: bool = False


@dataclass(frozen=True)
class GridCell:
    """One cell of a `Grid`."""

    text: str
    style: Style = ""


@dataclass(frozen=True)
class Grid:
    """A small table; the first cell of a row heads it."""

    columns: tuple[str, ...]
    rows: tuple[tuple[GridCell, ...], ...]
    title: str = ""

    @classmethod
    def of(cls, table: Table) -> Grid:
        """What a table for the terminal says."""
        title = "" if table.title is None else _plain(table.title)
        cells = zip(*(column.cells for column in table.columns), strict=True)
        return cls(
            tuple(_plain(column.header) for column in table.columns),
            tuple(tuple(GridCell(_plain(cell), _style(cell)) for cell in row) for row in cells),
            title,
        )


def _plain(cell: Any) -> str:
    return printable(getattr(cell, "plain", cell)).strip()


def _style(cell: Text | Any) -> Style:
    return styled(str(getattr(cell, "style", "")))


@dataclass(frozen=True)
class Axis:
    """One axis of a `Chart`.

    Attributes:
        title: with its unit.
        logarithmic: its scale.
        zero: whether it begins at 0.
        format: of its numbers, as d3 writes one; empty for the usual.
        whole: whether there is nothing between whole numbers.
    """

    title: str
    logarithmic: bool = False
    zero: bool = False
    format: str = ""
    whole: bool = False


@dataclass(frozen=True)
class Point:
    """A point of a chart, with all that is said of it."""

    x: float
    y: float
    said: str


@dataclass(frozen=True)
class Series:
    """Points that belong together."""

    name: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Chart:
    """Points over two axes.

    Attributes:
        title: what it shows.
        description: the same in words, for those who do not see it.
        x: the horizontal axis.
        y: the vertical axis.
        series: the points.
        joined: whether lines lead from point to point.
        chosen: points that are ringed.
        levels: heights that are marked, with what they are.
        marks: places that are marked.
    """

    title: str
    description: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    joined: bool = True
    chosen: tuple[Point, ...] = ()
    levels: tuple[tuple[float, str], ...] = ()
    marks: tuple[float, ...] = ()

    @property
    def numbers(self) -> Grid:
        """All points as a table."""
        rows = [
            (GridCell(each.name), *(GridCell(text) for text in (f"{p.x:.6g}", f"{p.y:.6g}", p.said)))
            for each in self.series
            for p in each.points
        ]
        return Grid(("", self.x.title, self.y.title, "what"), tuple(rows))

    def to_json(self) -> dict[str, Any]:
        """What the page's script draws it from."""

        def plain(points: Sequence[Point]) -> list[list[float | str]]:
            return [[p.x, p.y, p.said] for p in points]

        return {
            "x": vars(self.x),
            "y": vars(self.y),
            "series": [{"name": each.name, "points": plain(each.points)} for each in self.series],
            "joined": self.joined,
            "chosen": plain(self.chosen),
            "levels": [{"y": y, "said": said} for y, said in self.levels],
            "marks": list(self.marks),
        }
