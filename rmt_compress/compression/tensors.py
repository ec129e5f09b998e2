"""A plan carried out on the tensors of a checkpoint, one after the other."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING

from rmt_compress.compression.weights import LayerOutcome, Step, match_steps
from rmt_compress.errors import CompressionError
from rmt_compress.layers.kinds import factor_shapes
from rmt_compress.layers.layer import TensorInfo
from rmt_compress.layers.splitting import Factors, factor_names
from rmt_compress.plan import Plan

if TYPE_CHECKING:
    import torch

    from rmt_compress.checkpoints.base import Checkpoint
    from rmt_compress.plan import Layout
    from rmt_compress.progress import Progress


def compress_tensors(
    checkpoint: Checkpoint,
    plan: Plan,
    *,
    layout: Layout = "factorized",
    progress: Progress | None = None,
    outcomes: list[LayerOutcome] | None = None,
) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and values of the compressed checkpoint, in its order, one tensor in memory at a time.

    A tensor of several names comes once, under the first; `compressed_ties` has the others. The plan is checked
    by the call itself, before the first tensor is asked for.

    Args:
        checkpoint: what is compressed; it stays open until the last tensor has come.
        plan: made from an analysis of it; what it does not name is kept.
        layout: see `compress`.
        progress: see `compress`.
        outcomes: see `compress`.

    Raises:
        PlanError: the plan does not suit the checkpoint.
        CompressionError: two tensors would get one name; later, a layer holds NaN or Inf.
        CheckpointError: later, a tensor cannot be read.
    """
    steps = match_steps(checkpoint.layers(), plan, layout)
    _new_names(checkpoint, steps)
    return _stream(checkpoint, steps, progress, outcomes)


def compressed_outline(
    checkpoint: Checkpoint, plan: Plan, *, layout: Layout = "factorized"
) -> dict[str, TensorInfo]:
    """Names, shapes and types that `compress_tensors` will give, every name of a tied tensor included.

    Raises:
        PlanError: the plan does not suit the checkpoint.
        CompressionError: two tensors would get one name.
    """
    steps = match_steps(checkpoint.layers(), plan, layout)
    shapes = {}
    for step in steps:
        if step.splits:
            assert step.decision is not None
            assert step.decision.rank is not None
            shapes[step.layer.tensor] = factor_shapes(step.layer.kind, step.layer.shape, step.decision.rank)
    firsts = {other: first for first, others in checkpoint.ties.items() for other in others}
    outline = {}
    for name, new_names in _new_names(checkpoint, steps).items():
        info = checkpoint.tensors[name]
        itemsize = info.nbytes // math.prod(info.shape) if math.prod(info.shape) else 0
        for new, shape in zip(new_names, shapes.get(firsts.get(name, name), (info.shape,)), strict=True):
            nbytes = info.nbytes if shape == info.shape else itemsize * math.prod(shape)
            outline[new] = replace(info, name=new, shape=shape, nbytes=nbytes)
    return outline


def compressed_ties(
    checkpoint: Checkpoint, plan: Plan, *, layout: Layout = "factorized"
) -> dict[str, tuple[str, ...]]:
    """First name of a tensor that `compress_tensors` gives -> its other names in the compressed checkpoint.

    Raises:
        PlanError: the plan does not suit the checkpoint.
        CompressionError: two tensors would get one name.
    """
    names = _new_names(checkpoint, match_steps(checkpoint.layers(), plan, layout))
    ties = {}
    for first, others in checkpoint.ties.items():
        for part, new in enumerate(names[first]):
            ties[new] = tuple(names[other][part] for other in others)
    return ties


def _new_names(checkpoint: Checkpoint, steps: Sequence[Step]) -> dict[str, tuple[str, ...]]:
    """Every name in the checkpoint -> its one or two names in the compressed one.

    Raises:
        CompressionError: two tensors would get one name, or a factor none.
    """
    names: dict[str, tuple[str, ...]] = {name: (name,) for name in checkpoint.tensors}
    renamed: dict[str, tuple[str, ...]] = {}
    for step in steps:
        if not step.splits:
            continue
        for weight in (step.layer.tensor, *step.layer.aliases):
            try:
                down, up, up_bias = factor_names(weight)
            except ValueError as error:
                raise CompressionError(
                    f"{error}, so that a state dict has no names for its factors; prune the file itself, which has "
                    "a graph, or choose layout dense"
                ) from error
            renamed[weight] = (down, up)
            bias = f"{weight.removesuffix('weight')}bias"
            if bias in names:
                renamed[bias] = (up_bias,)
    names |= renamed
    new = [name for parts in names.values() for name in parts]
    if len(set(new)) < len(new):
        twice = next(name for name in new if new.count(name) > 1)
        raise CompressionError(f"{twice} would stand for two tensors; leave the layer around it out (exclude)")
    return names


def _stream(
    checkpoint: Checkpoint,
    steps: Sequence[Step],
    progress: Progress | None,
    outcomes: list[LayerOutcome] | None,
) -> Iterator[tuple[str, torch.Tensor]]:
    names = _new_names(checkpoint, steps)
    done = 0
    for tensor, group in groupby(steps, key=lambda step: step.layer.stored):
        together = list(group)
        parts = _apply(checkpoint.read(tensor), together, outcomes)
        for name in names[tensor]:
            yield name, parts.pop(0)
        for step in together:
            done += 1
            if progress is not None:
                progress(done, len(steps), step.layer.name)


def _apply(tensor: torch.Tensor, steps: Sequence[Step], outcomes: list[LayerOutcome] | None) -> list[torch.Tensor]:
    """What becomes of one tensor: itself, another in its place, or two factors; `steps` are of the layers in it."""
    pieces: list[torch.Tensor] = []
    for step in steps:
        part = step.layer.part
        result = step.apply(tensor if part is None else tensor[part.start : part.stop])
        if outcomes is not None:
            outcomes.append(step.outcome(result))
        pieces += result if isinstance(result, Factors) else [result]
    if len(steps) == 1:
        return pieces
    import torch

    return [torch.cat(pieces)] if any(step.changes for step in steps) else [tensor]
