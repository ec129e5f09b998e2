"""What a graph takes, and how it is found in what a network is called with.

Graphs list their inputs by name, while a network is called with a tensor, several, or names (``model(x)``,
``model(*xs)``, ``model(**named)``). What encoders and decoders are exported with beside their tokens, and modules
fill in by themselves, is made here: a mask that keeps every token, places counted from 0, one kind of token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

_MADE = ("attention_mask", "position_ids", "token_type_ids")
_SEQUENCES = ("input_ids", "inputs_embeds")


@dataclass(frozen=True)
class GraphInput:
    """An input of a graph.

    Attributes:
        name: its name.
        dtype: of its entries; None where the graph does not say.
        shape: lengths of its axes, None where any will do; None as a whole where their number is not known.
        optional: whether it may be left out.
    """

    name: str
    dtype: torch.dtype | None = None
    shape: tuple[int | None, ...] | None = None
    optional: bool = False

    @property
    def made(self) -> bool:
        """Whether it is made where it is not given."""
        return not self.optional and self.name in _MADE


Feeds = dict[str, torch.Tensor]
"""Name of an input -> its value, in the order of the graph."""


def as_arguments(inputs: Any) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """Positional and named arguments of a network that is called with `inputs`, a tensor, a tuple or a mapping."""
    if isinstance(inputs, Mapping):
        return (), inputs
    return (tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)), {}


def matched(wanted: Sequence[GraphInput], given: Sequence[Any], named: Mapping[str, Any]) -> Feeds:
    """The values of a graph's inputs.

    Args:
        wanted: the inputs.
        given: what comes without a name: a single tensor goes to the input that cannot be made, several in order.
        named: what comes by name. A mask, places or kinds of tokens that the graph has no input for are left out
            where they say no more than is so without them.

    Raises:
        ValueError: inputs lack, are too many, or of other numbers of axes, lengths or types.
    """
    found = _in_order(wanted, given)
    names = [entry.name for entry in wanted]
    for name, value in named.items():
        if name in found:
            raise ValueError(f"{name} is given twice")
        if name in names:
            found[name] = value
    rest = {name: value for name, value in named.items() if name not in names and value is not None}
    found = {name: value for name, value in found.items() if value is not None}
    for name, value in found.items():
        if not isinstance(value, torch.Tensor):
            raise ValueError(f"{name} is a {type(value).__name__}, and the graph takes tensors")
    for entry in wanted:
        if entry.name not in found and entry.made:
            found[entry.name] = _make(entry, found)
    lacking = [entry.name for entry in wanted if entry.name not in found and not entry.optional]
    if lacking:
        unknown = f", and has none called {', '.join(rest)}" if rest else ""
        raise ValueError(f"the graph takes {', '.join(names)}{unknown}; {lacking[0]} is not given")
    for name, value in rest.items():
        if not _says_nothing(name, value, found):
            raise ValueError(f"the graph has no input {name}, only {', '.join(names)}")
    return {entry.name: _as_taken(entry, found[entry.name]) for entry in wanted if entry.name in found}


def _in_order(wanted: Sequence[GraphInput], given: Sequence[Any]) -> dict[str, Any]:
    if len(given) > len(wanted):
        names = ", ".join(entry.name for entry in wanted)
        raise ValueError(f"{len(given)} inputs are given, and the graph takes {len(wanted)}: {names}")
    if len(given) == 1 and wanted:
        own = [entry for entry in wanted if not (entry.made or entry.optional)]
        return {(own or wanted)[0].name: given[0]}
    return {entry.name: value for entry, value in zip(wanted, given, strict=False)}


def _make(entry: GraphInput, found: Mapping[str, torch.Tensor]) -> torch.Tensor:
    tokens = next((found[name] for name in _SEQUENCES if name in found), None)
    if tokens is None:
        tokens = next((value for value in found.values() if value.ndim >= 2), None)
    axes = None if entry.shape is None else len(entry.shape)
    if tokens is None or tokens.ndim < 2 or axes not in (None, 2, 1 if entry.name == "position_ids" else 2):
        raise ValueError(f"{entry.name} is not given, and cannot be made for a graph that takes {_spelled(entry)}")
    samples, length = tokens.shape[:2]
    if entry.name != "position_ids":
        fill = 1 if entry.name == "attention_mask" else 0
        return torch.full((samples, length), fill, device=tokens.device)
    places = torch.arange(length, device=tokens.device)
    if axes == 1:
        return places
    return places.expand(1 if entry.shape is not None and entry.shape[0] == 1 else samples, length)


def _says_nothing(name: str, value: Any, found: Mapping[str, torch.Tensor]) -> bool:
    """Whether an input that the graph does not have is as the graph takes it to be."""
    if name not in _MADE or not isinstance(value, torch.Tensor):
        return False
    made = _make(GraphInput(name), found)
    return value.shape[-1:] == made.shape[-1:] and bool((value.to(made.device) == made).all())


def _as_taken(entry: GraphInput, value: torch.Tensor) -> torch.Tensor:
    """A value of the type and the axes of its input."""
    dtype = entry.dtype
    if dtype is not None and dtype != value.dtype:
        if value.is_floating_point() != dtype.is_floating_point and entry.name not in _MADE:
            raise ValueError(f"{entry.name} takes {_type(dtype)}, and {_type(value.dtype)} is given")
        value = value.to(dtype)
    if entry.shape is None:
        return value
    if len(entry.shape) == 2 and value.ndim > 2 and value.is_floating_point():
        # A network of vectors is given images as such.
        value = value.flatten(1)
    fits = value.ndim == len(entry.shape) and all(
        length is None or length == own for length, own in zip(entry.shape[1:], value.shape[1:], strict=True)
    )
    if not fits:
        way = ""
        if value.ndim == len(entry.shape) == 2 and not value.is_floating_point():
            way = f"; its length is fixed: ask for texts of it (--sequence-length {entry.shape[1]})"
        given = "×".join(map(str, value.shape)) or "one number"
        raise ValueError(f"{entry.name} takes {_spelled(entry)}, and {given} is given{way}")
    return value


def _spelled(entry: GraphInput) -> str:
    """The shape an input takes in words; samples may be any number."""
    if entry.shape is None:
        return entry.name
    lengths = ("?" if length is None else str(length) for length in entry.shape[1:])
    return "×".join(("N", *lengths)) if entry.shape else "one number"


def _type(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


class Parts:
    """The values of one call, in as many pieces as a graph of fixed batch size takes.

    Args:
        wanted: the inputs.
        feeds: their values.

    Attributes:
        count: samples that are given.
        batch: how many the graph takes at once; None where any number will do.
    """

    def __init__(self, wanted: Sequence[GraphInput], feeds: Feeds) -> None:
        self._feeds = feeds
        first = [entry for entry in wanted if entry.name in feeds and feeds[entry.name].ndim]
        own = [entry for entry in first if not entry.made] or first
        self.count = len(feeds[own[0].name]) if own else 1
        lengths = {entry.shape[0] for entry in first if entry.shape and len(feeds[entry.name]) == self.count}
        self.batch = next((length for length in lengths if length), None) if None not in lengths else None

    def whole(self) -> Parts:
        """These without the samples that fill no piece, unless that is all."""
        if self.batch is None or self.count <= self.batch:
            return self
        kept = self.count // self.batch * self.batch
        fewer = object.__new__(Parts)
        fewer.batch, fewer.count = self.batch, kept
        fewer._feeds = {name: self._cut(value, 0, kept) for name, value in self._feeds.items()}
        return fewer

    def __iter__(self) -> Iterator[Feeds]:
        """The pieces; the last of several filled up with its own last sample."""
        if self.batch is None or self.batch == self.count:
            yield self._feeds
            return
        for start in range(0, self.count, self.batch):
            yield {name: self._piece(value, start, self.batch) for name, value in self._feeds.items()}

    def _cut(self, value: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        return value[start:stop] if value.ndim and len(value) == self.count else value

    def _piece(self, value: torch.Tensor, start: int, batch: int) -> torch.Tensor:
        if not value.ndim or len(value) != self.count:
            return value
        piece = value[start : start + batch]
        missing = batch - len(piece)
        return torch.cat([piece, piece[-1:].expand(missing, *piece.shape[1:])]) if missing else piece

    def joined(self, outputs: Sequence[Any]) -> Any:
        """The outputs of all pieces, tensors or mappings of them, as one, without what was filled up."""
        if self.batch is None or self.batch == self.count:
            return outputs[0]
        if isinstance(outputs[0], Mapping):
            return {
                name: torch.cat([part[name] for part in outputs])[: self.count]
                for name, value in outputs[0].items()
                if value.ndim
            }
        return torch.cat(list(outputs))[: self.count]
