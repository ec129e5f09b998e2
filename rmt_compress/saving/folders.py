"""Folders as Hugging Face's libraries write them, compressed into a folder of the same kind.

Beside the weights such a folder holds what makes them usable: ``config.json``, the tokenizer, a model card, the
subfolders of a sentence-transformer's further modules. These are copied. Weights in layout ``dense`` keep names
and shapes, so that ``from_pretrained`` loads the new folder like the old one. In layout ``factorized`` they are
called ``factorized.safetensors``, not ``model.safetensors``: ``from_pretrained`` would take the layers it does not
find for new ones and fill them with random numbers; so it says that there are no weights, unless it may run the
classes that are written beside them, see `folder_code`.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

from rmt_compress.checkpoints.base import View
from rmt_compress.checkpoints.config_file import CONFIG
from rmt_compress.checkpoints.contents import Encoded
from rmt_compress.checkpoints.formats import weight_suffixes
from rmt_compress.checkpoints.keys import MANIFEST_KEY
from rmt_compress.checkpoints.manifest import Manifest
from rmt_compress.checkpoints.pivot_factors import PivotFactors
from rmt_compress.checkpoints.recognition import DISTRIBUTED
from rmt_compress.checkpoints.writers import WrittenFile, check_room, group_patterns_of, write_checkpoint
from rmt_compress.outputs import check_new_folder, replacing_folder
from rmt_compress.progress import PartOf, Progress, counter
from rmt_compress.saving.folder_code import add_code
from rmt_compress.wording import listed, printable

if TYPE_CHECKING:
    import torch

    from rmt_compress.checkpoints.base import Checkpoint, View
    from rmt_compress.compression.compressed import Compressed
    from rmt_compress.layers.layer import TensorInfo
    from rmt_compress.plan import Layout, Plan

Pack = Literal["none", "pivots"]

MAX_SHARD = 5_000_000_000
"""Bytes of weights in one file, unless a single tensor is larger."""

# Weights under other names than those of weight files: a copy would be of another model.
_FOREIGN_SUFFIXES = (DISTRIBUTED, ".h5", ".msgpack", ".gguf", ".ggml", ".ot", ".tflite", ".mlmodel", ".npz")
_FILE_SUFFIX = re.compile(r"\.[A-Za-z]\w*")

# sentence-transformers' list of the parts of a model, each with the subfolder it is in.
_MODULES = "modules.json"

# A subfolder that nothing names and that holds no weights is copied up to this many bytes.
_SMALL_FOLDER = 64 * 2**20


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


class Made(View):
    """A network that is compressed already, as `Compressed` shows one that is to be.

    Args:
        inner: the network as it is.
        plan: what was done to it.
        manifest: of what is written.
    """

    def __init__(self, inner: Checkpoint, plan: Plan, manifest: Manifest) -> None:
        super().__init__(inner)
        self._tensors, self._ties = inner.tensors, inner.ties
        self.plan = plan
        self.manifest: Manifest = manifest
        self.layout: Layout = "factorized" if manifest.factorized else "dense"

    def read(self, name: str) -> torch.Tensor:
        """See `Checkpoint.read`."""
        return self.inner.read(name)


def write_folder(
    view: Compressed | Made,
    target: Path,
    *,
    source: Path,
    pack: Pack = "none",
    progress: Progress | None = None,
    max_shard: int = MAX_SHARD,
) -> WrittenFile:
    """Write a compressed checkpoint into a folder like the one it came from; everything beside is copied.

    The folder is made beside `target` and renamed when it is complete; one that is there already is replaced.

    Args:
        view: what is written, in layout ``dense`` for original names and shapes, which ``from_pretrained`` loads.
        target: the new folder.
        source: the folder the checkpoint is in, or its index.
        pack: see `save`.
        progress: called with (tensors done, tensors in all, name).
        max_shard: bytes of weights in one file.

    Returns:
        the folder, and the bytes of its weights.

    Raises:
        OutputError: too little room, or a write that fails; nothing is left behind.
        CheckpointError: the checkpoint cannot be read.
        CompressionError: a layer that is to be cut holds NaN or Inf.
    """
    folder = source_folder(source)
    assert folder is not None
    view.metadata = {key: text for key, text in view.metadata.items() if key != "total_size"}
    others = {name for names in view.ties.values() for name in names}
    stored = [info for name, info in view.tensors.items() if name not in others]
    beside, left = _files_beside(folder)
    needed = sum(info.nbytes for info in stored) + sum((folder / file).stat().st_size for file in beside)
    check_room(target, needed)
    shards = _shards(stored, max_shard)
    stem = "model" if view.layout == "dense" else "factorized"
    count, of_all = counter(len(stored), progress), _of_all(stored)
    pivots = None if pack == "none" else PivotFactors(view)
    shown: Checkpoint = pivots or view
    written = []
    with replacing_folder(target) as temporary:
        for file in beside:
            (temporary / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / file, temporary / file)
        for number, shard in enumerate(shards, start=1):
            name = stem if len(shards) == 1 else f"{stem}-{number:05}-of-{len(shards):05}"
            written.append(
                write_checkpoint(
                    shown if len(shards) == 1 else _Shard(shown, shard, view.layout),
                    temporary / f"{name}.safetensors",
                    # A bias that is zero anyway is left as it is, so that any loader of safetensors finds it.
                    sparse=any(decision.zeroes for decision in view.plan.layers),
                    packed=frozenset() if pivots is None else pivots.packable,
                    patterns=group_patterns_of(view.manifest),
                    progress=lambda _done, _total, name: count(of_all(name)),
                )
            )
        if len(shards) > 1:
            _write_index(temporary / f"{stem}.safetensors.index.json", view.manifest, shards, written)
        notes = [f"not copied, links out of the folder: {listed(map(str, left))}"] if left else []
        if view.layout == "factorized" and (why := add_code(temporary, view.manifest)) is not None:
            notes.append(why)
    return WrittenFile(
        target,
        sum(file.bytes for file in written),
        {name: count for file in written for name, count in file.nonzeros.items()},
        tuple(name for file in written for name in file.sparse),
        notes=tuple(map(printable, notes)),
        packed=tuple(name for file in written for name in file.packed),
        patterned=tuple(name for file in written for name in file.patterned),
    )


class _Shard(View):
    """Some tensors of a compressed checkpoint, which go into one file."""

    def __init__(self, view: Checkpoint, infos: list[TensorInfo], layout: Layout) -> None:
        super().__init__(view)
        self._tensors = {info.name: info for info in infos}
        self._ties = {first: others for first, others in view.ties.items() if first in self._tensors}
        # A shard says by itself which of its tensors are sparse; what makes a layer may lie in two of them.
        own = view.manifest
        if layout == "factorized" and own is not None:
            ties = {other: first for first, others in self._ties.items() for other in others}
            self.manifest = Manifest(tool_version=own.tool_version, ties=ties, metadata=own.metadata)

    def read(self, name: str) -> torch.Tensor:
        """See `Compressed.read`."""
        return self.inner.read(name)

    def expect(self, name: str) -> None:
        """See `Checkpoint.expect`."""
        self.inner.expect(name)


def _write_index(
    path: Path, manifest: Manifest, shards: list[list[TensorInfo]], written: list[WrittenFile]
) -> None:
    """Which tensor is in which shard, and the manifest of them all."""
    encoded = Encoded(
        tuple(name for file in written for name in file.sparse),
        tuple(name for file in written for name in file.packed),
        tuple(name for file in written for name in file.patterned),
    )
    complete = manifest.model_copy(update=encoded._asdict())
    size = sum(info.nbytes for shard in shards for info in shard)
    index = {
        "metadata": {**manifest.metadata, "total_size": size, MANIFEST_KEY: complete.to_json()},
        "weight_map": {
            info.name: file.path.name for shard, file in zip(shards, written, strict=True) for info in shard
        },
    }
    path.write_text(json.dumps(index, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _files_beside(folder: Path) -> tuple[list[Path], list[Path]]:
    """What is copied, relative to the folder, and the links that are not as they lead out of it.

    Its own files that are no weights and no index of such; a subfolder that ``modules.json`` names, whole; any
    other that is small and holds no weights. Nothing hidden, and no folder that is a link.
    """
    files = [path for path in folder.iterdir() if path.is_file() and not _is_weights(path)]
    named = _named_folders(folder)
    for subfolder in folder.iterdir():
        if not subfolder.is_dir() or subfolder.is_symlink() or subfolder.name.startswith("."):
            continue
        inner = [path for path in subfolder.rglob("*") if path.is_file()]
        small = sum(path.stat().st_size for path in inner) <= _SMALL_FOLDER
        if subfolder.name in named or (small and not any(map(_is_weights, inner))):
            files += inner
    shown = sorted(
        path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    allowed = [folder.resolve()]
    if folder.absolute().parent.name == "snapshots":
        # In the cache of huggingface_hub every file is a link to where its content lies.
        allowed.append((folder.absolute().parent.parent / "blobs").resolve())
    inside = {path: any(path.resolve().is_relative_to(place) for place in allowed) for path in shown}
    relative = [(path.relative_to(folder), inside[path]) for path in shown]
    return [path for path, stays in relative if stays], [path for path, stays in relative if not stays]


def _of_all(infos: Sequence[TensorInfo]) -> Callable[[str], PartOf]:
    """A function to call with the name of each tensor as it is written: the name with the bytes of all shards."""
    sizes = {info.name: info.nbytes for info in infos}
    in_all, so_far = sum(sizes.values()), 0

    def part(name: str) -> PartOf:
        nonlocal so_far
        so_far += sizes[name]
        return PartOf(name, so_far, in_all)

    return part


def _is_weights(path: Path) -> bool:
    return path.name.endswith(".index.json") or path.suffix in (*weight_suffixes(), *_FOREIGN_SUFFIXES)


def _named_folders(folder: Path) -> set[str]:
    """The folder's own subfolders that its ``modules.json`` asks for."""
    try:
        modules = json.loads((folder / _MODULES).read_bytes())
    except (OSError, ValueError, RecursionError):
        return set()
    paths = (
        [module.get("path") for module in modules if isinstance(module, dict)] if isinstance(modules, list) else []
    )
    return {PurePosixPath(path).parts[0] for path in paths if isinstance(path, str) and PurePosixPath(path).parts}


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
