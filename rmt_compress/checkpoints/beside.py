"""What a training checkpoint holds beside its weights: told, and on its way into a smaller file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple


class Beside(NamedTuple):
    """Something a file holds beside its weights: the keys to it, dots between, and in a few words what it is."""

    name: str
    kind: str


@dataclass(frozen=True)
class Carried:
    """What can be written beside smaller weights, by top-level key; and what was not carried: (name, why)."""

    entries: Mapping[str, Any]
    left: tuple[tuple[str, str], ...]
