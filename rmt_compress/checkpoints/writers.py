"""Writing a checkpoint: tensor by tensor, read back and compared before it takes its name."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from rmt_compress.checkpoints.contents import Contents, StateDictWriter
from rmt_compress.checkpoints.formats import open_file, state_dict_formats
from rmt_compress.errors import CheckpointError, CompressionError, OutputError
from rmt_compress.layers.bitmask import BITS, SHAPE, VALUES, encode_if_smaller
from rmt_compress.layers.layer import TensorInfo
from rmt_compress.outputs import replacing
from rmt_compress.progress import Progress
from rmt_compress.wording import printable

if TYPE_CHECKING:
    import torch

    from rmt_compress.checkpoints.base import Checkpoint
    from rmt_compress.plan import Layout


@dataclass(frozen=True)
class WrittenFile:
    """What has been written.

    Attributes:
        path: the file.
        bytes: its size.
        nonzeros: entries that are not zero, by tensor.
        sparse: names of the tensors in a sparse encoding.
        notes: what the user should know, one sentence each.
    """

    path: Path
    bytes: int
    nonzeros: Mapping[str, int]
    sparse: tuple[str, ...]
    notes: tuple[str, ...] = ()


def check_suffix(target: Path) -> None:
    """Refuse a file name that stands for no format that is written.

    Raises:
        OutputError: listing the suffixes.
    """
    *others, last = formats = state_dict_formats()
    if target.suffix.lower() not in formats:
        raise OutputError(f"{target}: the name must end in {', '.join(others)} or {last}")


def stays_a_graph(checkpoint: Checkpoint, target: Path, layout: Layout) -> bool:
    """Whether a compressed file of this name and layout is a graph of the checkpoint's own format, no state dict.

    Raises:
        OutputError: it could be neither; saying which names it could have.
    """
    if target.suffix.lower() in checkpoint.suffixes and checkpoint.holds(layout):
        return True
    if checkpoint.has_graph and checkpoint.holds("factorized"):
        raise OutputError(
            f"{target}: {checkpoint.path} is compressed into a file of its own format, {checkpoint.format}: the "
            f"name must end in {' or '.join(checkpoint.suffixes)} (rmt-compress export writes its tensors as a "
            "state dict)"
        )
    if checkpoint.has_graph and target.suffix.lower() not in state_dict_formats():
        raise OutputError(
            f"{target}: {checkpoint.format} keeps every layer in one piece, and no state dict has such a name: add "
            "--layout dense, or name a .safetensors or .pt file"
        )
    check_suffix(target)
    return False


def write_checkpoint(
    view: Checkpoint,
    target: Path,
    *,
    sparse: bool = True,
    carried: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> WrittenFile:
    """Write a checkpoint, as it shows its tensors, to a ``.safetensors`` or `torch.save` file, in their order.

    A ``.safetensors`` file is written as the tensors are read, one in memory at a time. For the others torch wants
    everything in memory at once. Under a manifest of factorized layout, a tensor whose bitmask and values are
    smaller than itself is stored so, and −0.0 in it becomes 0.

    The file is read back tensor by tensor and compared with digests taken on the way in, then renamed into
    place: whatever goes wrong, the target is what it was before.

    Args:
        view: what is written, a shared tensor once; its manifest, where it has one, is stored with the tensors. Its
            metadata too, but for a plain `torch.save` file, which has no place for them.
        target: the file; its suffix says the format.
        sparse: whether tensors may be stored as bitmask and values where the manifest's layout allows it.
        carried: what else a `torch.save` file with a manifest is to hold, by top-level key.
        progress: called with (done, total, name) after each tensor.

    Raises:
        OutputError: a suffix of no format, too little room on the disk, a write that fails, a tensor the format
            cannot hold, or a file that reads back differently.
        CompressionError: a tensor is not what `view` says of it.
    """
    from rmt_compress.layers.zeroing import count_nonzero

    check_suffix(target)
    manifest = view.manifest
    texts = view.metadata if manifest is None else manifest.metadata
    ties = {other: first for first, others in view.ties.items() for other in others}
    outline = {name: info for name, info in view.tensors.items() if name not in ties}
    sparse = sparse and manifest is not None and manifest.layout == "factorized"
    contents = Contents(outline, ties, texts, carried or {}, manifest, sparse)
    writer: StateDictWriter = resolve_name(state_dict_formats()[target.suffix.lower()].writer)(target, contents)
    check_room(target, writer.room)

    digests: dict[str, bytes] = {}
    nonzeros: dict[str, int] = {}
    encoded: list[str] = []
    with replacing(target) as temporary:
        with temporary.open("wb") as file, closing(writer):
            writer.start(file)
            for name, info in outline.items():
                tensor = view.read(name).detach()
                _check_expected(info, tensor)
                tensor = tensor.cpu()
                parts = None
                if sparse and not any(name + part in outline for part in (BITS, VALUES, SHAPE)):
                    parts = encode_if_smaller(tensor) if _is_plain(tensor) else None
                if parts is None:
                    writer.add(name, tensor)
                else:
                    encoded.append(name)
                    for part, values in zip((BITS, VALUES, SHAPE), parts, strict=True):
                        writer.add(name + part, values)
                digests[name] = digest(tensor, without_negative_zero=parts is not None)
                nonzeros[name] = count_nonzero(tensor) if parts is None else len(parts.values)
                if progress is not None:
                    progress(len(digests), len(outline), name)
            writer.finish(encoded)
        compare(target, temporary, digests, ties)
        size = temporary.stat().st_size
    return WrittenFile(target, size, nonzeros, tuple(encoded))


def check_room(target: Path, needed: int) -> None:
    """Refuse an output that the disk may be too small for.

    Raises:
        OutputError: fewer than `needed` bytes are free in the folder of `target`, or there is no such folder.
    """
    try:
        free = shutil.disk_usage(target.parent).free
    except OSError as error:
        raise OutputError(f"{target}: the folder {target.parent} cannot be written: {error.strerror}") from error
    if free < needed:
        raise OutputError(
            f"{target}: needs up to {needed:,} bytes, {free:,} are free on the disk of {target.parent}; make room "
            "or write to another disk"
        )


def _check_expected(info: TensorInfo, tensor: torch.Tensor) -> None:
    if tensor.is_meta:
        raise CompressionError(f"{printable(info.name)} has no values (meta device)")
    dtype = str(tensor.dtype).removeprefix("torch.")
    if not tensor.is_nested and (tuple(tensor.shape), dtype) != (info.shape, info.dtype):
        raise CompressionError(
            f"{printable(info.name)} came as {dtype} {tuple(tensor.shape)}, planned was {info.dtype} {info.shape}"
        )


def compare(
    target: Path, written: Path, digests: Mapping[str, bytes], ties: Mapping[str, str] | None = None
) -> None:
    """Read back what has been written.

    Args:
        target: the name the file is going to get, for messages.
        written: the file.
        digests: the `digest` of every tensor it must hold.
        ties: its further names; None where it may hold other tensors as well.

    Raises:
        OutputError: naming the first tensor that is not what it was.
    """
    advice = "nothing was kept; the disk or the memory may be faulty, try another"
    try:
        if written.suffix.lower() == ".safetensors":
            _read_header_by_the_library(written)
        with open_file(written, strip_prefixes=False) as checkpoint:
            for name, expected in digests.items():
                if name not in checkpoint.tensors or digest(checkpoint.read(name)) != expected:
                    raise OutputError(f"{target}: {printable(name)} reads back other than it was written; {advice}")
            if ties is None:
                return
            # A metadata entry that happens to name a tensor reads as a tie; it was the source's before.
            if wrong := (checkpoint.tensors.keys() - checkpoint.metadata.keys()) ^ (
                (digests.keys() | ties.keys()) - checkpoint.metadata.keys()
            ):
                raise OutputError(f"{target}: {printable(', '.join(sorted(wrong)))} were written wrongly; {advice}")
    except CheckpointError as error:
        raise OutputError(f"{target}: cannot be read back: {error}; {advice}") from error


def _read_header_by_the_library(written: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(written, framework="pt") as file:
            file.keys()
    except SafetensorError as error:
        raise CheckpointError(f"safetensors refuses its header: {error}") from error


def _is_plain(tensor: torch.Tensor) -> bool:
    import torch

    return tensor.layout == torch.strided and not (tensor.is_quantized or tensor.is_nested)


def _dense(tensor: torch.Tensor) -> torch.Tensor:
    import torch

    return tensor if tensor.layout == torch.strided else tensor.to_dense()


def digest(tensor: torch.Tensor, *, without_negative_zero: bool = False) -> bytes:
    """SHA-256 of type, shape and values; of sparse and quantized tensors of what they stand for."""
    import torch

    hashed = hashlib.sha256()
    if tensor.is_nested:
        for part in tensor.unbind():
            hashed.update(digest(part))
        return hashed.digest()
    hashed.update(f"{tensor.dtype} {tuple(tensor.shape)} {tensor.layout}".encode())
    values = _dense(tensor.int_repr() if tensor.is_quantized else tensor)
    if without_negative_zero:
        values = torch.where(values == 0, torch.zeros((), dtype=values.dtype), values)
    values = values.resolve_conj().resolve_neg().contiguous().reshape(-1)
    hashed.update(values.view(torch.uint8).numpy().data)
    return hashed.digest()
