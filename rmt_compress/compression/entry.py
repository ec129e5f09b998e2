"""One call for every kind of source."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any, overload

from rmt_compress.compression.compressed import Compressed
from rmt_compress.compression.weights import LayerOutcome
from rmt_compress.errors import CompressionError
from rmt_compress.plan import Plan

if TYPE_CHECKING:
    import torch
    from torch import nn

    from rmt_compress.checkpoints.base import Checkpoint
    from rmt_compress.checkpoints.opening import Source
    from rmt_compress.decomposition.moments import Moments
    from rmt_compress.plan import Layout
    from rmt_compress.progress import Progress


@overload
def compress(
    source: nn.Module,
    plan: Plan,
    moments: Moments | None = ...,
    *,
    layout: Layout = ...,
    inplace: bool = ...,
    device: str | torch.device | None = ...,
    progress: Progress | None = ...,
    outcomes: list[LayerOutcome] | None = ...,
) -> nn.Module: ...


@overload
def compress(
    source: str | PathLike[str] | Mapping[str, torch.Tensor] | Checkpoint,
    plan: Plan,
    moments: Moments | None = ...,
    *,
    layout: Layout = ...,
    inplace: bool = ...,
    device: str | torch.device | None = ...,
    progress: Progress | None = ...,
    outcomes: list[LayerOutcome] | None = ...,
) -> dict[str, Any]: ...


def compress(
    source: Source,
    plan: Plan,
    moments: Moments | None = None,
    *,
    layout: Layout = "factorized",
    inplace: bool = False,
    device: str | torch.device | None = None,
    progress: Progress | None = None,
    outcomes: list[LayerOutcome] | None = None,
) -> nn.Module | dict[str, Any]:
    """Carry out a plan: a module gives a module of stock torch layers, everything else a state dict.

    Args:
        source: an `nn.Module`, a state dict, a path or an open `Checkpoint`.
        plan: made from an analysis of it.
        moments: of its layers, for a plan of a calibrated basis. The layers that have none are cut plain.
        layout: ``factorized``, or ``dense`` for original names and shapes.
        inplace: change the module itself instead of a copy of it; of no meaning for other sources. The result
            must be used all the same: a module that is a single Linear cannot become another.
        device: where the weights of what is no module are decomposed; None for where they are, of a file the CPU.
            A module's are decomposed where the module is.
        progress: called with (layers done, layers in all, name) after each layer.
        outcomes: what was done to each layer is appended to this list.

    Returns:
        the module; or a state dict whose untouched tensors share memory with those of a state dict given.

    Raises:
        PlanError: the plan does not suit the source, or needs moments that are not given or not of this source.
        CompressionError: a layer cannot be replaced (hooks, parametrizations …) or holds NaN or Inf. Nothing has
            been changed if it is the module that does not allow it.
        CheckpointError: the source cannot be read.
        SettingsError: there is no such device.
    """
    from torch import nn

    from rmt_compress.checkpoints import open_checkpoint
    from rmt_compress.checkpoints.graph_network import GraphNetwork
    from rmt_compress.compression.live_modules import compress_module

    if isinstance(source, GraphNetwork):
        raise CompressionError(
            f"{source.checkpoint.path}: this module only runs the graph in a file; compress the file itself "
            "(rmt_compress.prune, or rmt-compress prune)"
        )
    if isinstance(source, nn.Module):
        return compress_module(
            source, plan, moments, layout=layout, inplace=inplace, progress=progress, outcomes=outcomes
        )

    checkpoint = open_checkpoint(source)
    with Compressed(checkpoint, plan, moments=moments, layout=layout, device=device, progress=progress) as view:
        others = {name for names in view.ties.values() for name in names}
        tensors = {name: view.read(name) for name in view.tensors if name not in others}
        for first, names in view.ties.items():
            tensors.update(dict.fromkeys(names, tensors[first]))
        if outcomes is not None:
            outcomes.extend(view.outcomes)
        return {name: tensors[name] for name in view.tensors} | dict(view.home.extra)
