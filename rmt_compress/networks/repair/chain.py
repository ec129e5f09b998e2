"""The chain of blocks of a network: the smallest modules that are called one after another.

What a block reads must depend on the output of the one before it and of none further back, so that hidden states at
one place are all that has to be kept. Which modules are such is seen by running the network: with NaN in place of
all outputs but one, a NaN that arrives shows a way around (a residual connection, a skip, an encoder's memory). No
name and no class is looked at; decoder and encoder layers, ResNet stages and the layers of an MLP come out by
themselves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from rmt_compress.networks.repair.relay import Ask, Relay, outline

if TYPE_CHECKING:
    from torch import nn

WHOLE: tuple[str, ...] = ("",)
"""The chain of a network in which none can be found: itself."""


def split_layers(small: nn.Module, original: nn.Module) -> list[str]:
    """Paths of the layers of `original` that are two in `small`, ``down`` and ``up``."""
    there = dict(small.named_modules())
    return [
        path
        for path, module in original.named_modules()
        if module._parameters.get("weight") is not None
        and path in there
        and {"down", "up"} == there[path]._modules.keys()
        and all(part is not None and part._parameters.get("weight") is not None for part in there[path].children())
    ]


def inside(path: str, block: str) -> bool:
    """Whether a module is in a block, or the block itself."""
    return not block or path == block or path.startswith(f"{block}.")


def find_chain(model: nn.Module, layers: Collection[str], ask: Ask, inputs: Any) -> tuple[str, ...]:
    """Paths of the smallest blocks that form a chain and together contain all of `layers`.

    Begins with the whole network and takes, for a block, the modules that it calls, as long as they form a chain.

    Args:
        model: the network, in evaluation mode.
        layers: paths of the layers that each must be in one of the blocks.
        ask: calls the network.
        inputs: a few samples.
    """
    blocks: tuple[str, ...] = WHOLE
    order = _calls(model, ask, inputs)
    refused: set[str] = set()
    while True:
        parts = {
            block: found
            for block in blocks
            if block not in refused and (found := _parts(model, block, layers, order)) is not None
        }
        if not parts:
            return blocks
        outputs = _outputs(model, {*blocks, *(path for found in parts.values() for path in found)}, ask, inputs)
        for block, found in parts.items():
            at = blocks.index(block)
            finer = (*blocks[:at], *found, *blocks[at + 1 :])
            if _forms_chain(model, finer, range(at, at + len(found) + 1), ask, inputs, outputs):
                blocks = finer
            else:
                refused.add(block)


class Chain(NamedTuple):
    """Blocks, of which each reads what the one before has returned, and maybe what one and the same has.

    Attributes:
        paths: of the blocks, as they are called.
        memory: number of the block whose output those further on may read too, as a decoder's blocks do the
            encoder's; None where there is none.
    """

    paths: tuple[str, ...]
    memory: int | None


def find_chain_with_memory(
    model: nn.Module,
    layers: Collection[str],
    ask: Ask,
    inputs: Any,
    size: Callable[[str], int],
) -> Chain:
    """As `find_chain`; one block may be read by all behind it where this parts the largest ones further.

    Args:
        model: the network, in evaluation mode.
        layers: paths of the layers that each must be in one of the blocks.
        ask: calls the network.
        inputs: a few samples.
        size: of a block.
    """
    order = _calls(model, ask, inputs)
    chain: Chain | None = Chain(find_chain(model, layers, ask, inputs), None)
    best = None
    while chain is not None:
        paths, largest = chain.paths, max(chain.paths, key=size)
        if best is None or size(largest) < max(map(size, best.paths)):
            best = chain
        found, at = _parts(model, largest, layers, order), paths.index(largest)
        finer = None if found is None else (*paths[:at], *found, *paths[at + 1 :])
        chain = None if finer is None else _with_memory(model, finer, ask, inputs)
    assert best is not None
    return best


def _with_memory(model: nn.Module, blocks: tuple[str, ...], ask: Ask, inputs: Any) -> Chain | None:
    """The blocks as a chain, and which of them is its memory; None where one is not enough."""
    relay, outputs = Relay(model, blocks, ask), _outputs(model, blocks, ask, inputs)
    memory: int | None = None
    for at in range(1, len(blocks) + 1):
        # The one that the next one reads too is most often the one before it.
        tried = (None, *reversed(range(at - 1))) if memory is None else (memory,)
        for memory in tried:
            # A decoder's embeddings are given tokens alone.
            if _suffices(relay, at, inputs, outputs, {at - 1, memory}, nothing=True):
                break
        else:
            return None
    return Chain(blocks, memory)


def calls_in_order(model: nn.Module, ask: Ask, inputs: Any) -> list[tuple[str, int]]:
    """Paths of the modules as they are called, and how often each is in all."""
    seen: list[str] = []
    with _hooked(model, [path for path, _ in model.named_modules()], lambda path, _: seen.append(path), pre=True):
        ask(inputs)
    times = Counter(seen)
    return [(path, times[path]) for path in seen]


def _calls(model: nn.Module, ask: Ask, inputs: Any) -> dict[str, int]:
    """Path of every module that is called exactly once -> when; those that are called oftener have −1."""
    return {path: at if count == 1 else -1 for at, (path, count) in enumerate(calls_in_order(model, ask, inputs))}


def _parts(model: nn.Module, block: str, layers: Collection[str], order: dict[str, int]) -> tuple[str, ...] | None:
    """The nearest modules below `block` that are called and have a layer in them; None where there are none."""
    if block in layers:
        return None
    found: list[str] = []
    waiting = [block]
    while waiting:
        path = waiting.pop()
        for name, child in model.get_submodule(path).named_children():
            own = f"{path}.{name}" if path else name
            if not any(inside(layer, own) for layer in layers):
                continue
            if own in order:
                found.append(own)
            elif own in layers or not child._modules:
                # Its weight is read without a call: by the block itself.
                return None
            else:
                waiting.append(own)
    if not found or any(order[path] < 0 for path in found):
        return None
    return tuple(sorted(found, key=order.__getitem__))


def _outputs(model: nn.Module, paths: Collection[str], ask: Ask, inputs: Any) -> dict[str, Any]:
    """What these modules return."""
    kept: dict[str, Any] = {}
    with _hooked(model, list(paths), kept.__setitem__, pre=False):
        ask(inputs)
    return kept


def _forms_chain(
    model: nn.Module, blocks: Sequence[str], places: range, ask: Ask, inputs: Any, outputs: dict[str, Any]
) -> bool:
    """Whether at these places what a block is given, or at the end the answer, depends on the one before alone."""
    relay = Relay(model, blocks, ask)
    return all(_suffices(relay, at, inputs, outputs, {at - 1}) for at in places if at > 0)


def _suffices(
    relay: Relay,
    at: int,
    inputs: Any,
    outputs: Mapping[str, Any],
    read: Collection[int | None],
    *,
    nothing: bool = False,
) -> bool:
    """Whether what block `at` is given, or behind the last the answer, depends on the outputs of these alone.

    `nothing`: whether it may be given no floating-point numbers at all.
    """
    before = [
        outputs[path] if number in read else outline(outputs[path]) for number, path in enumerate(relay.blocks[:at])
    ]
    try:
        arrived = relay.arrives(at, inputs, before)
    # A network may look at its numbers, and refuse NaN.
    except (RuntimeError, ValueError, TypeError, IndexError):
        return False
    return (nothing or bool(arrived)) and not any(bool(tensor.isnan().any()) for tensor in arrived)


@contextmanager
def _hooked(model: nn.Module, paths: Sequence[str], tell: Any, *, pre: bool) -> Iterator[None]:
    """`tell(path, output)` for every call of one of these modules; before it, with None, for `pre`."""
    handles = []
    for path in paths:
        module = model.get_submodule(path)
        if pre:
            handles.append(module.register_forward_pre_hook(lambda *_, path=path: tell(path, None)))
        else:
            handles.append(module.register_forward_hook(lambda *call, path=path: tell(path, call[-1])))
    try:
        with torch.no_grad():
            yield
    finally:
        for handle in handles:
            handle.remove()
