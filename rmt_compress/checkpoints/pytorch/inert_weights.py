"""The weights in what was read without running its pickle, and whether they can be had like that."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from rmt_compress.checkpoints.beside import Unloaded
from rmt_compress.checkpoints.pytorch.inert_objects import Global, InertPickleError, Storage
from rmt_compress.checkpoints.state_dicts import USUAL_KEYS, find_state_dict
from rmt_compress.errors import CheckpointError

if TYPE_CHECKING:
    import torch

# What is deeper, or has more entries once every repetition counts, was made to keep a reader busy.
_MAX_DEPTH = 60
_MAX_ENTRIES = 10_000_000
# Mappings that may hold weights are no deeper.
_MAPPINGS = 4

_KINDS = {"f": "float", "i": "int", "u": "uint", "c": "complex"}


def check_size(value: Any) -> None:
    """Refuse nested lists and mappings that no walk comes to the end of.

    Raises:
        InertPickleError: it contains itself, is nested too deep, or has too many entries.
    """
    sizes: dict[int, tuple[int, int]] = {}
    entered: set[int] = set()

    def measure(part: Any, depth: int) -> tuple[int, int]:
        if not isinstance(part, Mapping | list | tuple | set | frozenset):
            return 1, 0
        if id(part) in sizes:
            return sizes[id(part)]
        if id(part) in entered or depth > _MAX_DEPTH:
            raise InertPickleError(f"contains itself, or nests deeper than {_MAX_DEPTH} levels")
        entered.add(id(part))
        entries, height = 1, 0
        for inner in part.values() if isinstance(part, Mapping) else part:
            more, below = measure(inner, depth + 1)
            entries, height = entries + more, max(height, below + 1)
        if entries > _MAX_ENTRIES or depth + height > _MAX_DEPTH:
            raise InertPickleError("nests deeper than a checkpoint does, or repeats itself without end")
        sizes[id(part)] = entries, height
        return entries, height

    measure(value, 0)


def readied(saved: Any) -> Any:
    """`saved` with mappings that hold tensors as such, whatever their class, and NumPy's arrays as tensors.

    Arrays become tensors where they stand among tensors, or where there are no tensors at all: elsewhere they are
    what is beside the weights, such as a confusion matrix.
    """
    return _readied(saved, not _holds_tensors(saved), {}, 0)


def _readied(value: Any, alone: bool, done: dict[int, Any], depth: int) -> Any:
    import torch

    if id(value) in done:
        return done[id(value)]
    mapping = value
    if isinstance(value, Unloaded) and not _holds_tensors(value.state) and (alone or _holds_tensors(value.entries)):
        mapping = value.entries
    if not isinstance(mapping, dict) or not mapping or depth > _MAPPINGS:
        return value
    made = {key: _readied(entry, alone, done, depth + 1) for key, entry in mapping.items()}
    tensors = sum(isinstance(entry, torch.Tensor) for entry in made.values())
    arrays = {key: array for key, entry in made.items() if (array := as_tensor(entry)) is not None}
    if arrays and (alone or (tensors and tensors + len(arrays) == len(made))):
        made.update(arrays)
    done[id(value)] = made
    return made


def as_tensor(value: Any) -> torch.Tensor | None:
    """The values of a NumPy array whose element type torch has too; None of anything else."""
    import torch

    if not isinstance(value, Unloaded):
        return None
    if value.kind == "numpy.ndarray" and isinstance(value.state, tuple) and len(value.state) == 5:
        _, shape, kind, columns_first, content = value.state
    elif value.kind.endswith(".numeric._frombuffer") and len(value.arguments) == 4:
        content, kind, shape, order = value.arguments
        columns_first = order == "F"
    else:
        return None
    dtype = _dtype(kind)
    sizes = shape if isinstance(shape, tuple) and all(type(size) is int and size >= 0 for size in shape) else None
    if dtype is None or sizes is None or type(content) is not bytes:
        return None
    if not content:
        return torch.empty(sizes, dtype=dtype) if 0 in sizes else None
    try:
        values = torch.frombuffer(bytearray(content), dtype=dtype)
        return (
            values.reshape(sizes[::-1]).permute(*range(len(sizes))[::-1])
            if columns_first
            else values.reshape(sizes)
        )
    except (ValueError, RuntimeError, TypeError, OverflowError):
        return None


def _dtype(kind: Any) -> torch.dtype | None:
    """The element type of a pickled ``numpy.dtype``, of this machine's byte order."""
    import torch

    if not isinstance(kind, Unloaded) or kind.kind != "numpy.dtype" or not kind.arguments:
        return None
    code, order = kind.arguments[0], kind.state[1] if isinstance(kind.state, tuple) and len(kind.state) > 1 else "|"
    if not isinstance(code, str) or order not in ("<", "|", "="):
        return None
    if code == "b1":
        return torch.bool
    name = _KINDS.get(code[:1], "")
    dtype = (
        getattr(torch, f"{name}{int(code[1:]) * 8}", None)
        if name and code[1:] in ("1", "2", "4", "8", "16")
        else None
    )
    return dtype if isinstance(dtype, torch.dtype) else None


def needs_classes(saved: Any, weights: str | None, where: str) -> bool:
    """Whether the weights, or what a reader would take for them first, are inside an object that was not loaded.

    Args:
        saved: see `readied`.
        weights: see `open_checkpoint`.
        where: name of the file, for messages.

    Raises:
        CheckpointError: there are no weights, in no object either; see `find_state_dict`.
    """
    try:
        found = find_state_dict(saved, where, weights)
    except CheckpointError:
        if any(map(_is_tensor, _parts(saved, inside=True))) or isinstance(saved, Unloaded):
            return True
        raise
    chosen = saved
    for key in found.home.trail:
        chosen = chosen[key]
    inside = [entry for entry in chosen.values() if isinstance(entry, Unloaded)]
    if weights is None:
        first = found.home.trail[0] if found.home.trail else None
        before = USUAL_KEYS[: USUAL_KEYS.index(first)] if first in USUAL_KEYS else USUAL_KEYS
        inside += [saved[key] for key in before if isinstance(saved.get(key), Unloaded)]
    return any(_is_tensor(part) for entry in inside for part in _parts(entry, inside=True))


def kind_inside(entry: Any) -> str | None:
    """The class of the first object in `entry` that was not loaded; None where all of it was."""
    for part in _parts(entry, inside=False):
        if isinstance(part, Unloaded):
            return part.kind
        if isinstance(part, Global):
            return part.name
    return None


def _holds_tensors(value: Any) -> bool:
    return any(map(_is_tensor, _parts(value, inside=False)))


def _is_tensor(part: Any) -> bool:
    import torch

    if isinstance(part, Unloaded):
        return part.kind.startswith("torch._utils._rebuild_") or part.kind.startswith("torch._tensor._rebuild_")
    return isinstance(part, torch.Tensor | Storage)


def _parts(value: Any, *, inside: bool) -> Iterable[Any]:
    """`value` and everything in it, each once.

    Args:
        value: what was read.
        inside: whether to look into objects that were not loaded, and not only at what was put into them.
    """
    left, seen = [value], set()
    while left:
        part = left.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        yield part
        if isinstance(part, Mapping):
            left += [*part, *part.values()]
        elif isinstance(part, list | tuple | set | frozenset):
            left += part
        elif isinstance(part, Unloaded):
            left += [*part.entries.values(), *part.items]
            left += [part.arguments, part.state] if inside else []
