"""One weight file, of whichever format its content shows."""

from __future__ import annotations

from pathlib import Path

from rmt_compress.checkpoints.archives import archive_kind
from rmt_compress.checkpoints.base import Checkpoint
from rmt_compress.checkpoints.keys import MANIFEST_KEY
from rmt_compress.checkpoints.pytorch.torch_file import TorchFile
from rmt_compress.checkpoints.pytorch.torch_reader import TorchReader
from rmt_compress.checkpoints.recognition import recognize
from rmt_compress.checkpoints.safetensors.safetensors_file import SafetensorsFile
from rmt_compress.errors import CheckpointError


def open_file(
    path: Path, *, strip_prefixes: bool = True, trust: bool = False, weights: str | None = None
) -> Checkpoint:
    """The checkpoint in one safetensors, `torch.save`, torch.export, TorchScript or ONNX file.

    Args:
        path: the file.
        strip_prefixes: see `TorchFile`.
        trust: see `open_checkpoint`.
        weights: see `open_checkpoint`.

    Raises:
        CheckpointError: see `open_checkpoint`; also for an index, which holds no weights of its own.
    """
    kind = recognize(path)
    archive = archive_kind(path) if kind == "torch-zip" else "torch-save"
    if weights is not None and (kind in ("safetensors", "onnx") or archive != "torch-save"):
        raise CheckpointError(f"{path}: holds one set of weights; leave out --weights {weights}")
    if kind == "safetensors":
        return _as_its_manifest_says(SafetensorsFile(path))
    if kind == "onnx":
        from rmt_compress.checkpoints.onnx.onnx_file import OnnxFile

        return OnnxFile(path)
    if kind == "index":
        raise CheckpointError(f"{path}: is JSON text where a weight file is due; name a .safetensors or .bin file")
    # Both take a while to import, and most files are neither.
    if archive == "torch-export":
        from rmt_compress.checkpoints.exported.program_file import ExportedProgramFile

        return ExportedProgramFile(path)
    if archive == "torchscript":
        from rmt_compress.checkpoints.torchscript.script_file import TorchScriptFile

        return TorchScriptFile(path, trust=trust)
    reader = TorchReader(path, kind, trust=trust)
    saved = reader.load()
    if reader.ran_code:
        from rmt_compress.checkpoints.pytorch.pickled_modules import PickledModuleFile, find_module

        if (found := find_module(saved, weights)) is not None:
            return PickledModuleFile(reader, *found)
    return _as_its_manifest_says(TorchFile(reader, saved, strip_prefixes=strip_prefixes, weights=weights))


def _as_its_manifest_says(stored: Checkpoint) -> Checkpoint:
    """`stored` itself, or its logical tensors where this package compressed it."""
    if MANIFEST_KEY not in stored.metadata:
        return stored
    # Takes a while to import, and most files have no manifest.
    from rmt_compress.checkpoints.views import CompressedFile

    return CompressedFile(stored)
