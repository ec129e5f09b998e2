"""Folders as Hugging Face's libraries write them, compressed into a folder of the same kind.

Beside the weights such a folder holds what makes them usable: ``config.json``, the tokenizer, a model card. These
are copied. Weights in layout ``dense`` keep names and shapes, so that ``from_pretrained`` loads the new folder like
the old one. In layout ``factorized`` they are called ``factorized.safetensors``, not ``model.safetensors``:
``from_pretrained`` would take the layers it does not find for new ones and fill them with random numbers; so it
says that there are no weights, and docs/huggingface.md has the ten lines that load them.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmt_compress.checkpoints.directories import WEIGHT_SUFFIXES
from rmt_compress.checkpoints.keys import ARCHITECTURE_KEY, MANIFEST_KEY
from rmt_compress.checkpoints.manifest import Manifest
from rmt_compress.checkpoints.provenance import make_manifest
from rmt_compress.checkpoints.writers import WrittenFile, write_checkpoint
from rmt_compress.errors import OutputError
from rmt_compress.outputs import check_new_folder, replacing_folder
from rmt_compress.plan import Layout
from rmt_compress.progress import Progress, counter

if TYPE_CHECKING:
    import torch

    from rmt_compress.checkpoints.base import Checkpoint
    from rmt_compress.compression import LayerOutcome
    from rmt_compress.layers.layer import TensorInfo
    from rmt_compress.plan import Plan

MAX_SHARD = 5_000_000_000
"""Bytes of weights in one file, unless a single tensor is larger."""

CONFIG = "config.json"
"""What every folder of a model in Hugging Face's libraries has."""

# Weights in formats that are not read, beside those that are: a copy would be of another model.
_FOREIGN_SUFFIXES = frozenset(
    {".h5", ".msgpack", ".onnx", ".gguf", ".ggml", ".ot", ".tflite", ".mlmodel", ".npz", ".safetensors", ".bin"}
)
_FILE_SUFFIX = re.compile(r"\.[A-Za-z]\w*")


def source_folder(path: Path) -> Path | None:
    """The folder that a checkpoint is: named itself or by its index; None for a single file."""
    if path.is_dir():
        return path
    return path.parent if path.name.endswith(".index.json") else None


def is_folder_output(source: Path, target: Path) -> bool:
    """Whether the compressed `source` becomes a folder: it is one, and `target` is no file's name."""
    return source_folder(source) is not None and not _FILE_SUFFIX.fullmatch(target.suffix)


def check_folder_output(source: Path, target: Path, *, force: bool) -> None:
    """Refuse an output folder that would destroy something; to be called before any work is done.

    An existing folder is replaced only if forced, and only if it is a model's, with a ``config.json`` in it.

    Raises:
        OutputError: naming the folder and the way out.
    """
    folder = source_folder(source)
    assert folder is not None
    check_new_folder(target, force=force, known_by=CONFIG, keep=(folder,))


