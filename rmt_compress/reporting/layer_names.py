"""Names of layers in tables: in the order of the network, told apart in little room, repeated blocks as one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

# Of a block: "layers.7.mlp", not the digit that is part of a word ("fc1").
_NUMBER_IN_NAME = re.compile(r"(?:(?<=\.)|^)\d+(?=\.|$)")
_MOST_DIGITS = 1000
_NUMBER = re.compile(r"(?<![\w.])\d+(?:,\d{3})*(?:\.\d+)?(?!\w)")


def network_order(names: Sequence[str]) -> list[int]:
    """Positions of `names`, what belongs together side by side and blocks in the order of their numbers.

    A checkpoint's own order is that of its shards, or of the alphabet (``layers.10`` before ``layers.2``). Beside
    the numbers everything stays in the order in which it first appears, in all blocks as in the first.
    """
    children: dict[str, dict[str, int]] = {}

    def place(parts: list[str], depth: int) -> tuple[int, int]:
        known = children.setdefault(block(".".join(parts[:depth])), {})
        part = parts[depth]
        # All numbers stand where the first of them appeared.
        seen = known.setdefault("*" if part.isdecimal() else part, len(known))
        return seen, _number(part) if part.isdecimal() else -1

    keys = [[place(parts, depth) for depth in range(len(parts))] for parts in (name.split(".") for name in names)]
    return sorted(range(len(names)), key=keys.__getitem__)


def _number(digits: str) -> int:
    """The number of a block; of more digits than Python takes for one, all are alike."""
    return int(digits) if len(digits) <= _MOST_DIGITS else 10**_MOST_DIGITS


def common_prefix(names: Sequence[str]) -> str:
    """What all names begin with, up to a dot; empty for fewer than two names."""
    if len(set(names)) < 2:
        return ""
    first, last = min(names), max(names)
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return first[: first[:same].rfind(".") + 1]


def names_in(width: int, names: Sequence[str]) -> tuple[str, list[str]]:
    """Names that fit into `width` characters and still differ, and the prefix that they lack.

    Whole where they fit; else without their common prefix; else with the words between the first and the last
    shortened, so that the numbers of blocks stay; else with an ellipsis for the middle of each. Where even these
    are alike or too long, the names come without their prefix, to be written on several lines.
    """
    prefix = common_prefix(names)
    rest = [name.removeprefix(prefix) for name in names]
    ways = [("", list(names)), (prefix, rest)]
    ways += [(prefix, [shorten(name, width) for name in rest]) for shorten in (_short_words, _without_middle)]
    for missing, shown in ways:
        if max(map(len, shown), default=0) <= width and len(set(shown)) == len(set(names)):
            return missing, shown
    return prefix, rest


def _without_middle(name: str, width: int) -> str:
    if len(name) <= width or width < 3:
        return name
    # The end says what a layer is: it gets the larger half.
    end = width // 2
    return f"{name[: width - end - 1]}…{name[len(name) - end :]}"


def _short_words(name: str, width: int) -> str:
    first, *middle, last = name.split(".") if name.count(".") > 1 else (name,) * 2
    shown = name
    for letters in range(12, 0, -1):
        if len(shown) <= width or not middle:
            break
        keep = letters + 1
        short = [part if part[:1].isdecimal() or len(part) <= keep else f"{part[:letters]}…" for part in middle]
        shown = ".".join([first, *short, last])
    return shown


def block(name: str) -> str:
    """What the name of a layer has in common with its like in other blocks: ``layers.*.mlp.up``."""
    return _NUMBER_IN_NAME.sub("*", name)


def blocks_named(names: Sequence[str]) -> str:
    """One name for layers of the same `block`: ``layers.0–31.mlp.up``."""
    return _merged(names, _NUMBER_IN_NAME)


def sentence(text: str) -> str:
    """What a sentence has in common with others that differ in their numbers."""
    return _NUMBER.sub("*", text)


def sentences_merged(texts: Sequence[str]) -> str:
    """One for all texts of the same `sentence`: ``rank 3–12 of 64``."""
    return _merged(texts, _NUMBER)


def span(values: Iterable[str]) -> str:
    """``3–12`` of numbers, or ``3`` where all are the same; each as it was written."""
    ordered = sorted(values, key=lambda text: float(text.replace(",", "").rstrip("%")))
    return ordered[0] if ordered[0] == ordered[-1] else f"{ordered[0]}–{ordered[-1]}"


def _merged(texts: Sequence[str], number: re.Pattern[str]) -> str:
    ranges = iter([span(each) for each in zip(*map(number.findall, texts), strict=True)])
    return number.sub(lambda _: next(ranges), texts[0])
