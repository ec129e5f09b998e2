"""``csv:FILE``: rows of a text file, numbers or texts, read line by line."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rmt_compress.data.columns import MOST_CLASSES, Asked, Encoder, Labels, chosen, padded
from rmt_compress.data.streams import StreamTable
from rmt_compress.errors import DataError
from rmt_compress.wording import one_line

_ROWS = 256  # of a batch as it is read


def open_csv(asked: Asked, *, length: int, encoder: Callable[[], Encoder], seed: int) -> StreamTable:
    """The rows of a file of columns.

    Columns stand between commas, semicolons or tabs, whichever is in the first line; that line names them unless it
    holds numbers alone, and they are then called 1, 2, ….

    Args:
        asked: the file and its columns.
        length: tokens of a text at most; what is longer is cut.
        encoder: gives what makes ids of a text; asked for where there is one.
        seed: of the parts.

    Raises:
        DataError: no such file, no rows, columns that are not there, cells that are neither.
    """
    name = f"csv:{asked.path}"
    table = _File(name, asked.path)
    columns = chosen(name, asked, table.header)
    places = [table.header.index(each) for each in columns.inputs]
    first = next(table.rows(), None)
    if first is None:
        raise DataError(f"{name}: no rows in it")
    place = None if columns.label is None else table.header.index(columns.label)
    count, targets_of, classes = _labels(name, table, columns.label or "", place)
    texts = [each for each, where in zip(columns.inputs, places, strict=True) if not _is(float, first[where])]
    notes = columns.notes
    if texts:
        if len(columns.inputs) > 1:
            raise DataError(
                f"{name}: column {texts[0]!r} holds text; text is asked alone: name its column, "
                f"csv:{asked.path}:{columns.label or ''}:{texts[0]}"
            )
        encode = encoder()
        notes = (*notes, f"Texts of more than {length:,} tokens are cut.")

    def start() -> Iterator[Any]:
        for number, rows in _grouped(table.rows(), _ROWS):
            targets = None if place is None else targets_of([row[place] for row in rows])
            if texts:
                yield {**padded([encode(row[places[0]]) for row in rows], length), "labels": targets}
            else:
                yield _numbers(name, table.header, places, rows, number), targets

    return StreamTable(name, start, seed, classes, notes, count)


def _labels(
    name: str, table: _File, column: str, place: int | None
) -> tuple[int, Callable[[Sequence[str]], Any], int | None]:
    """How many rows there are, what makes targets of their labels, and how many classes these are; in one pass."""
    count, largest = 0, 0
    whole = numbers = True
    texts: set[str] = set()
    for row in table.rows():
        count += 1
        if place is None:
            continue
        cell = row[place]
        whole = whole and _is(int, cell)
        numbers = numbers and _is(float, cell)
        if whole:
            largest = max(largest, int(cell))
        if not cell or len(texts) <= MOST_CLASSES:
            texts.add(cell)
    labels = Labels(name, column)
    labels.see(texts if not numbers else [largest] if whole else [0.0])
    convert: Callable[[str], Any] = int if whole else float if numbers else str
    return (
        count,
        lambda cells: labels.array([convert(cell) for cell in cells]),
        None if place is None else labels.classes,
    )


class _File:
    """A file of rows; every pass opens it again."""

    def __init__(self, name: str, path: Path) -> None:
        self._name, self._path, self._separator, self._named = name, path, ",", True
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                line = file.readline()
        except UnicodeDecodeError as error:
            raise self._not_utf8() from error
        except OSError as error:
            raise DataError(f"{name}: no such file can be read ({one_line(error)})") from error
        if not line.strip():
            raise DataError(f"{name}: the file is empty")
        self._separator = max(",;\t", key=line.count)
        first = next(csv.reader([line], delimiter=self._separator))
        self._named = not all(_is(float, cell) for cell in first)
        self.header = first if self._named else [str(number) for number in range(1, len(first) + 1)]
        if len(set(self.header)) < len(self.header):
            raise DataError(f"{name}: two columns are called the same; rename one")

    def rows(self) -> Iterator[list[str]]:
        """All rows but the names.

        Raises:
            DataError: one has more or fewer columns than the first.
        """
        csv.field_size_limit(sys.maxsize)
        try:
            with self._path.open(encoding="utf-8-sig", newline="") as file:
                reader = csv.reader(file, delimiter=self._separator)
                if self._named:
                    next(reader)
                for row in reader:
                    if len(row) != len(self.header) and row:
                        raise DataError(
                            f"{self._name}: line {reader.line_num} has {len(row)} columns, the first "
                            f"{len(self.header)}; mend it"
                        )
                    if row:
                        yield row
        except UnicodeDecodeError as error:
            raise self._not_utf8() from error
        except (OSError, csv.Error) as error:
            raise DataError(f"{self._name}: it cannot be read ({one_line(error)})") from error

    def _not_utf8(self) -> DataError:
        return DataError(f"{self._name}: it is no UTF-8 text; convert it (iconv -t utf-8)")


def _grouped(rows: Iterator[list[str]], size: int) -> Iterator[tuple[int, list[list[str]]]]:
    """Rows in groups, and the number of the first of each."""
    group: list[list[str]] = []
    done = 0
    for row in rows:
        group.append(row)
        if len(group) == size:
            yield done, group
            done += size
            group = []
    if group:
        yield done, group


def _numbers(name: str, header: Sequence[str], places: Sequence[int], rows: list[list[str]], before: int) -> Any:
    import numpy as np

    try:
        return np.array([[float(row[place]) for place in places] for row in rows], np.float32)
    except ValueError:
        for number, row in enumerate(rows, before + 1):
            for place in places:
                if not _is(float, row[place]):
                    said = repr(row[place]) if row[place] else "nothing"
                    raise DataError(
                        f"{name}: row {number:,} has {said} in column {header[place]!r}, where a number is needed; "
                        "take the row out, or name other columns: FILE:LABEL:COLUMN,COLUMN"
                    ) from None
        raise


def _is(kind: Callable[[str], object], cell: str) -> bool:
    try:
        kind(cell)
    except ValueError:
        return False
    return True
