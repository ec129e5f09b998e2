"""Saving compressed models, and compressing checkpoints into files."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmt_compress.checkpoints.graph import GraphCheckpoint
from rmt_compress.checkpoints.keys import ARCHITECTURE_KEY
from rmt_compress.checkpoints.opening import open_checkpoint
from rmt_compress.checkpoints.provenance import make_manifest
from rmt_compress.checkpoints.writers import WrittenFile, check_suffix, write_checkpoint
from rmt_compress.compression.graphs import write_compressed_graph
from rmt_compress.compression.weights import LayerOutcome
from rmt_compress.plan import Layout, Plan
from rmt_compress.progress import Progress

if TYPE_CHECKING:
    import torch

    from rmt_compress.checkpoints.base import Checkpoint
    from rmt_compress.checkpoints.opening import Source


def save(
    model: torch.nn.Module | Mapping[str, torch.Tensor],
    path: str | PathLike[str],
    *,
    plan: Plan | None = None,
    source: Source | None = None,
    metadata: Mapping[str, str] | None = None,
) -> WrittenFile:
    """Write a compressed model, so that `load` and `load_dense` understand it; an existing file is replaced.

    Args:
        model: what `compress` returned, or its state dict.
        path: ``.safetensors``, or ``.pt``, ``.pth``, ``.bin``, ``.ckpt`` for `torch.save`.
        plan: what `model` was compressed by. Without it every tensor is taken as it is: the file then loads into
            such a model only, and `load_dense` multiplies nothing.
        source: the checkpoint that was compressed, remembered with its SHA-256; its metadata are carried over.
        metadata: text entries for the file beside those of `source`, such as ``architecture``
            (``mlp:784,1000,10``).

    Raises:
        OutputError: the file cannot be written.
        PlanError: `plan` factorizes layers that `model` has not split.
        CheckpointError: `source` cannot be read.
    """
    target = Path(path)
    check_suffix(target)
    opened = open_checkpoint(model)
    origin = None if source is None else open_checkpoint(source)
    manifest = make_manifest(
        origin,
        plan,
        opened.tensors,
        ties=opened.ties,
        metadata={**(origin.metadata if origin else {}), **(metadata or {})},
    )
    tensors = ((name, opened.read(name)) for name in opened.tensors)
    return write_checkpoint(target, tensors, opened.tensors.values(), manifest=manifest)


def write_compressed(
    checkpoint: Checkpoint,
    plan: Plan,
    path: str | PathLike[str],
    *,
    layout: Layout = "factorized",
    architecture: str | None = None,
    carried: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    outcomes: list[LayerOutcome] | None = None,
) -> WrittenFile:
    """Compress a checkpoint by a plan into a file, tensor by tensor.

    From a file into a ``.safetensors`` file, the memory of one tensor and its decomposition is enough. A checkpoint
    with a graph of its own is written in its own format where that can hold the result.

    Args:
        checkpoint: what is compressed.
        plan: the decisions.
        path: see `save`; for a checkpoint with a graph, one of its own suffixes.
        layout: ``dense`` keeps original names and shapes, and stores nothing sparse.
        architecture: the network in one word; None for what the checkpoint's metadata say.
        carried: what else goes into a `torch.save` file, see `Checkpoint.carried`.
        progress: called with (tensors done, tensors in all, name).
        outcomes: what was done to each layer is appended to this list.

    Raises:
        OutputError: the file cannot be written.
        CheckpointError: the checkpoint cannot be read.
        PlanError: the plan does not suit the checkpoint.
        CompressionError: a layer that is to be cut holds NaN or Inf.
    """
    from rmt_compress.compression import compress_tensors, compressed_outline, compressed_ties

    target = Path(path)
    if isinstance(checkpoint, GraphCheckpoint) and checkpoint.writes_own_format(target, layout):
        return write_compressed_graph(
            checkpoint,
            plan,
            target,
            layout=layout,
            architecture=architecture,
            progress=progress,
            outcomes=outcomes,
        )
    check_suffix(target)
    outline = compressed_outline(checkpoint, plan, layout=layout)
    metadata = dict(checkpoint.metadata)
    if architecture is not None:
        metadata[ARCHITECTURE_KEY] = architecture
    manifest = make_manifest(
        checkpoint,
        plan,
        outline,
        layout=layout,
        ties=compressed_ties(checkpoint, plan, layout=layout),
        metadata=metadata,
    )
    tensors = compress_tensors(checkpoint, plan, layout=layout, outcomes=outcomes)
    return write_checkpoint(
        target, tensors, outline.values(), manifest=manifest, carried=carried, progress=progress
    )
