"""Small weights set to zero while training, and kept there or not (BSSZ24 §4.2.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from rmt_compress.checkpoints.memory import ModuleCheckpoint
from rmt_compress.layers.zeroing import sparsify
from rmt_compress.planning.making import may_sparsify

if TYPE_CHECKING:
    from torch import nn


def sparsifiable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters whose entries may become zero, by name: those of which `prune --sparsify` takes entries."""
    parameters = dict(model.named_parameters())
    layers = [layer for layer in ModuleCheckpoint(model).layers() if may_sparsify(layer)]
    return {layer.tensor: parameters[layer.tensor] for layer in layers if layer.tensor in parameters}


def sparsify_model(model: nn.Module, threshold: float) -> dict[str, torch.Tensor]:
    """Set entries below `threshold` to zero in place; by name, masks of their shapes, True where not zero."""
    masks = {}
    with torch.no_grad():
        for name, parameter in sparsifiable(model).items():
            parameter.copy_(sparsify(parameter, threshold))
            masks[name] = parameter != 0
    return masks


class HeldMasks:
    """Zeros that training may not fill again."""

    def __init__(self, model: nn.Module, masks: dict[str, torch.Tensor]) -> None:
        parameters = dict(model.named_parameters())
        # A layer that has been cut since has other factors, and no mask any more.
        self.masks = {
            name: mask.to(parameters[name].device)
            for name, mask in masks.items()
            if name in parameters and parameters[name].shape == mask.shape
        }
        self._held = [(parameters[name], mask) for name, mask in self.masks.items()]

    def enforce(self) -> None:
        """Set the entries under the masks to zero, after a step of the optimizer."""
        with torch.no_grad():
            for parameter, mask in self._held:
                parameter.mul_(mask)
