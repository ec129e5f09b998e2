"""Compressing a checkpoint that carries its own graph: the graph is edited, written, read back and compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rmt_compress.checkpoints.base import MANIFEST_KEY
from rmt_compress.checkpoints.manifest import ARCHITECTURE_KEY, FactorizedLayer, Layout, make_manifest
from rmt_compress.checkpoints.writers import WrittenFile, check_room, compare, digest
from rmt_compress.compression.weights import LayerOutcome, Step, match_steps
from rmt_compress.files import replacing
from rmt_compress.layers.low_rank import Factors
from rmt_compress.layers.sparsification import count_nonzero

if TYPE_CHECKING:
    import torch

    from rmt_compress.checkpoints.graph import GraphCheckpoint, GraphEditor
    from rmt_compress.plan import Plan

# What names, nodes and the manifest may add to a graph.
_ROOM = 2**20


def write_compressed_graph(
    checkpoint: GraphCheckpoint,
    plan: Plan,
    target: Path,
    *,
    layout: Layout = "factorized",
    architecture: str | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    outcomes: list[LayerOutcome] | None = None,
) -> WrittenFile:
    """`write_compressed` for a file with a graph: the same format again, two nodes for every layer that is split.

    The manifest goes into the file's metadata. The file is read back and every tensor compared before it gets its
    name; an older file keeps its place until then.

    Args:
        checkpoint: what is compressed.
        plan: the decisions.
        target: the file, of which `GraphCheckpoint.writes_own_format` must hold.
        layout: ``dense`` changes no node, and stores nothing sparse.
        architecture: carried in the metadata, for the record.
        progress: called with (layers done, layers in all, name).
        outcomes: what was done to each layer is appended to this list.

    Raises:
        OutputError: the file cannot be written, or reads back differently.
        CheckpointError: the checkpoint cannot be read.
        PlanError: the plan does not suit the checkpoint.
        CompressionError: a layer that is to be cut holds NaN or Inf.
    """
    steps = match_steps(checkpoint.layers(), plan, layout)
    check_room(target, sum(file.stat().st_size for file in checkpoint.files) + _ROOM)
    editor = checkpoint.editor()
    digests: dict[str, bytes] = {}
    nonzeros: dict[str, int] = {}
    factorized: list[FactorizedLayer] = []
    for done, step in enumerate(steps, start=1):
        result = step.apply(checkpoint.read(step.layer.tensor))
        if outcomes is not None:
            outcomes.append(step.outcome(result))
        for name, tensor in _enter(editor, step, result, factorized).items():
            digests[name] = digest(tensor)
            nonzeros[name] = count_nonzero(tensor)
        if progress is not None:
            progress(done, len(steps), step.layer.name)
    metadata = dict(checkpoint.metadata)
    if architecture is not None:
        metadata[ARCHITECTURE_KEY] = architecture
    manifest = make_manifest(
        checkpoint, plan, checkpoint.tensors, layout=layout, metadata=metadata, factorized=tuple(factorized)
    )
    metadata[MANIFEST_KEY] = manifest.to_json()
    beside: tuple[Path, ...] = ()
    try:
        with replacing(target) as temporary:
            written = editor.write(temporary, target=target, metadata=metadata, sparse=layout == "factorized")
            beside = written.beside
            compare(target, temporary, digests)
            size = sum(file.stat().st_size for file in (temporary, *beside))
    except BaseException:
        for file in beside:
            file.unlink(missing_ok=True)
        raise
    for file in written.outdated:
        file.unlink(missing_ok=True)
    return WrittenFile(target, size, nonzeros, written.sparse, written.notes)


def _enter(
    editor: GraphEditor, step: Step, result: Factors | torch.Tensor, factorized: list[FactorizedLayer]
) -> Mapping[str, torch.Tensor]:
    """Put what became of one weight into the graph.

    Returns:
        the tensors that stand for it there, by name.
    """
    layer = step.layer
    if not isinstance(result, Factors):
        if step.changes:
            editor.assign(layer, result)
        return {layer.tensor: result}
    stored = editor.replace(layer, result)
    factorized.append(
        FactorizedLayer(
            name=layer.name,
            weight=layer.tensor,
            kind=layer.kind,
            shape=layer.shape,
            bias=None,  # a tensor of its own, under its old name
            down=stored.down,
            up=stored.up,
            rank=result.down.shape[0],
            transposed=stored.transposed,
        )
    )
    down, up = (part.T.contiguous() for part in result) if stored.transposed else result
    return {stored.down: down, stored.up: up}
