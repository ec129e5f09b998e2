"""The one way into every kind of checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from rmt_compress.checkpoints.base import Checkpoint
from rmt_compress.checkpoints.config_file import config_beside
from rmt_compress.checkpoints.directories import is_shard, open_directory
from rmt_compress.checkpoints.formats import open_file
from rmt_compress.checkpoints.recognition import looks_like_index, signs_of, unreadable
from rmt_compress.checkpoints.sharded import open_index
from rmt_compress.errors import CheckpointError
from rmt_compress.wording import counted, printable

if TYPE_CHECKING:
    import torch

    Source = str | PathLike[str] | Mapping[str, torch.Tensor] | torch.nn.Module | Checkpoint

_log = logging.getLogger(__name__)


def open_checkpoint(source: Source, *, trust: bool = False, weights: str | None = None) -> Checkpoint:
    """The checkpoint in a file, a directory, a state dict or a live module.

    What a file is, is told by its content: safetensors, `torch.save` (zip or legacy layout), torch.export,
    TorchScript, or the JSON index of a sharded checkpoint. A directory is read as Hugging Face's libraries write
    it, or `torch.distributed.checkpoint`. A state dict may also be a training checkpoint that holds one. An open
    `Checkpoint` is handed back; a `GraphNetwork` is the checkpoint it was made from.

    Args:
        source: a path, a state dict, an `nn.Module` or an open `Checkpoint`.
        trust: whether code in the file may be run: the pickle of a whole model, the program of a TorchScript
            archive, the classes in a Hugging Face folder. Such code can do whatever you can, so only for files
            whose origin you know.
        weights: which of several sets of weights in a training checkpoint, such as ``ema``; None for the usual.

    Raises:
        CheckpointError: nothing there, not readable, damaged, of another format, or in need of running code;
            one line that names the file, what it looks like and what to do.
        TypeError: `source` is none of these.
    """
    if isinstance(source, Checkpoint):
        return source
    if isinstance(source, str | PathLike):
        checkpoint = _open_path(Path(source), trust=trust, weights=weights)
        checkpoint.config = config_beside(Path(source))
        checkpoint.trusted = trust
        checkpoint.opened_as = Path(source), trust, weights
    else:
        checkpoint = _open_object(source, weights)
    if not checkpoint.tensors:
        raise CheckpointError(f"{checkpoint.path or f'this {checkpoint.format}'}: holds no tensors at all")
    if checkpoint.path is not None:
        held = counted(len(checkpoint.tensors), "tensor")
        _log.info("%s is read as %s, with %s", printable(str(checkpoint.path)), checkpoint.format, held)
    return checkpoint


def _open_path(path: Path, *, trust: bool, weights: str | None) -> Checkpoint:
    try:
        is_directory = path.is_dir()
    except OSError as error:
        raise unreadable(path, error) from error
    if is_directory:
        return open_directory(path, trust=trust, weights=weights)
    if looks_like_index(signs_of(path)):
        return open_index(path)
    checkpoint = open_file(path, trust=trust, weights=weights)
    if is_shard(path.name):
        checkpoint.notes = (*checkpoint.notes, "One shard of several; name the folder to read all.")
    return checkpoint


def _open_object(source: Mapping[str, torch.Tensor] | torch.nn.Module, weights: str | None) -> Checkpoint:
    import torch

    from rmt_compress.checkpoints.graph_network import GraphNetwork
    from rmt_compress.checkpoints.memory import ModuleCheckpoint, StateDictCheckpoint

    if isinstance(source, GraphNetwork):
        return source.checkpoint
    if isinstance(source, torch.nn.Module):
        return ModuleCheckpoint(source)
    if isinstance(source, Mapping):
        return StateDictCheckpoint(source, weights)
    raise TypeError(f"a checkpoint is a path, a state dict or an nn.Module, not {type(source).__name__}")