def write_folder(
    checkpoint: Checkpoint,
    plan: Plan,
    target: Path,
    *,
    source: Path,
    layout: Layout = "factorized",
    architecture: str | None = None,
    progress: Progress | None = None,
    outcomes: list[LayerOutcome] | None = None,
    max_shard: int = MAX_SHARD,
) -> WrittenFile:
    """Compress the checkpoint in a folder into another folder, tensor by tensor; everything beside is copied.

    The folder is made beside `target` and renamed when it is complete; one that is there already is replaced.

    Args:
        checkpoint: what is compressed.
        plan: the decisions.
        target: the new folder.
        source: the folder the checkpoint is in, or its index.
        layout: ``dense`` for original names and shapes, which ``from_pretrained`` loads.
        architecture: see `write_compressed`.
        progress: called with (tensors done, tensors in all, name).
        outcomes: what was done to each layer is appended to this list.
        max_shard: bytes of weights in one file.

    Returns:
        the folder, and the bytes of its weights.

    Raises:
        OutputError: too little room, or a write that fails; nothing is left behind.
        CheckpointError: the checkpoint cannot be read.
        PlanError: the plan does not suit the checkpoint.
        CompressionError: a layer that is to be cut holds NaN or Inf.
    """
    from rmt_compress.compression import compress_tensors, compressed_outline, compressed_ties

    folder = source_folder(source)
    assert folder is not None
    outline = compressed_outline(checkpoint, plan, layout=layout)
    ties = compressed_ties(checkpoint, plan, layout=layout)
    metadata = {key: text for key, text in checkpoint.metadata.items() if key != "total_size"}
    if architecture is not None:
        metadata[ARCHITECTURE_KEY] = architecture
    manifest = make_manifest(checkpoint, plan, outline, layout=layout, ties=ties, metadata=metadata)
    stored = {name: info for name, info in outline.items() if name not in manifest.ties}
    beside = _files_beside(folder)
    _check_room(target, (*(info.nbytes for info in stored.values()), *(file.stat().st_size for file in beside)))
    shards = _shards(stored.values(), max_shard)
    stem = "model" if layout == "dense" else "factorized"
    # A bias that is zero anyway is left as it is, so that any loader of safetensors finds it.
    sparse = any(decision.sparsify or decision.sparsity for decision in plan.layers)
    tensors = compress_tensors(checkpoint, plan, layout=layout, outcomes=outcomes)
    count = counter(len(stored), progress)

    def done(_done: int, _total: int, name: str) -> None:
        count(name)  # over all shards as one

    with replacing_folder(target) as temporary:
        for file in beside:
            shutil.copyfile(file, temporary / file.name)
        if len(shards) == 1:
            path = temporary / f"{stem}.safetensors"
            written = [
                write_checkpoint(path, tensors, stored.values(), manifest=manifest, sparse=sparse, progress=done)
            ]
        else:
            written = _write_shards(temporary, stem, shards, tensors, manifest, sparse, done)
    return WrittenFile(
        target,
        sum(file.bytes for file in written),
        {name: count for file in written for name, count in file.nonzeros.items()},
        tuple(name for file in written for name in file.sparse),
    )


def _write_shards(
    folder: Path,
    stem: str,
    shards: list[list[TensorInfo]],
    tensors: Iterator[tuple[str, torch.Tensor]],
    manifest: Manifest,
    sparse: bool,
    done: Progress,
) -> list[WrittenFile]:
    """Numbered files, and the index that has the manifest of them all."""
    written, placement = [], {}
    for number, shard in enumerate(shards, start=1):
        path = folder / f"{stem}-{number:05}-of-{len(shards):05}.safetensors"
        names = {info.name for info in shard}
        ties = {other: kept for other, kept in manifest.ties.items() if kept in names}
        # A shard says by itself which of its tensors are sparse; what makes a layer may lie in two of them.
        own = None
        if manifest.layout == "factorized":
            own = Manifest(tool_version=manifest.tool_version, ties=ties)
        written.append(
            write_checkpoint(
                path,
                islice(tensors, len(shard)),
                shard,
                manifest=own,
                metadata=manifest.metadata,
                ties=ties,
                sparse=sparse,
                progress=done,
            )
        )
        placement.update(dict.fromkeys((info.name for info in shard), path.name))
    complete = manifest.model_copy(update={"sparse": tuple(name for file in written for name in file.sparse)})
    size = sum(info.nbytes for shard in shards for info in shard)
    index: dict[str, Any] = {
        "metadata": {**manifest.metadata, "total_size": size, MANIFEST_KEY: complete.to_json()},
        "weight_map": placement,
    }
    text = json.dumps(index, indent=2, ensure_ascii=False) + "\n"
    (folder / f"{stem}.safetensors.index.json").write_text(text, encoding="utf-8")
    return written


def _files_beside(folder: Path) -> list[Path]:
    """What is copied: the folder's own files that are no weights and no index of such; hidden ones are not."""
    return sorted(
        file
        for file in folder.iterdir()
        if file.is_file()
        and not file.name.startswith(".")
        and not file.name.endswith(".index.json")
        and file.suffix not in WEIGHT_SUFFIXES | _FOREIGN_SUFFIXES
    )


def _shards(infos: Iterable[TensorInfo], limit: int) -> list[list[TensorInfo]]:
    """Tensors in their order, as many together as fit in `limit` bytes."""
    shards: list[list[TensorInfo]] = [[]]
    size = 0
    for info in infos:
        if shards[-1] and size + info.nbytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(info)
        size += info.nbytes
    return shards


def _check_room(target: Path, sizes: Iterable[int]) -> None:
    needed = sum(sizes)
    free = shutil.disk_usage(target.parent).free
    if free < needed:
        raise OutputError(
            f"{target}: needs up to {needed:,} bytes, {free:,} are free on the disk of {target.parent}; make room "
            "or write to another disk"
        )
