"""One line per setting: its default, its range, and what the command line shows of it.

    @dataclass(frozen=True)
    class FitSettings:
        alpha: float = setting(0.25, "Share of the spectrum left out.", within="(0, 0.5)")

Light on purpose: `rmt-compress --help` reads every class of settings.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from typing import Any, NamedTuple, get_type_hints


@dataclass(frozen=True)
class Setting:
    """What is known of one setting beside its name, type and default.

    Attributes:
        text: the help of its option; empty where the command line has none.
        within: the interval its number lies in, such as ``[0, 1)`` or ``[1, inf)``.
        called: what messages call it; empty for its name with dashes.
        said: what a message says of the interval; empty for words made from `within`.
        flags: of its option; empty for its name with dashes.
        metavar: of its option.
        minimum: the least number that the command line's parser takes and its help shows.
        panel: where the help shows it; None among the options that have no panel.
        default_shown: whether the help shows the default.
        without: of settings held inside others, those that the holder decides by itself.
    """

    text: str = ""
    within: str = ""
    called: str = ""
    said: str = ""
    flags: tuple[str, ...] = ()
    metavar: str | None = None
    minimum: int | None = None
    panel: str | None = None
    default_shown: bool = True
    without: tuple[str, ...] = ()


class Declared(NamedTuple):
    """A setting with its type and default; of settings held inside others the class is the type."""

    kind: Any
    default: Any
    setting: Setting

    @property
    def holds_others(self) -> bool:
        """Whether it is a whole object of settings."""
        return is_dataclass(self.kind)


def setting(default: Any, text: str = "", **more: Any) -> Any:
    """The field of one setting; see `Setting` for what may be said of it."""
    return field(default=default, metadata={"setting": Setting(text, **more)})


def held(kind: type, *, without: tuple[str, ...] = ()) -> Any:
    """The field of settings that are held whole, by default as they are by default."""
    return field(default_factory=kind, metadata={"setting": Setting(without=without)})


@cache
def declared(kind: type) -> dict[str, Declared]:
    """The settings of a class, by name."""
    hints = get_type_hints(kind)
    return {each.name: Declared(hints[each.name], each.default, each.metadata["setting"]) for each in fields(kind)}
