"""Changes to JSON: one value of the tree becomes another, goes, comes twice or stands elsewhere."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from fuzz.mutating import octets

_DEEP, _TWICE = "\ue000deep", "\ue000twice"
_VALUES: tuple[Any, ...] = (
    *(None, True, False, [], {}, "", -1, 0.5, 1e308, float("nan"), float("inf"), [[]], {"": {}}, ["a"] * 50),
    *([0] * 100, {"as_int": -1}, {"as_name": "x"}, _DEEP, "\ud800", 10**30),
)


def mutate(data: bytes, rng: Random) -> bytes:
    """One change to JSON text; what is none is changed as bytes."""
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        return octets.digits(data, rng)
    if rng.random() < 0.1:
        return octets.digits(data, rng)
    text = json.dumps(changed(tree, rng)).replace(json.dumps(_DEEP), "[" * 100_000 + "]" * 100_000)
    return text.encode()


def changed(tree: Any, rng: Random) -> Any:
    """The tree with one change somewhere in it; text that is JSON itself is gone into."""
    inside = isinstance(tree, dict | list) and len(tree) and rng.random() < 0.85
    if isinstance(tree, str) and tree[:1] in ("{", "[") and rng.random() < 0.9:
        return mutate(tree.encode(), rng).decode(errors="replace")
    if not inside:
        return _other(tree, rng)
    tree = dict(tree) if isinstance(tree, dict) else list(tree)
    keys = list(tree) if isinstance(tree, dict) else range(len(tree))
    key, what = rng.choice(keys), rng.random()
    if what < 0.75:
        tree[key] = changed(tree[key], rng)
    elif what < 0.85:
        del tree[key]
    elif what < 0.93:
        tree[key] = tree[rng.choice(keys)]
    elif isinstance(tree, list):
        tree.insert(rng.randrange(len(tree) + 1), tree[key])
    else:
        tree[rng.choice((*octets.TEXTS, *map(str, keys)))] = tree.pop(key)
    return tree


def _other(value: Any, rng: Random) -> Any:
    if isinstance(value, bool) or rng.random() < 0.25:
        return rng.choice(_VALUES)
    if isinstance(value, int | float):
        return rng.choice((value + 1, value - 1, -value, value * 2, *octets.NUMBERS, str(value)))
    if isinstance(value, str):
        return rng.choice((value + "x", value[:-1], value.upper(), *octets.TEXTS))
    return rng.choice(_VALUES)
