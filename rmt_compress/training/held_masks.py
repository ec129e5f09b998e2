"""Small weights set to zero while training, and kept there or not (BSSZ24 §4.2.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from rmt_compress.analysis.analyzing import analyze_with
from rmt_compress.analysis.settings import AnalysisSettings
from rmt_compress.checkpoints.memory import ModuleCheckpoint
from rmt_compress.compression import compress
from rmt_compress.compression.zero_budget import SparsifyBudget, divide_sparsity
from rmt_compress.layers.zeroing import sparsify
from rmt_compress.planning.making import may_sparsify, plan_with
from rmt_compress.planning.settings import PlanSettings

if TYPE_CHECKING:
    from torch import nn

    from rmt_compress.analysis.records import Analysis


# No layer has so many singular values: none is decomposed.
_NO_LAYER = 2**31


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


def sparsify_to_share(
    model: nn.Module, share: float, budget: SparsifyBudget, analysis: Analysis | None = None
) -> dict[str, torch.Tensor]:
    """Set a share of all entries that may be zero to zero in place, divided by a budget; masks as above.

    Args:
        model: the network as it is.
        share: of the entries of what `sparsifiable` gives, exact to the entry, in [0, 1).
        budget: see `compression.zero_budget`; spectra are asked only where it needs them.
        analysis: of the network, where it is at hand.
    """
    if analysis is None:
        spectral = budget in ("edge", "alpha")
        analysis = analyze_with(model, AnalysisSettings() if spectral else AnalysisSettings(min_size=_NO_LAYER))
    plan = plan_with(analysis, PlanSettings(gof=0.0, sparsity=share))
    if any(decision.sparsity is not None for decision in plan.layers):
        compress(model, divide_sparsity(plan, analysis, budget, source=model), inplace=True)
    return {name: parameter.detach() != 0 for name, parameter in sparsifiable(model).items()}


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
