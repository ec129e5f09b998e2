"""A plan carried out on a live module: stock torch layers in the place of the ones that are split."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch

from rmt_compress.checkpoints.memory import ModuleCheckpoint, module_tensor
from rmt_compress.compression.became import become
from rmt_compress.compression.compressed import corrected, grouped
from rmt_compress.compression.weights import LayerOutcome, Step, match_steps
from rmt_compress.errors import CompressionError
from rmt_compress.layers.library_modules import is_library_model, with_attributes
from rmt_compress.layers.low_rank import module_refusal, split_module
from rmt_compress.layers.splitting import Factors
from rmt_compress.plan import Plan

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from rmt_compress.decomposition.moments import Moments
    from rmt_compress.plan import Layout
    from rmt_compress.progress import Progress


def compress_module(
    module: nn.Module,
    plan: Plan,
    moments: Moments | None = None,
    *,
    layout: Layout = "factorized",
    inplace: bool = False,
    progress: Progress | None = None,
    outcomes: list[LayerOutcome] | None = None,
) -> nn.Module:
    """`compress` for modules; see there.

    A module that stands in several places is split once and stands in all of them again. Weights that stay in one
    piece are changed in place, so that ties, optimizers and hooks keep pointing at them. Layers that cannot be
    changed are all named at once.
    """
    steps = match_steps(ModuleCheckpoint(module).layers(), plan, layout, moments)
    refusals = [refusal for step in steps if (refusal := _refusal(module, step)) is not None]
    if refusals:
        raise CompressionError("; ".join(refusals))
    if not inplace:
        module = _copied(module)
    of_library = is_library_model(module)
    done: dict[str, LayerOutcome] = {}
    # Whole weights first: as long as no layer is replaced, every name leads to what it led to.
    for tensor, group in grouped(sorted(steps, key=lambda step: step.splits)).items():
        owner, attribute = _owner(module, tensor)
        became = become(module_tensor(owner, attribute), group)
        for bias, gain in became.corrections.items():
            # A split layer takes this very parameter over.
            parameter = module.get_parameter(bias)
            with torch.no_grad():
                parameter.copy_(corrected(parameter, gain))
        if isinstance(became.value, Factors):
            pair = split_module(owner, *became.value, name=became.layer.name)
            if of_library:
                pair = with_attributes(pair, owner)
            module = replace_modules(module, {owner: pair})
        elif became.changed:
            with torch.no_grad():
                owner.get_parameter(attribute).copy_(became.value)
        for outcome in became.outcomes:
            done[outcome.tensor] = outcome
            if progress is not None:
                progress(len(done), len(steps), outcome.name)
    if outcomes is not None:
        outcomes.extend(done[step.layer.tensor] for step in steps)
    return module


def _refusal(module: nn.Module, step: Step) -> str | None:
    if not step.splits:
        return None
    owner, _ = _owner(module, step.layer.stored)
    name = step.layer.name if owner is not module else type(module).__name__
    refusal = module_refusal(owner)
    return refusal and f"{name}: {refusal}"


def _owner(module: nn.Module, tensor: str) -> tuple[nn.Module, str]:
    path, _, attribute = tensor.rpartition(".")
    return module.get_submodule(path), attribute


def _copied(module: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(module)
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise CompressionError(
            f"{type(module).__name__} cannot be copied ({error}); compress it in place (inplace=True)"
        ) from error


def replace_modules(root: nn.Module, new: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """`root` with the new module wherever an old one stood; the new one itself where an old one was the root.

    One walk however many there are.

    Args:
        root: the network; changed in place.
        new: a module of it -> what takes its place everywhere.
    """
    if root in new:
        return new[root]
    for parent in list(root.modules()):
        for key, child in parent._modules.items():
            if child is not None and child in new:
                parent._modules[key] = new[child]
    return root
