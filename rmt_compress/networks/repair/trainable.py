"""What of a block may change: the factors, biases and norms (method.md §13 c)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from rmt_compress.networks.repair.chain import calls_in_order, inside

if TYPE_CHECKING:
    from torch import nn

    from rmt_compress.networks.repair.relay import Ask


def trainable(
    model: nn.Module, blocks: Sequence[str], layers: Collection[str], ask: Ask, inputs: Any
) -> list[list[nn.Parameter]]:
    """For every block its parameters that may change.

    These are the factors of its split layers, its biases, what its norms scale and shift by, and the norms between
    it and the next block. What is shared with anything else stays.

    Args:
        model: the compressed network.
        blocks: its chain, see `find_chain`.
        layers: paths of the layers that are split.
        ask: calls it.
        inputs: a few samples.
    """
    homes = _homes(model, blocks, ask, inputs)
    factors = {f"{path}.{part}.weight" for path in layers for part in ("down", "up")}
    found: list[dict[int, nn.Parameter]] = [{} for _ in blocks]
    places: dict[int, set[int | None]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        path, _, own = name.rpartition(".")
        at = homes.get(path)
        may_change = name in factors or own == "bias" or _is_norm(model.get_submodule(path))
        places.setdefault(id(parameter), set()).add(at if may_change else None)
        if at is not None and may_change and parameter.is_floating_point():
            found[at][id(parameter)] = parameter
    return [[parameter for key, parameter in own.items() if places[key] == {at}] for at, own in enumerate(found)]


def _homes(model: nn.Module, blocks: Sequence[str], ask: Ask, inputs: Any) -> dict[str, int]:
    """Path of a module in a block, or of a norm behind one -> number of the block."""
    homes: dict[str, int] = {}
    number: int | None = None
    names = {path: at for at, path in enumerate(blocks)}
    for path, calls in calls_in_order(model, ask, inputs):
        number = names.get(path, number)
        # Training ends with the last block itself.
        if number is None or number + 1 == len(blocks) or calls != 1 or inside(path, blocks[number]):
            continue
        if _is_norm(model.get_submodule(path)):
            homes[path] = number
    for path, _ in model.named_modules(remove_duplicate=False):
        for at, block in enumerate(blocks):
            if inside(path, block):
                homes[path] = at
    return homes


def _is_norm(module: nn.Module) -> bool:
    """Whether a module only scales and shifts: its class says so, in torch and in what others write."""
    parameters = [parameter for parameter in module._parameters.values() if parameter is not None]
    name = type(module).__name__.lower()
    return "norm" in name and bool(parameters) and not module._modules
