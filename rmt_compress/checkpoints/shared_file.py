"""A checkpoint that another process, on another machine perhaps, opens by its path and knows for the same one."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rmt_compress.checkpoints.opening import open_checkpoint
from rmt_compress.checkpoints.recognition import unreadable
from rmt_compress.errors import CheckpointError, SettingsError

if TYPE_CHECKING:
    from rmt_compress.checkpoints.base import Checkpoint

# Of every file its size, both ends (headers of most formats, the checksums of archives) and some places between.
_END = 2**16
_PLACES = 16
_PLACE = 2**12


@dataclass(frozen=True)
class SharedFile:
    """How a checkpoint on a shared file system is opened again, and what it must then be; picklable.

    Attributes:
        path: the absolute path of the file or folder, the same on all machines.
        trust: see `open_checkpoint`.
        weights: see `open_checkpoint`.
        digest: of the tensors' names, shapes and types, of the sizes of its files, and of samples of their bytes.
    """

    path: str
    trust: bool
    weights: str | None
    digest: str

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> SharedFile:
        """What other processes need to open this one.

        Raises:
            CheckpointError: the file cannot be read any more.
            SettingsError: its tensors are not, or not so, in a file.
        """
        if checkpoint.opened_as is None:
            own = checkpoint.path is None
            what = (
                f"this {checkpoint.format} is" if own else f"{checkpoint.path}: weights changed after reading are"
            )
            raise SettingsError(
                [f"scheduler: {what} in memory, and workers read files; save them first, or analyse them here"]
            )
        path, trust, weights = checkpoint.opened_as
        return cls(str(Path(path).absolute()), trust, weights, _digest(checkpoint))

    def open(self) -> Checkpoint:
        """The checkpoint, here.

        Raises:
            CheckpointError: there is none here, or another one.
        """
        checkpoint = open_checkpoint(self.path, trust=self.trust, weights=self.weights)
        if _digest(checkpoint) != self.digest:
            raise CheckpointError(
                f"{self.path}: is another file than the one that was asked about; copy it again, or name a path "
                "that is one file on all machines"
            )
        return checkpoint


def _digest(checkpoint: Checkpoint) -> str:
    digest = hashlib.sha256()
    for name, info in checkpoint.tensors.items():
        digest.update(repr((name, info.shape, info.dtype)).encode())
    for path in checkpoint.files:
        try:
            with path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                digest.update(f"{size}".encode())
                between = range(0, size, max(_PLACE, size // _PLACES))
                for start, length in (
                    (0, _END),
                    (max(0, size - _END), _END),
                    *((place, _PLACE) for place in between),
                ):
                    file.seek(start)
                    digest.update(file.read(length))
        except OSError as error:
            raise unreadable(path, error) from error
    return digest.hexdigest()
