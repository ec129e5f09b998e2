"""Calling a network with whatever it takes, and finding in whatever it returns the tensor that counts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rmt_compress.wording import times

if TYPE_CHECKING:
    import torch
    from torch import nn

# What networks that return several things call the one that counts.
_OUTPUTS = ("logits", "prediction_logits", "last_hidden_state", "output", "out")


def placed(inputs: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Inputs on a device, floating-point ones in `dtype`; whole numbers, which name things, stay such."""
    import torch

    if isinstance(inputs, torch.Tensor):
        return inputs.to(device, dtype) if inputs.is_floating_point() else inputs.to(device)
    if isinstance(inputs, Mapping):
        return {key: placed(value, device, dtype) for key, value in inputs.items()}
    if isinstance(inputs, tuple | list):
        return tuple(placed(value, device, dtype) for value in inputs)
    return inputs


def call(model: nn.Module, inputs: Any) -> Any:
    """`model(inputs)`, or of a tuple `model(*inputs)`, of a dict `model(**inputs)`."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple | list) else model(inputs)


def main_output(outputs: Any) -> torch.Tensor | None:
    """The tensor that counts: the output itself, its logits, else its first tensor; None where there is none."""
    import torch

    if isinstance(outputs, torch.Tensor):
        return outputs
    for name in _OUTPUTS:
        found = outputs.get(name) if isinstance(outputs, Mapping) else getattr(outputs, name, None)
        if isinstance(found, torch.Tensor):
            return found
    parts = outputs.values() if isinstance(outputs, Mapping) else outputs
    if isinstance(parts, tuple | list) or isinstance(outputs, Mapping):
        return next((found for part in parts if (found := main_output(part)) is not None), None)
    return None


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """The tensors of tuples, lists, mappings and what is nested of them, in their order."""
    import torch

    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from tensors_in(each)
    elif isinstance(value, tuple | list):
        for each in value:
            yield from tensors_in(each)


def first_axis(inputs: Any) -> int:
    """How many samples inputs hold."""
    if isinstance(inputs, Mapping):
        inputs = tuple(inputs.values())
    if isinstance(inputs, tuple | list):
        return first_axis(inputs[0])
    return len(inputs)


def sizes(inputs: Any) -> str:
    """The shape of one sample in words: ``1×28×28``, ``input_ids 512, attention_mask 512``."""
    if isinstance(inputs, Mapping):
        return ", ".join(f"{key} {sizes(value)}" for key, value in inputs.items())
    if isinstance(inputs, tuple | list):
        return ", ".join(map(sizes, inputs))
    return times(inputs.shape[1:], scalar="one number") if hasattr(inputs, "shape") else type(inputs).__name__


@contextmanager
def without_cache(model: nn.Module) -> Iterator[None]:
    """`model` without the cache of keys and values that transformers' decoders return beside their outputs."""
    config: Any = getattr(model, "config", None)
    if not getattr(config, "use_cache", False):
        yield
        return
    config.use_cache = False
    try:
        yield
    finally:
        config.use_cache = True
