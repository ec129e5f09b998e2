"""What a training checkpoint holds beside its weights: told, and on its way into a smaller file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple


class Beside(NamedTuple):
    """Something a file holds beside its weights.

    Attributes:
        name: the keys that lead to it, with dots between.
        kind: what it is, in a few words (``optimizer state``).
    """

    name: str
    kind: str


class Unloaded:
    """An object whose class was not imported: what its pickle says of it, and nothing that could run.

    Attributes:
        kind: dotted name of its class, or of the function that would have made it.
        arguments: what that would have been called with.
        state: its attributes, or whatever else it keeps.
        entries: what was put into it as into a mapping.
        items: what was put into it as into a list.
    """

    __slots__ = ("arguments", "entries", "items", "kind", "state")

    def __init__(self, kind: str, arguments: tuple[Any, ...] = ()) -> None:
        self.kind = kind
        self.arguments = arguments
        self.state: Any = None
        self.entries: dict[Any, Any] = {}
        self.items: list[Any] = []


@dataclass(frozen=True)
class Carried:
    """What can be written beside smaller weights.

    Attributes:
        entries: by top-level key, as it was in the file.
        left: what was not carried: (name, why).
    """

    entries: Mapping[str, Any]
    left: tuple[tuple[str, str], ...]
