"""A compressed checkpoint that carries its own graph: the graph is edited, written, read back and compared."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rmt_compress.checkpoints.graph import GraphCheckpoint
from rmt_compress.checkpoints.keys import MANIFEST_KEY
from rmt_compress.checkpoints.manifest import FactorizedLayer
from rmt_compress.checkpoints.provenance import make_manifest
from rmt_compress.checkpoints.writers import WrittenFile, check_room, compare, digest
from rmt_compress.layers.splitting import Factors
from rmt_compress.layers.zeroing import count_nonzero
from rmt_compress.outputs import afterwards, replacing, together
from rmt_compress.progress import counter

if TYPE_CHECKING:
    import torch

    from rmt_compress.checkpoints.graph import GraphEditor, WrittenGraph
    from rmt_compress.compression.compressed import Compressed
    from rmt_compress.layers.layer import Layer
    from rmt_compress.progress import Progress

# What names, nodes and the manifest may add to a graph.
_ROOM = 2**20


def write_graph(view: Compressed, target: Path, *, progress: Progress | None = None) -> WrittenFile:
    """Write the same format again, two nodes for every layer that is split; of `target` `stays_a_graph` must hold.

    The manifest goes into the file's metadata. The file is read back and every tensor compared before it gets its
    name; an older file keeps its place until then. Layout ``dense`` changes no node and stores nothing sparse.
    """
    checkpoint = view.inner
    assert isinstance(checkpoint, GraphCheckpoint)
    check_room(target, sum(file.stat().st_size for file in checkpoint.files) + _ROOM)
    editor = checkpoint.editor()
    digests: dict[str, bytes] = {}
    nonzeros: dict[str, int] = {}
    factorized: list[FactorizedLayer] = []
    advance = counter(sum(map(len, view.groups.values())), progress)
    for name in view.groups:
        became = view.become(name)
        if isinstance(became.value, Factors):
            stored = _enter_factors(editor, became.layer, became.value, factorized)
        else:
            stored = {name: became.value}
            if became.changed:
                editor.assign(became.layer, became.value)
        digests |= {part: digest(tensor) for part, tensor in stored.items()}
        nonzeros |= {part: count_nonzero(tensor) for part, tensor in stored.items()}
        for outcome in became.outcomes:
            advance(outcome.name)
    metadata = dict(view.metadata)
    manifest = make_manifest(
        checkpoint,
        view.plan,
        checkpoint.tensors,
        layout=view.layout,
        metadata=metadata,
        factorized=tuple(factorized),
    )
    metadata[MANIFEST_KEY] = manifest.to_json()
    with together(), replacing(target) as temporary:
        written = editor.write(temporary, target=target, metadata=metadata, sparse=view.layout == "factorized")
        compare(target, temporary, digests)
        size = sum(file.stat().st_size for file in (temporary, *written.beside))
        afterwards(partial(_remove_outdated, target, written))
    return WrittenFile(target, size, nonzeros, written.sparse, written.notes)


def _remove_outdated(target: Path, written: WrittenGraph) -> None:
    """Remove the further files of a graph that was replaced."""
    if written.outdated is None:
        return
    new = {file.name for file in written.beside}
    for file in target.parent.iterdir():
        if written.outdated.fullmatch(file.name) and file.name not in new:
            file.unlink(missing_ok=True)


def _enter_factors(
    editor: GraphEditor, layer: Layer, factors: Factors, factorized: list[FactorizedLayer]
) -> dict[str, torch.Tensor]:
    """Put two factors into the graph and on record; the tensors that stand for them there come back, by name."""
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
