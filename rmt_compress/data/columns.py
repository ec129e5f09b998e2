"""Columns of a table as inputs and targets: which ones, and what their cells become."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rmt_compress.data.batches import TARGET_NAMES
from rmt_compress.errors import DataError
from rmt_compress.wording import did_you_mean, listed

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Encoder = Callable[[str], "npt.NDArray[np.int64]"]

MOST_CLASSES = 10_000
"""Different texts that a column of labels may hold."""


@dataclass(frozen=True)
class Asked:
    """What was typed: ``FILE``, ``FILE:LABEL`` or ``FILE:LABEL:INPUT,INPUT``; LABEL may be empty for none.

    Attributes:
        path: the file or folder.
        label: name of the label's column; empty for none, None where nothing was said.
        inputs: names of the inputs' columns; None for all others.
    """

    path: Path
    label: str | None = None
    inputs: tuple[str, ...] | None = None


def parsed(text: str) -> Asked:
    """What stands behind ``csv:``; the file is the longest beginning that exists, for names may hold colons."""
    pieces = text.split(":")
    cuts = [cut for cut in range(len(pieces), 0, -1) if len(pieces) - cut <= 2]
    found = next((cut for cut in cuts if Path(":".join(pieces[:cut])).expanduser().exists()), 1)
    path = Path(":".join(pieces[:found])).expanduser()
    label, *inputs = (*pieces[found:],) or (None,)
    return Asked(path, label, tuple(inputs[0].split(",")) if inputs and inputs[0] else None)


@dataclass(frozen=True)
class Chosen:
    """Names of the columns that are read.

    Attributes:
        inputs: at least one.
        label: None for none.
        notes: what was chosen, where nothing was said.
    """

    inputs: tuple[str, ...]
    label: str | None
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """All of them."""
        return [*self.inputs, *([] if self.label is None else [self.label])]


def chosen(name: str, asked: Asked, columns: Sequence[str]) -> Chosen:
    """Which of the columns are inputs and which is the label.

    Raises:
        DataError: a column that was asked for is not there, or none is left to be an input.
    """
    for each in (*(asked.inputs or ()), asked.label):
        if each and each not in columns:
            raise DataError(f"{name}: no column {each!r}{did_you_mean(each, columns)}; it has {listed(columns)}")
    label = asked.label or None
    notes: tuple[str, ...] = ()
    if asked.label is None:
        label = next((each for known in TARGET_NAMES for each in columns if each.lower() == known), None)
        if label is None:
            notes = (
                f"No column of {name} is called label, target or y: there are no labels; FILE:COLUMN names one.",
            )
    inputs = asked.inputs or tuple(each for each in columns if each != label)
    if not inputs:
        raise DataError(f"{name}: no column is left for the inputs beside {label!r}")
    return Chosen(inputs, label, notes)


class Labels:
    """What the cells of a column of labels mean, known once it has been gone through.

    Whole numbers are classes; other numbers are to be met; texts are classes in the order of the alphabet.
    """

    def __init__(self, name: str, column: str) -> None:
        self._name, self._column = name, column
        self._texts: set[str] = set()
        self._kind: Literal["", "whole", "number", "text"] = ""
        self._largest = 0
        self._places: dict[str, int] = {}

    def see(self, cells: Iterable[Any]) -> None:
        """Take note of some cells.

        Raises:
            DataError: one is empty or can be no label, or there are too many different texts.
        """
        for cell in cells:
            if cell is None or cell == "":
                raise DataError(
                    f"{self._name}: column {self._column!r} has an empty cell; every sample needs a label"
                )
            if isinstance(cell, str):
                self._see_text(cell)
            elif isinstance(cell, int) and self._kind in ("", "whole"):
                self._kind, self._largest = "whole", max(self._largest, cell)
            elif isinstance(cell, int | float):
                self._kind = "number"
            else:
                raise DataError(
                    f"{self._name}: column {self._column!r} holds {type(cell).__name__} and can be no labels; name "
                    "another: FILE:COLUMN"
                )

    def _see_text(self, cell: str) -> None:
        self._kind = "text"
        self._texts.add(cell)
        if len(self._texts) > MOST_CLASSES:
            raise DataError(
                f"{self._name}: column {self._column!r} holds more than {MOST_CLASSES:,} different texts: are they "
                "labels? FILE:COLUMN names another"
            )

    @property
    def classes(self) -> int | None:
        """Number of classes; None of numbers to be met."""
        if self._kind == "number":
            return None
        return len(self._texts) if self._kind == "text" else self._largest + 1

    def array(self, cells: Sequence[Any]) -> npt.NDArray[Any]:
        """The targets of some samples."""
        import numpy as np

        if self._kind == "text":
            if len(self._places) < len(self._texts):
                self._places = {text: place for place, text in enumerate(sorted(self._texts))}
            return np.array([self._places[cell] for cell in cells], np.int64)
        return np.array(cells, np.float32 if self._kind == "number" else np.int64)


def padded(rows: Sequence[npt.NDArray[np.int64]], most: int | None = None) -> dict[str, npt.NDArray[np.int64]]:
    """Ids of texts, cut at `most`, with zeros behind the shorter ones and the mask that tells these."""
    import numpy as np

    cut = [row[:most] for row in rows]
    longest = max(1, *(len(row) for row in cut))
    ids, mask = (np.zeros((len(cut), longest), np.int64) for _ in range(2))
    for place, row in enumerate(cut):
        ids[place, : len(row)] = row
        mask[place, : len(row)] = 1
    return {"input_ids": ids, "attention_mask": mask}
