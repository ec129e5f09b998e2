"""Into which blocks a network falls that is run block after block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from rmt_compress.networks.calling import tensors_in
from rmt_compress.networks.repair.chain import WHOLE, Chain, calls_in_order, find_chain_with_memory
from rmt_compress.networks.repair.pieces import one_sample
from rmt_compress.networks.streamed.blank_network import BlankProducts

if TYPE_CHECKING:
    from rmt_compress.networks.repair.relay import Ask
    from rmt_compress.networks.streamed.stored_weights import StoredWeights

_SMALL = 1 / 256
"""Weights below this share of the largest are in memory all the time, unless they lie in a block."""
_TOKENS = 8
"""Of text so many tokens show which module calls which."""


@dataclass(frozen=True)
class Blocks:
    """A chain of blocks.

    Attributes:
        paths: of the modules, in their order.
        memory: number of the one whose output all behind it may read; None where there is none.
        resident: bytes of the weights that are in none of them.
        largest: bytes of the weights of the largest block.
    """

    paths: tuple[str, ...]
    memory: int | None
    resident: int
    largest: int

    @property
    def bytes(self) -> int:
        """What weights take at most."""
        return self.resident + self.largest


def choose_blocks(model: nn.Module, weights: StoredWeights, ask: Ask, inputs: Any) -> Blocks:
    """The chain that takes the least memory: of all modules with large weights, or of those in lists alone.

    A network whose tables are added up (tokens and positions) before an encoder, or whose answer holds what several
    modules return, is no chain of all, but its blocks are.

    Args:
        model: the blank network.
        weights: its weights.
        ask: calls it.
        inputs: a batch.
    """
    sample = _short(one_sample(inputs))

    def size(path: str) -> int:
        return weights.bytes(weights.places(path))

    with BlankProducts():
        called = {path for path, _ in calls_in_order(model, ask, sample)}
        owners = [path for path in _with_large_weights(model) if path in called]
        listed = [path for path in owners if _in_list(model, path)]
        chains = [find_chain_with_memory(model, layers, ask, sample, size) for layers in (owners, listed) if layers]
    found = [_described(chain, weights) for chain in [*chains, Chain(WHOLE, None)]]
    return min(found, key=lambda blocks: blocks.bytes)


def _described(chain: Chain, weights: StoredWeights) -> Blocks:
    largest = max(weights.bytes(weights.places(path)) for path in chain.paths)
    return Blocks(*chain, weights.bytes(weights.beside(chain.paths)), largest)


def _with_large_weights(model: nn.Module) -> list[str]:
    sizes = {
        path: max((p.numel() for p in module._parameters.values() if p is not None and p.dim() > 1), default=0)
        for path, module in model.named_modules()
    }
    least = max(sizes.values(), default=0) * _SMALL
    return [path for path, size in sizes.items() if size and size >= least]


def _in_list(model: nn.Module, path: str) -> bool:
    parts = path.split(".")
    above = (model.get_submodule(".".join(parts[:count])) for count in range(len(parts)))
    return any(isinstance(module, nn.ModuleList | nn.Sequential) and len(module) > 1 for module in above)


def _short(inputs: Any) -> Any:
    """The first tokens, where all inputs are rows of whole numbers."""
    tensors = list(tensors_in(inputs))
    if any(tensor.is_floating_point() or tensor.shape != tensors[0].shape for tensor in tensors):
        return inputs
    if not tensors or tensors[0].dim() != 2:
        return inputs
    if isinstance(inputs, Mapping):
        return {key: value[:, :_TOKENS] for key, value in inputs.items()}
    if isinstance(inputs, tuple | list):
        return tuple(value[:, :_TOKENS] for value in inputs)
    return inputs[:, :_TOKENS]
