"""One weight file, of whichever format its content shows."""

from __future__ import annotations

from pathlib import Path

from rmt_compress.checkpoints.archives import archive_kind
from rmt_compress.checkpoints.base import MANIFEST_KEY, Checkpoint
from rmt_compress.checkpoints.recognition import recognize
from rmt_compress.checkpoints.safetensors_files import SafetensorsFile
from rmt_compress.checkpoints.torch_files import TorchFile
from rmt_compress.errors import CheckpointError


def open_file(path: Path, *, strip_prefixes: bool = True) -> Checkpoint:
    """The checkpoint in one safetensors, `torch.save` or torch.export file.

    Args:
        path: the file.
        strip_prefixes: see `TorchFile`.

    Raises:
        CheckpointError: see `open_checkpoint`; also for an index, which holds no weights of its own.
    """
    kind = recognize(path)
    if kind == "safetensors":
        return _as_its_manifest_says(SafetensorsFile(path))
    if kind == "index":
        raise CheckpointError(f"{path}: is JSON text where a weight file is due; name a .safetensors or .bin file")
    if kind == "torch-zip" and archive_kind(path) == "torch-export":
        from rmt_compress.checkpoints.exported_programs import ExportedProgramFile

        return ExportedProgramFile(path)
    return _as_its_manifest_says(TorchFile(path, kind, strip_prefixes=strip_prefixes))


def _as_its_manifest_says(stored: Checkpoint) -> Checkpoint:
    """`stored` itself, or its logical tensors where this package compressed it."""
    if MANIFEST_KEY not in stored.metadata:
        return stored
    # Takes a while to import, and most files have no manifest.
    from rmt_compress.checkpoints.compressed import CompressedCheckpoint

    return CompressedCheckpoint(stored)
