"""What a file of weights holds that is no tensor: told, and on its way into a smaller file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Beside(NamedTuple):
    """Something a file holds beside its weights: the keys to it, dots between, and in a few words what it is."""

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
    """What can be written beside smaller weights, by top-level key; and what was not carried: (name, why)."""

    entries: Mapping[str, Any]
    left: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Home:
    """Where a state dict stood in what was saved, and what belongs to it without being a tensor.

    Attributes:
        trail: the keys that lead to it; none where it was saved alone.
        prefix: what was taken off every name.
        versions: torch's own record of its modules' versions (``_metadata``), by module path.
        extra: what modules keep of their own (`torch.nn.Module.get_extra_state`), by name in the state dict.
    """

    trail: tuple[str, ...] = ()
    prefix: str = ""
    versions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)


def is_extra_state(name: str) -> bool:
    """Whether an entry of a state dict is what a module gave from `get_extra_state`."""
    return name.rpartition(".")[2] == "_extra_state"
