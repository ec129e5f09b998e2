"""A table with a row per layer, which gives up columns before it gives up telling the layers apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from rmt_compress.reporting.blanks import blank_table
from rmt_compress.reporting.layer_names import names_in
from rmt_compress.wording import printable

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.table import Table
    from rich.text import Text

# A third of the width at least is for the names, unless they need less, and never fewer characters than these.
_NAME_SHARE = 3
_NAME_LEAST = 16
# What a column of words is to have before others give way to it.
_WORDS_LEAST = 32


class Column(NamedTuple):
    """A column beside the names.

    Attributes:
        heading: its name; a line break is kept.
        importance: those of the least go first where there is too little room; the same for columns that only make
            sense together.
        words: whether it holds sentences, which are written on several lines.
        plain: the heading where only ASCII can be printed.
    """

    heading: str
    importance: int
    words: bool = False
    right: bool = True
    plain: str = ""


@dataclass(frozen=True)
class LayerTable:
    """Layers and what there is to say of each.

    Attributes:
        title: above the table.
        names: of the layers, a stranger's text.
        columns: beside the names.
        rows: of each layer a cell per column.
        first: heading of the names.
    """

    title: str
    names: Sequence[str]
    columns: Sequence[Column]
    rows: Sequence[Sequence[Text | str]]
    first: str = "layer"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        from rich.text import Text

        names = [printable(name) for name in self.names]
        kept = self._kept(names, options.max_width)
        room = self._room(kept, options.max_width)
        prefix, shown = names_in(room, names)
        if self.title:
            yield Text(printable(self.title), style="italic")
        if prefix:
            yield Text(f" every name begins with {prefix}", style="dim")
        yield self._table(shown, kept, room, ascii_only=options.ascii_only)
        if gone := [index for index in self._filled() if index not in kept]:
            text = ", ".join(" ".join(self._heading(index, options.ascii_only).split()) for index in gone)
            yield Text(f" no room here for: {text} (a wider terminal or --json shows all)\n", style="dim")

    def _heading(self, index: int, ascii_only: bool) -> str:
        column = self.columns[index]
        return (column.plain if ascii_only else "") or column.heading

    def _filled(self) -> list[int]:
        """The columns that say something of a layer at least."""
        return [index for index in range(len(self.columns)) if any(str(row[index]) for row in self.rows)]

    def _kept(self, names: Sequence[str], width: int) -> list[int]:
        """Which columns there is room for, the names having theirs."""
        shortest = max((len(name) for name in names_in(1, names)[1]), default=0)
        enough = min(shortest, max(_NAME_LEAST, width // _NAME_SHARE))
        kept = self._filled()
        for least in sorted({column.importance for column in self.columns})[:-1]:
            if self._room(kept, width) >= enough:
                break
            kept = [index for index in kept if self.columns[index].importance != least]
        return kept

    def _room(self, kept: Sequence[int], width: int) -> int:
        """What is left for the names: every column stands between two blanks."""
        return width - 3 - sum(self._width(index) + 2 for index in kept)

    def _width(self, index: int) -> int:
        from rich.cells import cell_len

        column = self.columns[index]
        cells = [max(map(cell_len, str(row[index]).split("\n"))) for row in self.rows]
        heading = max(map(cell_len, (column.plain or column.heading).split("\n")))
        widest = max(cells, default=0)
        return max(heading, min(widest, _WORDS_LEAST) if column.words else widest)

    def _table(self, shown: Sequence[str], kept: Sequence[int], room: int, *, ascii_only: bool) -> Table:
        from rich.text import Text

        table = blank_table()
        # Rich would take room from the names for columns of words, were they allowed to wrap.
        fit = max(map(len, shown), default=0) <= room
        table.add_column(self.first, overflow="fold", no_wrap=fit, max_width=None if fit else max(room, 1))
        for index in kept:
            column = self.columns[index]
            table.add_column(
                self._heading(index, ascii_only),
                justify="right" if column.right and not column.words else "left",
                no_wrap=not column.words,
                overflow="fold",
            )
        for name, row in zip(shown, self.rows, strict=True):
            table.add_row(Text(name), *(row[index] for index in kept))
        return table
