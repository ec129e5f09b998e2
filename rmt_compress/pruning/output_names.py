"""What `prune` calls its file where nobody has named one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from rmt_compress.checkpoints.config_file import CONFIG
from rmt_compress.checkpoints.formats import state_dict_formats, weight_suffixes
from rmt_compress.saving.folders import source_folder

if TYPE_CHECKING:
    from rmt_compress.checkpoints.base import Checkpoint
    from rmt_compress.plan import Layout

# Of pickles of weights, beside those that files are written under.
_OTHER_SUFFIXES = (".th", ".tar", ".pkl", ".pickle", ".p", ".t7", ".model", ".weights", ".ckp", ".params")


def default_output(source: Path) -> Path:
    """The source's name with ``.pruned`` before its suffix.

    A suffix that no file is written under gives way: to ``.pth`` of a ``.pth.tar``, to small letters of
    ``.SAFETENSORS``, else to ``.pt``.

    Of a folder or an index it lies beside the folder: a safetensors file, or where the folder is a Hugging Face
    model, with a ``config.json``, another folder, ``…-pruned``.
    """
    if (folder := source_folder(source)) is not None:
        folder = folder.resolve()
        name = f"{folder.name}-pruned" if (folder / CONFIG).is_file() else f"{folder.name}.pruned.safetensors"
        return folder.parent / name
    stem, suffix = source.stem, source.suffix.lower()
    if suffix == ".tar" and Path(stem).suffix.lower() in weight_suffixes():
        stem, suffix = Path(stem).stem, Path(stem).suffix.lower()
    if suffix not in weight_suffixes():
        # What is no suffix of weights ("v1.5", "checkpoint_12") is part of the name.
        stem, suffix = (stem if suffix in _OTHER_SUFFIXES else source.name), ".pt"
    ending = f".pruned{suffix}"
    # As long as a name may be on most file systems.
    room = 255 - len(ending)
    return source.with_name(os.fsencode(stem)[:room].decode("utf-8", "ignore") + ending)


def default_target(source: Path, checkpoint: Checkpoint, layout: Layout) -> Path:
    """`default_output`, of a file under a suffix of what is going to be written."""
    target = default_output(source)
    if source_folder(source) is not None:
        return target
    if checkpoint.suffixes and checkpoint.holds(layout):
        return target if target.suffix in checkpoint.suffixes else target.with_suffix(checkpoint.suffixes[0])
    return target if target.suffix in state_dict_formats() else target.with_suffix(".safetensors")
