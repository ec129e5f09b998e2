"""The table of layers of a page: rows, repeated blocks as one row, and what has no row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from rmt_compress.reporting.html.page_parts import Fact, Style
from rmt_compress.reporting.layer_names import block, blocks_named, network_order, sentence, sentences_merged

if TYPE_CHECKING:
    from markupsafe import Markup

Order = float | str | None
"""What a column is sorted by; None stands last."""


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        title: its heading.
        hint: what it means.
        numeric: whether it stands to the right.
        room: how much it takes to be shown, from ``phone`` up; what is not shown stands in the layer's view.
        words: whether it holds sentences.
        sorts: whether the table can be sorted by it.
    """

    title: str
    hint: str = ""
    numeric: bool = True
    room: Literal["phone", "tablet", "desk"] = "tablet"
    words: bool = False
    sorts: bool = True


@dataclass(frozen=True)
class Cell:
    """What a row says in a column."""

    text: str
    order: Order = None
    style: Style = ""
    picture: Markup | None = None


@dataclass(frozen=True)
class LayerRow:
    """One layer: its row, and the view that the row opens.

    Attributes:
        name: of the layer, a stranger's text.
        shape: layers of the same shape in repeated blocks are one row.
        word: what the choice beside the filter chooses by.
        cells: one for each column.
        sentences: what is said of it.
        facts: its numbers.
        picture: what its pictures are drawn from; None where it has no spectrum.
        alt: what they show, in words.
        number: its place among all layers.
    """

    name: str
    shape: tuple[int, ...]
    word: str
    cells: tuple[Cell, ...]
    sentences: tuple[str, ...] = ()
    facts: tuple[Fact, ...] = ()
    picture: dict[str, Any] | None = None
    alt: tuple[str, ...] = ()
    number: int = 0

    @property
    def orders(self) -> list[Order]:
        """What each column is sorted by."""
        return [cell.order for cell in self.cells]


@dataclass(frozen=True)
class LayerGroup:
    """Layers that are one row while blocks are folded; of one layer that layer itself."""

    members: tuple[LayerRow, ...]

    @property
    def is_block(self) -> bool:
        """Whether there is anything to fold."""
        return len(self.members) > 1

    @property
    def name(self) -> str:
        """One for all: ``layers.0–31.mlp.up``."""
        return blocks_named([member.name for member in self.members])

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Of the row that stands for all."""
        return tuple(_merged(cells) for cells in zip(*(member.cells for member in self.members), strict=True))

    @property
    def orders(self) -> list[Order]:
        """What each column is sorted by: the largest of the members."""
        return [cell.order for cell in self.cells]


@dataclass(frozen=True)
class Skipped:
    """Tensors without a row, and why they have none."""

    names: str
    reason: str
    count: int


@dataclass(frozen=True)
class LayerList:
    """The table.

    Attributes:
        caption: what stands above it.
        choice: what the words of the rows are, beside the filter.
        columns: the columns.
        groups: the rows, in the order of the network.
        skipped: what has no row.
    """

    caption: str
    choice: str
    columns: tuple[Column, ...]
    groups: tuple[LayerGroup, ...]
    skipped: tuple[Skipped, ...] = ()

    @classmethod
    def of(
        cls,
        rows: Sequence[LayerRow],
        columns: tuple[Column, ...],
        *,
        caption: str,
        choice: str,
        skipped: tuple[Skipped, ...] = (),
    ) -> LayerList:
        """The table of these rows, put into the order of the network and into blocks."""
        groups: dict[tuple[str, tuple[int, ...]], list[LayerRow]] = {}
        ordered = [rows[index] for index in network_order([row.name for row in rows])]
        for row in ordered:
            groups.setdefault((block(row.name), row.shape), []).append(row)
        place = 0
        numbered = []
        for members in groups.values():
            numbered.append(
                LayerGroup(tuple(replace(row, number=place + index) for index, row in enumerate(members)))
            )
            place += len(members)
        return cls(caption, choice, columns, tuple(numbered), skipped)

    @property
    def rows(self) -> tuple[LayerRow, ...]:
        """All layers, by their numbers."""
        return tuple(row for group in self.groups for row in group.members)

    @property
    def pictures(self) -> list[dict[str, Any] | None]:
        """What the pictures are drawn from, by the numbers of the layers."""
        return [row.picture for row in self.rows]

    @property
    def words(self) -> list[str]:
        """All words that rows have."""
        return list(dict.fromkeys(row.word for row in self.rows))

    @property
    def has_blocks(self) -> bool:
        """Whether anything can be folded."""
        return any(group.is_block for group in self.groups)


def _merged(cells: Sequence[Cell]) -> Cell:
    """One cell for those of several layers: what all say, a range of numbers, or how many say what."""
    numbers = [cell.order for cell in cells if isinstance(cell.order, int | float)]
    order: Order = max(numbers) if numbers else next((cell.order for cell in cells if cell.order is not None), None)
    if cells[0].picture is not None:
        return Cell("", order, picture=cells[0].picture)
    alike: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell.text:
            alike.setdefault(sentence(cell.text), []).append(cell)
    said = [(len(each), sentences_merged([cell.text for cell in each])) for each in alike.values()]
    if len(said) == 1:
        styles = {cell.style for cell in cells if cell.text}
        return Cell(said[0][1], order, styles.pop() if len(styles) == 1 else "")
    return Cell("; ".join(f"{count} × {text}" for count, text in said), order)
