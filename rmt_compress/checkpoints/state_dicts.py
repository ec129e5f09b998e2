"""Finding the weights in what a checkpoint file or a caller hands over, and saying what was left alone."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sized
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rmt_compress.checkpoints.beside import Beside, Home, Unloaded, is_extra_state
from rmt_compress.errors import CheckpointError
from rmt_compress.layers.layer import TensorInfo
from rmt_compress.wording import listed

if TYPE_CHECKING:
    import torch

# Where training scripts put the weights, the first found is taken.
USUAL_KEYS = ("state_dict", "model", "model_state", "model_state_dict", "net", "params", "ema")
_PREFIXES = ("module.", "_orig_mod.")
_MAX_DEPTH = 3
_ADVICE = "save the weights alone: torch.save(model.state_dict(), …)"


@dataclass(frozen=True)
class StateDict:
    """The weights found in an object, as they stand in it, and the keys that lead to them.

    `home` are the keys that lead to them and the entries beside them that belong to them; `notes` say what was
    chosen and what was left alone, one sentence each; `beside` is what else the object holds.
    """

    tensors: Mapping[str, torch.Tensor]
    home: Home
    notes: tuple[str, ...]
    beside: tuple[Beside, ...]


def find_state_dict(value: object, where: str, weights: str | None = None) -> StateDict:
    """The one mapping of names to tensors in `value`: itself or nested, never an optimizer's state.

    The usual keys (``state_dict``, ``model``, ``model_state``, ``model_state_dict``, ``net``, ``params``,
    ``ema``) are tried in this order, then `value` itself, then its other mappings, of which only one may
    hold tensors.

    Args:
        value: what was saved or handed over.
        where: name of the file or object, for messages.
        weights: the keys that lead to the set of weights that is meant, with dots between (``ema``).

    Raises:
        CheckpointError: no tensors, none under `weights`, or several sets of them and none under a usual key.
    """
    import torch

    if isinstance(value, torch.Tensor):
        raise CheckpointError(f"{where}: holds a single tensor without a name; save it as {{'weight': tensor}}")
    if not isinstance(value, Mapping):
        raise CheckpointError(f"{where}: holds a {type(value).__name__}, no state dict; {_ADVICE}")
    trail = _trail(value, where) if weights is None else _named_trail(value, where, weights)
    if trail is None:
        found = f"only {listed(map(str, value), 6)}" if value else "nothing at all"
        raise CheckpointError(f"{where}: holds no named tensors ({found}); {_ADVICE}")
    notes = []
    beside: list[Beside] = []
    chosen: Mapping[Any, Any] = value
    for depth, key in enumerate(trail):
        beside += [
            Beside(".".join([*trail[:depth], str(other)]), kind_of(entry))
            for other, entry in chosen.items()
            if other != key
        ]
        chosen = chosen[key]
    if beside:
        held = listed((f"{entry.name} ({entry.kind})" for entry in beside), 6)
        notes.append(f"Took {'.'.join(trail)!r}; left alone: {held}.")
    tensors = {name: entry for name, entry in chosen.items() if _is_named_tensor(name, entry)}
    refuse_wrappers(tensors, where)
    extra = {
        name: entry
        for name, entry in chosen.items()
        if isinstance(name, str) and is_extra_state(name) and name not in tensors
    }
    # A tuple may be nested deeper than it could be printed.
    others = [
        str(name) if isinstance(name, str | int) else f"a {type(name).__name__}"
        for name in chosen
        if name not in tensors and name not in extra
    ]
    if others:
        notes.append(f"Entries that are no tensors left alone: {listed(others, 6)}.")
    home = Home(trail, versions=_versions(chosen), extra=extra)
    return StateDict(tensors, home, tuple(notes), tuple(beside))


def refuse_wrappers(tensors: Mapping[str, torch.Tensor], where: str) -> None:
    """Refuse tensors that have no values of their own, such as a DTensor, of which a process has a part.

    Raises:
        CheckpointError: naming the first, and what to do.
    """
    import torch

    for name, tensor in tensors.items():
        if type(tensor) in (torch.Tensor, torch.nn.Parameter) or not _has_storage(tensor):
            continue
        try:
            tensor.untyped_storage().data_ptr()
        except RuntimeError as error:
            kind = type(tensor).__name__
            way_out = (
                "its full_tensor(), or with torch.distributed.checkpoint" if kind == "DTensor" else "plain tensors"
            )
            raise CheckpointError(
                f"{where}: {name} is a {kind}, which stands for values that lie elsewhere; where it was made, save "
                f"{way_out}"
            ) from error


def _has_storage(tensor: torch.Tensor) -> bool:
    import torch

    return not (tensor.is_meta or tensor.is_nested) and tensor.layout == torch.strided


def _versions(state: Mapping[Any, Any]) -> dict[str, dict[str, Any]]:
    """What `torch.nn.Module.state_dict` notes of its modules, as far as it is what torch writes."""
    noted = getattr(state, "_metadata", None)
    return {
        path: dict(record)
        for path, record in (noted.items() if isinstance(noted, Mapping) else ())
        if isinstance(path, str)
        and isinstance(record, Mapping)
        and all(isinstance(key, str) and isinstance(value, int | str | None) for key, value in record.items())
    }


def _named_trail(value: Mapping[Any, Any], where: str, weights: str) -> tuple[str, ...]:
    """Keys from `value` to the set of weights that a user names; the error lists those there are."""
    trail: list[str] = []
    current: object = value
    rest = weights
    while rest and isinstance(current, Mapping):
        # A key may hold dots itself.
        fitting = [key for key in current if isinstance(key, str) and f"{rest}.".startswith(f"{key}.")]
        if not fitting:
            break
        key = max(fitting, key=len)
        trail.append(key)
        current, rest = current[key], rest[len(key) + 1 :]
    inner = _trail(current, where) if isinstance(current, Mapping) and not rest else None
    if inner is None:
        there = listed((".".join(found) for found in _sets(value)), 6) or "none that have a name"
        raise CheckpointError(f"{where}: holds no set of weights called {weights!r}; there are: {there}")
    return (*trail, *inner)


def _sets(value: Mapping[Any, Any], depth: int = 0) -> list[tuple[str, ...]]:
    """Keys to every set of weights below `value`."""
    found: list[tuple[str, ...]] = []
    for key, entry in value.items():
        if not isinstance(key, str) or not isinstance(entry, Mapping) or _is_optimizer(entry):
            continue
        if any(_is_named_tensor(name, tensor) and tensor.dim() > 1 for name, tensor in entry.items()):
            found.append((key,))
        elif depth < _MAX_DEPTH:
            found += [(key, *rest) for rest in _sets(entry, depth + 1)]
    return found


def kind_of(entry: object) -> str:
    """What something beside the weights is, in a few words."""
    import torch

    if isinstance(entry, Mapping):
        if _is_optimizer(entry):
            return "optimizer state"
        if entry.keys() & {"base_lrs", "_last_lr"}:
            return "learning-rate schedule"
        tensors = [name for name, tensor in entry.items() if _is_named_tensor(name, tensor) and tensor.dim() > 1]
        if tensors:
            return f"weights, {_count(entry, 'tensor')}"
        return _count(entry, "entry")
    if isinstance(entry, list | tuple):
        kinds = set(map(kind_of, entry))
        return kinds.pop() if len(kinds) == 1 and isinstance(entry[0], Mapping) else _count(entry, "entry")
    if isinstance(entry, torch.Tensor):
        return f"tensor {'×'.join(map(str, entry.shape))}" if entry.dim() else "number"
    if isinstance(entry, bool) or entry is None:
        return str(entry)
    if isinstance(entry, int | float):
        return "number"
    if isinstance(entry, Unloaded):
        return entry.kind
    return "text" if isinstance(entry, str) else type(entry).__name__


def _trail(value: Mapping[Any, Any], where: str, depth: int = 0) -> tuple[str, ...] | None:
    """Keys from `value` to the mapping that holds the weights; None where there are none."""
    if depth > _MAX_DEPTH or _is_optimizer(value):
        return None
    nested = {
        key: entry
        for key, entry in value.items()
        if isinstance(key, str) and isinstance(entry, Mapping) and "optim" not in key.lower()
    }
    for key in USUAL_KEYS:
        if key in nested and (rest := _trail(nested[key], where, depth + 1)) is not None:
            return (key, *rest)
    own = [entry for name, entry in value.items() if _is_named_tensor(name, entry)]
    # Counters are saved as scalar tensors too: beside a nested set of tensors they are not the weights.
    if any(tensor.is_nested or tensor.dim() > 1 for tensor in own):
        return ()
    trails = [
        (key, *rest)
        for key, entry in nested.items()
        if key not in USUAL_KEYS and (rest := _trail(entry, where, depth + 1)) is not None
    ]
    if len(trails) > 1:
        several = listed((".".join(trail) for trail in trails), 6)
        raise CheckpointError(
            f"{where}: holds several sets of tensors ({several}); name one with --weights "
            "(open_checkpoint(…, weights=…))"
        )
    if trails:
        return trails[0]
    return () if own else None


def _count(entry: Sized, what: str) -> str:
    many = what.removesuffix("y") + ("ies" if what.endswith("y") else "s")
    return f"{len(entry)} {what if len(entry) == 1 else many}"


def _is_optimizer(value: Mapping[Any, Any]) -> bool:
    return "param_groups" in value and "state" in value


def _is_named_tensor(name: object, entry: object) -> bool:
    import torch

    return isinstance(name, str) and isinstance(entry, torch.Tensor)


def common_prefix(names: list[str]) -> str:
    """What wrappers put before every name: a run of ``module.`` (parallel) and ``_orig_mod.`` (compiled)."""
    prefix = ""
    while names:
        step = next((p for p in _PREFIXES if all(name[len(prefix) :].startswith(p) for name in names)), None)
        if step is None or any(len(name) == len(prefix) + len(step) for name in names):
            break
        prefix += step
    return prefix


def describe(name: str, tensor: torch.Tensor) -> TensorInfo:
    """Name, shape and type of `tensor`, and why it is not to be read as a weight, where its storage shows."""
    import torch

    dtype = str(tensor.dtype).removeprefix("torch.")
    nbytes = tensor.numel() * tensor.element_size()
    if tensor.is_nested:
        # Of a jagged one the number of entries is counted, not known.
        return TensorInfo(
            name,
            (sum(part.numel() for part in tensor.unbind()),),
            dtype,
            nbytes,
            "a nested tensor, of no one shape",
        )
    skip = "state of a module's own, no weight" if is_extra_state(name) else None
    if tensor.is_meta:
        skip = "on the meta device: a shape without values"
    elif tensor.layout != torch.strided:
        skip = f"stored sparse ({str(tensor.layout).removeprefix('torch.')}), not as a dense matrix"
    elif is_expanded(tensor):
        skip = f"an expanded view: {tensor.untyped_storage().nbytes()} bytes repeated to fill {nbytes}"
    return TensorInfo(name, tuple(tensor.shape), dtype, nbytes, skip)


def is_expanded(tensor: torch.Tensor) -> bool:
    """Whether a dense copy of `tensor` takes more memory than is stored for it."""
    if not _has_storage(tensor):
        return False
    return tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes()


def find_ties(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[str, ...]]:
    """First name -> other names, of tensors that are the same values in memory (tied weights)."""
    groups: dict[Hashable, list[str]] = {}
    for name, tensor in tensors.items():
        groups.setdefault(_place(tensor), []).append(name)
    return {first: tuple(others) for first, *others in groups.values() if others}


def _place(tensor: torch.Tensor) -> Hashable:
    """The same for two tensors that are one: storage, offset, shape, stride; else the object itself."""
    if not _has_storage(tensor):
        return id(tensor)
    if tensor.untyped_storage().data_ptr() == 0:
        return id(tensor)
    return (
        tensor.device,
        tensor.untyped_storage().data_ptr(),
        tensor.storage_offset(),
        tensor.shape,
        tensor.stride(),
        tensor.dtype,
    )
