"""Results as a table of a notebook and as a data frame."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from rmt_compress.errors import MissingDependencyError
from rmt_compress.wording import printable

if TYPE_CHECKING:
    import pandas as pd

_MOST_ROWS = 60
"""A notebook is no place for thousands; the frame has them all."""


def html_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], summary: str) -> str:
    """A table for a notebook, of its own colours; every text escaped, since names of layers are a stranger's."""
    shown = rows[:_MOST_ROWS]
    left = "text-align:left"
    head = "".join(f'<th style="{left}">{escape(column)}</th>' for column in columns)
    cells = ("".join(f'<td style="{left}">{escape(printable(cell))}</td>' for cell in row) for row in shown)
    body = "".join(f"<tr>{each}</tr>" for each in cells)
    more = f"<p>{len(rows) - len(shown)} more rows: to_pandas() has all</p>" if len(rows) > len(shown) else ""
    caption = f'<caption style="{left}">{escape(printable(title))}</caption>'
    table = f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f"{table}{more}<p>{escape(printable(summary))}</p>"


def data_frame(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """A frame with a row for each mapping: numbers, words and shapes, without what is nested deeper.

    Raises:
        MissingDependencyError: there is no pandas.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise MissingDependencyError("pandas", "notebook", "to_pandas()") from error
    return pd.DataFrame([{key: _flat(value) for key, value in row.items() if not _nested(value)} for row in rows])


def _nested(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(isinstance(each, dict | list | tuple) for each in value)
    return isinstance(value, dict)


def _flat(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
