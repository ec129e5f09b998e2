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


@dataclass(frozen=True)
class Carried:
    """What can be written beside smaller weights.

    Attributes:
        entries: by top-level key, as it was in the file.
        left: what was not carried: (name, why).
    """

    entries: Mapping[str, Any]
    left: tuple[tuple[str, str], ...]
