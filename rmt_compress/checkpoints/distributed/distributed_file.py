"""Folders of `torch.distributed.checkpoint` as checkpoints, tensors put together one at a time."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmt_compress.checkpoints.base import Checkpoint
from rmt_compress.checkpoints.beside import Carried, Unloaded
from rmt_compress.checkpoints.distributed.distributed_metadata import METADATA, Part, read_metadata, shards
from rmt_compress.checkpoints.pytorch.inert_files import load_inert_record
from rmt_compress.checkpoints.pytorch.inert_objects import InertPickleError
from rmt_compress.checkpoints.recognition import DISTRIBUTED, unreadable
from rmt_compress.checkpoints.sharded import stays_inside
from rmt_compress.checkpoints.state_dicts import common_prefix, find_state_dict
from rmt_compress.errors import CheckpointError
from rmt_compress.layers.layer import TensorInfo
from rmt_compress.wording import printable

if TYPE_CHECKING:
    import torch


class DistributedCheckpoint(Checkpoint):
    """A folder that several processes wrote together: ``.metadata``, and ``.distcp`` files that hold the parts.

    Only ``.metadata`` is read on opening. Reading a tensor takes memory for it and its largest part.

    Args:
        path: the folder.
        weights: which of several sets of weights, see `find_state_dict`.

    Raises:
        CheckpointError: ``.metadata`` or one of the files is missing or damaged, or there are no weights.
    """

    def __init__(self, path: Path, weights: str | None = None) -> None:
        import torch

        self.path: Path = path
        self.metadata = {}
        if not (path / METADATA).exists():
            raise CheckpointError(
                f"{path}: holds {DISTRIBUTED} files, but no {METADATA}, which is written last: copy the whole "
                "folder, hidden files too, or save it again"
            )
        stored = read_metadata(path)
        self._files = tuple(shards(stored))
        self._check_files(part for tensor in stored.tensors.values() for part in tensor.parts)
        self.format = f"PyTorch distributed, {len(self._files)} file{'s' * (len(self._files) != 1)}"
        saved: dict[str, Any] = {}
        names: dict[int, str] = {}
        for name in (*stored.tensors, *stored.objects):
            entry: Any = Unloaded("saved object")
            if (tensor := stored.tensors.get(name)) is not None:
                entry = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
            names[id(entry)] = name
            _put(saved, stored.trails.get(name, (name,)), entry)
        found = find_state_dict(saved, str(path), weights)
        self._prefix = common_prefix(list(found.tensors))
        # By the names that are shown.
        self._stored = {
            name.removeprefix(self._prefix): stored.tensors[names[id(tensor)]]
            for name, tensor in found.tensors.items()
        }
        self._tensors = {
            name: TensorInfo(
                name,
                tensor.shape,
                str(tensor.dtype).removeprefix("torch."),
                math.prod(tensor.shape) * tensor.dtype.itemsize,
                None,
            )
            for name, tensor in self._stored.items()
        }
        self.beside = found.beside
        stripped = (f"Took {self._prefix!r} off every name.",) if self._prefix else ()
        self.notes = tuple(map(printable, (*found.notes, *stripped)))

    @property
    def files(self) -> tuple[Path, ...]:
        """The files the parts are in."""
        return tuple(self.path / name for name in self._files)

    def read(self, name: str) -> torch.Tensor:
        """The tensor called `name`, put together from its parts, on the CPU.

        Raises:
            CheckpointError: no such tensor, or a part that is damaged or another than ``.metadata`` says.
        """
        import torch

        self._info(name)
        stored = self._stored[name]
        whole = torch.empty(stored.shape, dtype=stored.dtype)
        for part in stored.parts:
            block = self._block(name, part)
            if tuple(block.shape) != part.sizes or block.dtype != stored.dtype:
                raise self._damaged(part, f"a part of {name} is {tuple(block.shape)} of {block.dtype}")
            place = tuple(slice(at, at + size) for at, size in zip(part.offsets, part.sizes, strict=True))
            whole[place].copy_(block)
        return whole

    def carried(self) -> Carried:
        """Nothing: what is beside the weights stays in the folder."""
        return Carried({}, tuple((entry.name, "it stays in the distributed checkpoint") for entry in self.beside))

    def _block(self, name: str, part: Part) -> torch.Tensor:
        import torch

        path = self.path / part.file
        try:
            block = load_inert_record(path, part.start, part.length)
        except InertPickleError as error:
            raise self._damaged(part, f"the pickle of {name} {error}") from error
        except (OSError, RuntimeError) as error:
            raise unreadable(path, error if isinstance(error, OSError) else ValueError(str(error))) from error
        if not isinstance(block, torch.Tensor) or block.layout != torch.strided:
            raise self._damaged(part, f"{name} is no plain tensor there")
        return block

    def _damaged(self, part: Part, reason: str) -> CheckpointError:
        return CheckpointError(
            f"{self.path / part.file}: truncated or damaged; copy the folder or save it again "
            f"({printable(reason, 300)})"
        )

    def _check_files(self, parts: Iterable[Part]) -> None:
        """Every file must be there, below the folder, and as long as the places in it say."""
        sizes: dict[str, int] = {}
        for part in parts:
            if part.file not in sizes:
                if not stays_inside(part.file):
                    raise CheckpointError(
                        f"{self.path / METADATA}: places tensors in {printable(part.file, 100)!r}, outside the "
                        "folder; not opened"
                    )
                try:
                    sizes[part.file] = (self.path / part.file).stat().st_size
                except FileNotFoundError as error:
                    raise CheckpointError(
                        f"{self.path}: the file {part.file} is missing; copy the whole folder"
                    ) from error
                except OSError as error:
                    raise unreadable(self.path / part.file, error) from error
            if part.start + part.length > sizes[part.file]:
                raise self._damaged(
                    part, f"{sizes[part.file]:,} bytes, and tensors up to {part.start + part.length:,}"
                )


def _put(saved: dict[str, Any], trail: tuple[str, ...], entry: Any) -> None:
    """Set `entry` at the end of nested keys."""
    *folders, last = trail
    for key in folders:
        inner = saved.setdefault(key, {})
        if not isinstance(inner, dict):
            return
        saved = inner
    saved[last] = entry
