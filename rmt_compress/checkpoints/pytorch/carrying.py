"""What a training checkpoint holds beside its weights, on its way into a smaller file."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from rmt_compress.checkpoints.beside import Carried
from rmt_compress.checkpoints.pytorch.inert_weights import kind_inside
from rmt_compress.checkpoints.state_dicts import kind_of


def carry(saved: Any, trail: tuple[str, ...], *, check: bool) -> Carried:
    """Everything in `saved` but the weights, what belongs to their old shapes, and what would need code to load.

    The state of an optimizer holds a moment for every entry of the old weights, so it no longer fits and is left
    out; schedules, counters, hyper-parameters, callbacks and other sets of weights are carried as they are.

    Args:
        saved: what the file holds.
        trail: the keys to the weights.
        check: whether there may be objects that a weights-only reader does not load.
    """
    entries: dict[str, Any] = {}
    left: list[tuple[str, str]] = []
    rest = _without(saved, trail) if trail else {}
    for key, entry in rest.items():
        if not isinstance(key, str):
            left.append((str(key), "its key is no text"))
        elif kind_of(entry) == "optimizer state" or "optim" in key.lower():
            left.append((key, "the state of an optimizer does not fit other weights"))
        elif (kind := kind_inside(entry)) is not None:
            left.append((key, f"it holds a {kind}, which was not loaded"))
        elif check and not loads_as_plain(entry):
            left.append((key, "it cannot be loaded without running code"))
        else:
            entries[key] = entry
    return Carried(entries, tuple(left))


def _without(entry: Mapping[Any, Any], trail: tuple[str, ...]) -> dict[Any, Any]:
    """A copy of nested mappings without what stands at the end of `trail`, and without what that leaves empty."""
    rest = {key: value for key, value in entry.items() if key != trail[0]}
    inner = _without(entry[trail[0]], trail[1:]) if len(trail) > 1 else None
    return {**rest, trail[0]: inner} if inner else rest


def loads_as_plain(entry: object) -> bool:
    """Whether torch's weights-only reader gives back what is saved of an object."""
    import torch

    buffer = io.BytesIO()
    try:
        torch.save(entry, buffer)
        buffer.seek(0)
        torch.load(buffer, weights_only=True)
    except Exception:  # whatever a stranger's object does when it is pickled
        return False
    return True
