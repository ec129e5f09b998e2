"""Writing compressed models and checkpoints, whatever they become."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmt_compress.checkpoints.manifest import SourceRecord
from rmt_compress.checkpoints.opening import open_checkpoint
from rmt_compress.checkpoints.pivot_factors import PivotFactors
from rmt_compress.checkpoints.provenance import make_manifest
from rmt_compress.checkpoints.views import Renamed
from rmt_compress.checkpoints.writers import WrittenFile, check_suffix, stays_a_graph, write_checkpoint
from rmt_compress.compression.compressed import Compressed
from rmt_compress.compression.graphs import write_graph
from rmt_compress.layers.layer import FLOAT_DTYPES
from rmt_compress.plan import Plan
from rmt_compress.progress import Progress, phase
from rmt_compress.saving.folders import Made, Pack, write_folder

if TYPE_CHECKING:
    import torch

    from rmt_compress.checkpoints.base import Checkpoint
    from rmt_compress.checkpoints.opening import Source


def save(
    model: torch.nn.Module | Mapping[str, torch.Tensor],
    path: str | PathLike[str],
    *,
    plan: Plan | None = None,
    source: Source | SourceRecord | None = None,
    metadata: Mapping[str, str] | None = None,
    pack: Pack = "none",
) -> WrittenFile:
    """Write a compressed model, so that `load` and `load_dense` understand it; an existing file is replaced.

    Args:
        model: what `compress` returned, or its state dict.
        path: ``.safetensors``, or ``.pt``, ``.pth``, ``.bin``, ``.ckpt`` for `torch.save`.
        plan: what `model` was compressed by. Without it every tensor is taken as it is: the file then loads into
            such a model only, and `load_dense` multiplies nothing.
        source: the checkpoint that was compressed, remembered with its SHA-256; its metadata are carried over. What
            is known of one already has none.
        metadata: text entries for the file beside those of `source`, such as ``architecture``
            (``mlp:784,1000,10``).
        pack: ``pivots`` stores a product of rank r as r of its rows and what the others are made of,
            r·(m + n − r) numbers for r·(m + n), where the file shrinks; other factors of the same product are
            loaded, equal to the rounding of their type (see `decomposition.pivoting`).

    Raises:
        OutputError: the file cannot be written.
        PlanError: `plan` factorizes layers that `model` has not split.
        CheckpointError: `source` cannot be read.
    """
    target = Path(path)
    check_suffix(target)
    opened = open_checkpoint(model)
    origin = source if source is None or isinstance(source, SourceRecord) else open_checkpoint(source)
    carried = {} if origin is None or isinstance(origin, SourceRecord) else origin.metadata
    opened.manifest = make_manifest(
        origin,
        plan,
        opened.tensors,
        ties=opened.ties,
        metadata={**carried, **(metadata or {})},
    )
    if pack == "none":
        return write_checkpoint(opened, target)
    shown = PivotFactors(opened)
    return write_checkpoint(shown, target, packed=shown.packable)


def save_folder(
    model: torch.nn.Module,
    path: str | PathLike[str],
    *,
    plan: Plan,
    source: Path,
    metadata: Mapping[str, str] | None = None,
    in_file: Callable[[str], str] | None = None,
    pack: Pack = "none",
    known: SourceRecord | None = None,
) -> WrittenFile:
    """Write a compressed network into a folder like the one it came from, see `write_folder`.

    Its weights take the floating-point type that those of the folder are stored in.

    Args:
        model: the network as it stands, some of its layers in two.
        path: the new folder.
        plan: what was done to it.
        source: the folder it came from, or its index.
        metadata: text entries beside those of `source`.
        in_file: a tensor's name in `model` -> in the folder; None where they are the same.
        pack: see `save`.
        known: what is remembered of the source; None for what it is now.

    Raises:
        OutputError: too little room, or a write that fails; nothing is left behind.
        PlanError: `plan` factorizes layers that `model` has not split.
        CheckpointError: `source` cannot be read.
    """
    import torch

    origin = open_checkpoint(source)
    stored = next((info.dtype for info in origin.tensors.values() if info.dtype in FLOAT_DTYPES), "float32")
    opened: Checkpoint = open_checkpoint(model.to(getattr(torch, stored)))
    if in_file is not None:
        opened = Renamed(opened, in_file)
        layers = (each.model_copy(update={"tensor": in_file(each.tensor)}) for each in plan.layers)
        plan = plan.model_copy(update={"layers": tuple(layers)})
    texts = {**origin.metadata, **(metadata or {})}
    manifest = make_manifest(known or origin, plan, opened.tensors, ties=opened.ties, metadata=texts)
    return write_folder(Made(opened, plan, manifest), Path(path), source=source, pack=pack)


@phase("writing")
def write(
    view: Compressed,
    path: str | PathLike[str],
    *,
    folder: Path | None = None,
    carried: Mapping[str, Any] | None = None,
    pack: Pack = "none",
    progress: Progress | None = None,
) -> WrittenFile:
    """Write a compressed checkpoint: a folder, a graph of its own format, or a file of tensors.

    From a file into a ``.safetensors`` file, the memory of one tensor and its decomposition is enough. A checkpoint
    with a graph of its own is written in its own format where that can hold the result.

    Args:
        view: what is written; its `Compressed.outcomes` say afterwards what was done.
        path: see `save`; for a checkpoint with a graph, one of its own suffixes.
        folder: the folder the source is in, where `path` is to be a folder like it; see `write_folder`.
        carried: what else goes into a `torch.save` file, see `Checkpoint.carried`.
        pack: see `save`; a graph has no place for it.
        progress: called with (tensors done, tensors in all, name).

    Raises:
        OutputError: the file cannot be written.
        CheckpointError: the checkpoint cannot be read.
        CompressionError: a layer that is to be cut holds NaN or Inf, or two tensors would get one name.
    """
    target = Path(path)
    if folder is not None:
        return write_folder(view, target, source=folder, pack=pack, progress=progress)
    if stays_a_graph(view.inner, target, view.layout):
        return write_graph(view, target, progress=progress)
    if pack == "none":
        return write_checkpoint(view, target, carried=carried, progress=progress)
    shown = PivotFactors(view)
    return write_checkpoint(shown, target, packed=shown.packable, carried=carried, progress=progress)
