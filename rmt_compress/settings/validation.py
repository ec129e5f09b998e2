"""Whether settings are among their choices and in their ranges, in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from rmt_compress.errors import SettingsError
from rmt_compress.settings.declaring import Declared, declared


def problems_of(settings: Any) -> list[str]:
    """One message for every setting that is none of its choices, or out of its range."""
    return [
        f"{each.setting.called or name.replace('_', '-')} {wrong}"
        for name, each in declared(settings.__class__).items()
        if (wrong := _wrong(getattr(settings, name), each))
    ]


def refuse(problems: Sequence[str]) -> None:
    """Raise all problems at once, if there are any, each once."""
    if problems:
        raise SettingsError(list(dict.fromkeys(problems)))


def choices(kind: object) -> tuple[str, ...]:
    """The values of a `Literal`, or of one that may be None; none of any other type."""
    if get_origin(kind) in (Union, UnionType):
        others = [each for each in get_args(kind) if each is not NoneType]
        return choices(others[0]) if len(others) == 1 else ()
    return get_args(kind) if get_origin(kind) is Literal else ()


def _wrong(value: Any, declared: Declared) -> str:
    known, within = choices(declared.kind), declared.setting.within
    if known and value is not None and value not in known:
        return f"must be {' or '.join(known)}, got {value!r}"
    if not within or value is None or _inside(value, within):
        return ""
    got = f"{value:g}" if isinstance(value, float) else value
    return f"{declared.setting.said or _in_words(within)}, got {got}"


def _inside(value: float, interval: str) -> bool:
    low, high = map(float, interval[1:-1].split(","))
    above = low <= value if interval[0] == "[" else low < value
    return above and (value <= high if interval[-1] == "]" else value < high)


def _in_words(interval: str) -> str:
    low, high = interval[1:-1].split(", ")
    if math.isinf(float(high)):
        if interval[0] == "(":
            return f"must be above {low}"
        return "must be 0 or more" if low == "0" else f"must be at least {low}"
    if interval[0] + interval[-1] in ("()", "[]"):
        return f"must lie between {low} and {high}"
    return f"must lie in {interval}"
