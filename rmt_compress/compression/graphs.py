"""Compressing a checkpoint that carries its own graph: the graph is edited, written, read back and compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from rmt_compress.checkpoints.keys import ARCHITECTURE_KEY, MANIFEST_KEY
from rmt_compress.checkpoints.manifest import FactorizedLayer
from rmt_compress.checkpoints.provenance import make_manifest
from rmt_compress.checkpoints.writers import WrittenFile, check_room, compare, digest
from rmt_compress.compression.weights import LayerOutcome, Step, match_steps
from rmt_compress.layers.splitting import Factors
from rmt_compress.layers.zeroing import count_nonzero
from rmt_compress.outputs import replacing
from rmt_compress.plan import Layout
from rmt_compress.progress import Progress

if TYPE_CHECKING:
    import torch

    from rmt_compress.checkpoints.graph import GraphCheckpoint, GraphEditor
    from rmt_compress.layers.layer import Layer
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
    progress: Progress | None = None,
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
    done = 0
    for name, group in groupby(steps, key=lambda step: step.layer.stored):
        together = list(group)
        for stored, tensor in _enter(editor, checkpoint, name, together, factorized, outcomes).items():
            digests[stored] = digest(tensor)
            nonzeros[stored] = count_nonzero(tensor)
        for step in together:
            done += 1
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
    editor: GraphEditor,
    checkpoint: GraphCheckpoint,
    name: str,
    steps: Sequence[Step],
    factorized: list[FactorizedLayer],
    outcomes: list[LayerOutcome] | None,
) -> Mapping[str, torch.Tensor]:
    """Put what became of one tensor into the graph; `steps` are of the layers in it.

    Returns:
        the tensors that stand for it there, by name.
    """
    tensor = checkpoint.read(name)
    parts: list[torch.Tensor] = []
    for step in steps:
        part = step.layer.part
        result = step.apply(tensor if part is None else tensor[part.start : part.stop])
        if outcomes is not None:
            outcomes.append(step.outcome(result))
        if isinstance(result, Factors):
            # Never of one of several layers in a tensor: the graph takes all of them at once.
            return _enter_factors(editor, step.layer, result, factorized)
        parts.append(result)
    if not any(step.changes for step in steps):
        return {name: tensor}
    layer = steps[0].layer
    if layer.part is not None:
        import torch

        layer = replace(
            layer, tensor=name, aliases=checkpoint.ties.get(name, ()), shape=tuple(tensor.shape), part=None
        )
        parts = [torch.cat(parts)]
    editor.assign(layer, parts[0])
    return {name: parts[0]}


def _enter_factors(
    editor: GraphEditor, layer: Layer, factors: Factors, factorized: list[FactorizedLayer]
) -> Mapping[str, torch.Tensor]:
    stored = editor.replace(layer, factors)
    factorized.append(
        FactorizedLayer(
            name=layer.name,
            weight=layer.tensor,
            kind=layer.kind,
            shape=layer.shape,
            bias=None,  # a tensor of its own, under its old name
            down=stored.down,
            up=stored.up,
            rank=factors.down.shape[0],
            transposed=stored.transposed,
        )
    )
    down, up = (part.T.contiguous() for part in factors) if stored.transposed else factors
    return {stored.down: down, stored.up: up}
