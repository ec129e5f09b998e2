"""Checkpoints in several files: an index that says which tensor is in which, or numbered shards alone."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from rmt_compress.checkpoints.base import Checkpoint
from rmt_compress.checkpoints.beside import Home
from rmt_compress.checkpoints.formats import open_file
from rmt_compress.checkpoints.keys import MANIFEST_KEY
from rmt_compress.checkpoints.recognition import unreadable
from rmt_compress.checkpoints.strict_json import parse_object
from rmt_compress.errors import CheckpointError
from rmt_compress.layers.layer import TensorInfo
from rmt_compress.wording import listed, printable

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

_MAX_INDEX = 100_000_000


class ShardedCheckpoint(Checkpoint):
    """Several weight files read as one.

    Only the shards' headers are read on opening, and only the shard last read from keeps a file mapped. The index,
    or the directory, is at `path`; the shards lie in `folder`. A tensor is in the shard that `placement`, the
    index, says; without one every tensor of every shard counts. `metadata` are the index's, `notes` what was chosen
    before.
    """

    def __init__(
        self,
        path: Path,
        folder: Path,
        shards: Sequence[str],
        placement: Mapping[str, str] | None = None,
        *,
        metadata: Mapping[str, str] | None = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.path: Path = path
        self.metadata = dict(metadata or {})
        self._folder = folder
        self._shards: dict[str, Checkpoint] = {}
        for shard in shards:
            if not _exists(folder / shard):
                raise CheckpointError(f"{path}: the shard {shard} is missing from {folder}; download it again")
            # Names must stay as the index writes them, whatever prefix one shard's names share.
            self._shards[shard] = open_file(folder / shard, strip_prefixes=False)
            self._shards[shard].close()
        kinds = sorted({checkpoint.format for checkpoint in self._shards.values()})
        self.format = f"{' and '.join(kinds)}, {len(self._shards)} shard{'s' * (len(self._shards) != 1)}"
        self._placement = self._every_tensor() if placement is None else self._indexed(placement)
        self.home = Home(
            extra={
                name: entry for checkpoint in self._shards.values() for name, entry in checkpoint.home.extra.items()
            }
        )
        self._tensors = self._describe()
        self._ties = self._find_ties()
        self._last: str | None = None
        self.notes = tuple(map(printable, (*notes, *self._unlisted())))

    def _find_ties(self) -> dict[str, tuple[str, ...]]:
        """First name of a shared tensor -> its other names in the same shard."""
        result = {}
        for shard, checkpoint in self._shards.items():
            for first, others in checkpoint.ties.items():
                here = [name for name in (first, *others) if self._placement.get(name) == shard]
                if len(here) > 1:
                    result[here[0]] = tuple(here[1:])
        return result

    @property
    def files(self) -> tuple[Path, ...]:
        """The shards, in order."""
        return tuple(self._folder / shard for shard in self._shards)

    def read(self, name: str) -> torch.Tensor:
        """A copy of the tensor called `name` from its shard, on the CPU."""
        return self._shard_of(name).read(name)

    def read_array(self, name: str) -> NDArray[Any]:
        """See `Checkpoint.read_array`; as its shard does."""
        return self._shard_of(name).read_array(name)

    def nonzeros(self, name: str) -> int:
        """See `Checkpoint.nonzeros`; as its shard does."""
        return self._shard_of(name).nonzeros(name)

    def _shard_of(self, name: str) -> Checkpoint:
        """The shard that holds the tensor called `name`, the only one whose file stays open."""
        self._info(name)
        shard = self._placement[name]
        if self._last not in (None, shard):
            self._shards[str(self._last)].close()
        self._last = shard
        return self._shards[shard]

    def reads_blocks(self, name: str) -> bool:
        """See `Checkpoint.reads_blocks`."""
        self._info(name)
        return self._shards[self._placement[name]].reads_blocks(name)

    def read_block(self, name: str, rows: slice, columns: slice = slice(None)) -> torch.Tensor:
        """See `Checkpoint.read_block`."""
        self._info(name)
        return self._shards[self._placement[name]].read_block(name, rows, columns)

    def expect(self, name: str) -> None:
        """See `Checkpoint.expect`."""
        self._shards[self._placement[name]].expect(name)

    def close(self) -> None:
        """Give back what the shards keep open."""
        for checkpoint in self._shards.values():
            checkpoint.close()

    def _every_tensor(self) -> dict[str, str]:
        placement: dict[str, str] = {}
        for shard, checkpoint in self._shards.items():
            for name in checkpoint.tensors:
                if name in placement:
                    raise CheckpointError(
                        f"{self.path}: {name} is both in {placement[name]} and in {shard}, and no index says "
                        "which counts; name one of the files"
                    )
                placement[name] = shard
        return placement

    def _indexed(self, placement: Mapping[str, str]) -> dict[str, str]:
        for name, shard in placement.items():
            if name not in self._shards[shard].tensors and name not in self._shards[shard].home.extra:
                raise CheckpointError(
                    f"{self.path}: says that {name} is in {shard}, which does not hold it; the index and the "
                    "shards are of different checkpoints: download both again"
                )
        complete = dict(placement)
        # Indexes leave out the names that share another's tensor.
        for shard, checkpoint in self._shards.items():
            for first, others in checkpoint.ties.items():
                if placement.get(first) == shard:
                    complete.update((name, shard) for name in others if name not in placement)
        return complete

    def _describe(self) -> dict[str, TensorInfo]:
        return {
            name: info
            for shard, checkpoint in self._shards.items()
            for name, info in checkpoint.tensors.items()
            if self._placement.get(name) == shard
        }

    def _unlisted(self) -> list[str]:
        """A sentence for every shard that holds tensors the index does not place there."""
        notes = []
        for shard, checkpoint in self._shards.items():
            extra = [name for name in checkpoint.tensors if self._placement.get(name) != shard]
            if extra:
                notes.append(f"Tensors of {shard} that the index does not list left alone: {listed(extra, 6)}.")
        return notes


def open_index(path: Path, notes: tuple[str, ...] = ()) -> ShardedCheckpoint:
    """The sharded checkpoint that the index at `path` describes.

    A shard is named relative to the index's folder; absolute names and ``..`` are refused, so that an index
    from somewhere else cannot reach for other files. Symbolic links are followed: they are the user's own
    file system, and Hugging Face's cache is made of links from ``snapshots/`` to ``../../blobs/``.
    """
    try:
        if path.stat().st_size > _MAX_INDEX:
            raise CheckpointError(f"{path}: larger than any index; name a weight file")
        index = parse_object(path.read_bytes())
    except OSError as error:
        raise unreadable(path, error) from error
    except ValueError as error:
        raise CheckpointError(f"{path}: no sound index: {error}; download it again") from error
    placement = index.get("weight_map")
    if not isinstance(placement, dict):
        raise CheckpointError(f"{path}: is JSON without a weight_map, no index of shards; name a weight file")
    for name, shard in placement.items():
        if not isinstance(shard, str) or not stays_inside(shard):
            raise CheckpointError(
                f"{path}: places {name} in {shard!r}, outside the checkpoint's own folder; not opened. "
                "An index names files beside itself: put the shard there and correct the index"
            )
    metadata = index.get("metadata")
    texts = {key: str(value) for key, value in metadata.items()} if isinstance(metadata, dict) else {}
    shards = sorted(set(placement.values()))
    text = texts.pop(MANIFEST_KEY, None)
    checkpoint = ShardedCheckpoint(path, path.parent, shards, placement, metadata=texts, notes=notes)
    if text is not None:
        _take_manifest(checkpoint, text, path)
    return checkpoint


def _take_manifest(checkpoint: ShardedCheckpoint, text: str, path: Path) -> None:
    """Give a checkpoint of several files the manifest that stands in their index."""
    # Takes a while to import, and most indexes have no manifest.
    from rmt_compress.checkpoints.manifest import Manifest

    manifest = Manifest.from_json(text, origin=str(path), metadata=checkpoint.metadata)
    if (difference := manifest.not_in(checkpoint.tensors)) is not None:
        checkpoint.notes = (*checkpoint.notes, manifest.no_longer_holds(difference))
        return
    checkpoint.manifest = manifest
    checkpoint.format += "" if checkpoint.format.endswith("compressed") else ", compressed"
    checkpoint.notes = (*checkpoint.notes, manifest.sentence())


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        raise unreadable(path, error) from error


def stays_inside(shard: str) -> bool:
    """Whether the file name `shard` leads down from its folder, on any system."""
    if not shard or "\0" in shard or "\\" in shard:
        return False
    if PurePosixPath(shard).is_absolute() or PureWindowsPath(shard).drive:
        return False
    return os.pardir not in PurePosixPath(shard).parts
