"""Turns of phrase that messages share: shapes, lists that may be long, a stranger's text on one line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def times(shape: Sequence[int], *, scalar: str = "a scalar") -> str:
    """``1000×784``; `scalar` for a shape of no dimensions."""
    return "×".join(map(str, shape)) or scalar


def counted(number: int, thing: str) -> str:
    """``1 layer``, ``2 layers``."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """``; did you mean mnist?``, or nothing where nothing known is written nearly so."""
    from difflib import get_close_matches

    near = get_close_matches(given.lower(), list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def listed(items: Iterable[str], limit: int = 8) -> str:
    """The first `limit` items with commas between, and how many more there are."""
    items = list(items)
    return ", ".join(items[:limit]) + (f" and {len(items) - limit} more" if len(items) > limit else "")


def problems_listed(problems: Sequence[str], limit: int = 5) -> str:
    """The first `limit` problems with semicolons between, and how many more there are."""
    return "; ".join(problems[:limit]) + (f"; and {len(problems) - limit} more" if len(problems) > limit else "")


def printable(text: str, limit: int = 1500) -> str:
    """`text` on one line, control characters escaped, cut in the middle beyond `limit` characters.

    Names inside a checkpoint are its author's: they may carry line breaks or terminal escapes.
    """
    clipped = text if len(text) <= limit else f"{text[: limit // 2]} … {text[-limit // 2 :]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in clipped)


def one_line(error: BaseException) -> str:
    """The type and message of `error` without line breaks, for the end of a one-line message."""
    said = str(error)
    if "Traceback of TorchScript" in said:
        # A program tells each of its lines first, and what went wrong in its last.
        said = said.rpartition("Error: ")[2]
    return f"{type(error).__name__}: {' '.join(said.split())}".removesuffix(": ")
