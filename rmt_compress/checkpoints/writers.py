"""Writing a checkpoint: tensor by tensor, read back and compared before it takes its name."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, NamedTuple

from rmt_compress.checkpoints.beside import Home
from rmt_compress.checkpoints.contents import Contents, Encoded, StateDictWriter
from rmt_compress.checkpoints.formats import open_file, state_dict_formats
from rmt_compress.checkpoints.recorded import Recorded
from rmt_compress.errors import CheckpointError, CompressionError, OutputError
from rmt_compress.layers import bitmask, group_patterns, pivot_rows
from rmt_compress.layers.bitmask import BITS, SHAPE, VALUES, SparseTensor
from rmt_compress.layers.group_patterns import KEPT, PATTERN, PLACES, Grouped, Pattern, pattern_called
from rmt_compress.layers.kinds import KINDS
from rmt_compress.layers.layer import TensorInfo
from rmt_compress.layers.pivot_rows import COEFFICIENTS, PIVOTS, PivotRows
from rmt_compress.outputs import replacing
from rmt_compress.progress import PartOf, Progress
from rmt_compress.wording import listed, printable

if TYPE_CHECKING:
    import torch

    from rmt_compress.checkpoints.base import Checkpoint
    from rmt_compress.checkpoints.manifest import Manifest
    from rmt_compress.plan import Layout


@dataclass(frozen=True)
class WrittenFile:
    """What has been written.

    Attributes:
        path: the file.
        bytes: its size.
        nonzeros: entries that are not zero, by tensor.
        weights: bytes of all values stored; None where they were not written one by one.
        sparse: names of the tensors in a sparse encoding.
        notes: what the user should know, one sentence each.
        packed: names of the tensors that are stored without their rows of the identity.
        patterned: names of those that are stored as the kept entries of their groups.
    """

    path: Path
    bytes: int
    nonzeros: Mapping[str, int]
    sparse: tuple[str, ...]
    notes: tuple[str, ...] = ()
    weights: int | None = None
    packed: tuple[str, ...] = ()
    patterned: tuple[str, ...] = ()


class AlongAxis(NamedTuple):
    """A pattern, and the axis of a tensor that its groups run along; see `layers.group_patterns`."""

    pattern: Pattern
    axis: int


def check_extra_state(checkpoint: Checkpoint, target: Path) -> None:
    """Refuse an output that has no place for what the modules keep of their own: loaded, they would have defaults.

    Args:
        checkpoint: what is written.
        target: the file; a name of no such format is taken for a folder's, whose weights are safetensors.

    Raises:
        OutputError: naming the entries and the way out.
    """
    written = state_dict_formats().get(target.suffix)
    if checkpoint.home.extra and not (written is not None and written.has_room):
        entries = (f"{name} ({type(entry).__name__})" for name, entry in checkpoint.home.extra.items())
        raise OutputError(
            f"{target}: a safetensors file has no place for the state that modules keep beside their tensors: "
            f"{printable(listed(entries, 4))}; give the output a name in .pt"
        )


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
    packed: frozenset[str] = frozenset(),
    patterns: Mapping[str, AlongAxis] | None = None,
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
        packed: names of those that may be stored without their rows of the identity, see `PivotFactors`.
        patterns: the patterns of tensors that may be stored as the kept entries of their groups; None for those
            that the manifest's plan tells.
        carried: what else a `torch.save` file with a manifest is to hold, by top-level key.
        progress: called with (done, total, name) after each tensor.

    Raises:
        OutputError: a suffix of no format, too little room on the disk, a write that fails, a tensor the format
            cannot hold, or a file that reads back differently.
        CompressionError: a tensor is not what `view` says of it.
    """
    from rmt_compress.layers.zeroing import count_nonzero

    check_suffix(target)
    check_extra_state(view, target)
    manifest = view.manifest
    texts = view.metadata if manifest is None else manifest.metadata
    ties = {other: first for first, others in view.ties.items() for other in others}
    outline = {name: info for name, info in view.tensors.items() if name not in ties}
    factorized = manifest is not None and manifest.layout == "factorized"
    sparse = sparse and factorized
    if not sparse or manifest is None:
        patterns = {}
    elif patterns is None:
        patterns = group_patterns_of(manifest)
    contents = Contents(
        outline, ties, texts, carried or {}, manifest, sparse, packed, frozenset(patterns), view.home
    )
    writer: StateDictWriter = resolve_name(state_dict_formats()[target.suffix.lower()].writer)(target, contents)
    check_room(target, writer.room)

    digests: dict[str, bytes] = {}
    nonzeros: dict[str, int] = {}
    in_bits: list[str] = []
    in_rows: list[str] = []
    in_groups: list[str] = []
    weights = written = 0
    in_all = sum(info.nbytes for info in outline.values())
    with replacing(target) as temporary:
        with temporary.open("wb", buffering=0) as raw, Recorded(raw) as file, closing(writer):
            writer.start(file)
            following = dict(pairwise(outline))
            for name, info in outline.items():
                if name in following:
                    view.expect(following[name])
                tensor = view.read(name).detach()
                _check_expected(info, tensor)
                tensor = tensor.cpu()
                rows = _pivot_rows(name, tensor, outline) if name in packed else None
                groups = _grouped(name, tensor, outline, patterns) if rows is None else None
                parts = _bitmask(name, tensor, outline) if sparse and rows is None and groups is None else None
                stored = {name: tensor}
                if rows is not None:
                    in_rows.append(name)
                    stored = {name + PIVOTS: rows.pivots, name + COEFFICIENTS: rows.coefficients}
                elif groups is not None:
                    in_groups.append(name)
                    stored = {name + part: own for part, own in zip((KEPT, PLACES, PATTERN), groups, strict=True)}
                elif parts is not None:
                    in_bits.append(name)
                    stored = {name + part: own for part, own in zip((BITS, VALUES, SHAPE), parts, strict=True)}
                for part, own in stored.items():
                    writer.add(part, own)
                weights += info.nbytes if len(stored) == 1 else sum(own.nbytes for own in stored.values())
                digests[name] = digest(tensor, without_negative_zero=parts is not None or groups is not None)
                nonzeros[name] = count_nonzero(tensor) if parts is None else len(parts.values)
                written += info.nbytes
                if progress is not None:
                    progress(len(digests), len(outline), PartOf(name, written, in_all))
            encoded = Encoded(tuple(in_bits), tuple(in_rows), tuple(in_groups))
            writer.finish(encoded)
        home = view.home if contents.at_home and state_dict_formats()[target.suffix].has_room else Home()
        compare(target, temporary, digests, ties, recorded=file, weights=".".join(home.trail) or None)
        size = temporary.stat().st_size
    return WrittenFile(
        target,
        size,
        nonzeros,
        encoded.sparse,
        weights=weights,
        packed=encoded.pivots,
        patterned=encoded.patterned,
    )


def group_patterns_of(manifest: Manifest) -> dict[str, AlongAxis]:
    """Name of a stored tensor -> the pattern it has by the manifest's plan, and the axis that its groups run along.

    A tensor of several layers is not named: it is one of many zeros like another.
    """
    found: dict[str, AlongAxis] = {}
    split = {layer.weight: layer for layer in manifest.factorized}
    for decision in manifest.plan.layers if manifest.plan is not None else ():
        if decision.pattern is None:
            continue
        pattern, layer = pattern_called(decision.pattern), split.get(decision.tensor)
        if layer is not None:
            found |= {name: AlongAxis(pattern, 0 if layer.transposed else 1) for name in (layer.down, layer.up)}
        else:
            found[decision.tensor] = AlongAxis(pattern, 0 if KINDS[decision.kind].rows == (1,) else 1)
    return found


def _bitmask(name: str, tensor: torch.Tensor, outline: Mapping[str, TensorInfo]) -> SparseTensor | None:
    """The tensor as bitmask and values; None where it is to be stored as it is."""
    if any(name + part in outline for part in (BITS, VALUES, SHAPE)) or not _is_plain(tensor):
        return None
    return bitmask.encode_if_smaller(tensor)


def _grouped(
    name: str, tensor: torch.Tensor, outline: Mapping[str, TensorInfo], patterns: Mapping[str, AlongAxis]
) -> Grouped | None:
    """The tensor as the kept entries of its groups; None where it is to be stored otherwise."""
    if name not in patterns or any(name + part in outline for part in (KEPT, PLACES, PATTERN)):
        return None
    return group_patterns.encode_if_smaller(tensor, *patterns[name]) if _is_plain(tensor) else None


def _pivot_rows(name: str, tensor: torch.Tensor, outline: Mapping[str, TensorInfo]) -> PivotRows | None:
    """The tensor without its rows of the identity; None where it is to be stored otherwise."""
    if any(name + part in outline for part in (PIVOTS, COEFFICIENTS)) or not _is_plain(tensor):
        return None
    return pivot_rows.encode_if_smaller(tensor)


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
    target: Path,
    written: Path,
    digests: Mapping[str, bytes],
    ties: Mapping[str, str] | None = None,
    *,
    recorded: Recorded | None = None,
    weights: str | None = None,
) -> None:
    """Read back what has been written.

    Args:
        target: the name the file is going to get, for messages.
        written: the file.
        digests: the `digest` of every tensor it must hold.
        ties: its further names; None where it may hold other tensors as well.
        recorded: what was written; where it is known, the disk is blamed for its own faults alone.
        weights: see `open_file`.

    Raises:
        OutputError: naming the first tensor that is not what it was.
    """
    try:
        if written.suffix.lower() == ".safetensors":
            _read_header_by_the_library(written)
        with open_file(written, strip_prefixes=False, weights=weights) as checkpoint:
            for name, expected in digests.items():
                if name not in checkpoint.tensors or digest(checkpoint.read(name)) != expected:
                    raise OutputError(
                        f"{target}: {printable(name)} reads back other than it was written; "
                        f"{_advice(written, recorded)}"
                    )
            if ties is None:
                return
            # A metadata entry that happens to name a tensor reads as a tie; it was the source's before.
            if wrong := (checkpoint.tensors.keys() - checkpoint.metadata.keys()) ^ (
                (digests.keys() | ties.keys()) - checkpoint.metadata.keys()
            ):
                names = printable(", ".join(sorted(wrong)))
                raise OutputError(f"{target}: {names} were written wrongly; {_advice(written, recorded)}")
    except CheckpointError as error:
        raise OutputError(f"{target}: cannot be read back: {error}; {_advice(written, recorded)}") from error


def _advice(written: Path, recorded: Recorded | None) -> str:
    """Whose fault it is that a file is not what it was meant to be, as far as that can be told."""
    if recorded is not None and not recorded.is_in(written):
        return "nothing was kept; the disk or the memory may be faulty, try another"
    return "nothing was kept; the fault is this program's, please report it"


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


def _components(tensor: torch.Tensor) -> Sequence[torch.Tensor]:
    """The dense tensors that a nested or sparse one is made of: of no type are there too few kernels for that."""
    import torch

    if tensor.is_nested:
        return tensor.unbind()
    if tensor.layout == torch.sparse_coo:
        return tensor._indices(), tensor._values()
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return tensor.crow_indices(), tensor.col_indices(), tensor.values()
    return tensor.ccol_indices(), tensor.row_indices(), tensor.values()


def digest(tensor: torch.Tensor, *, without_negative_zero: bool = False) -> bytes:
    """SHA-256 of type, shape and values; of a sparse tensor of its indices and values, as they are stored."""
    import torch

    hashed = hashlib.sha256()
    if tensor.is_nested or tensor.layout != torch.strided:
        shape = () if tensor.is_nested else tuple(tensor.shape)
        hashed.update(f"{tensor.dtype} {shape} {tensor.layout}".encode())
        for part in _components(tensor):
            hashed.update(digest(part))
        return hashed.digest()
    hashed.update(f"{tensor.dtype} {tuple(tensor.shape)} {tensor.layout}".encode())
    values = tensor.int_repr() if tensor.is_quantized else tensor
    if without_negative_zero:
        values = torch.where(values == 0, torch.zeros((), dtype=values.dtype), values)
    values = values.resolve_conj().resolve_neg().contiguous().reshape(-1)
    hashed.update(values.view(torch.uint8).numpy().data)
    return hashed.digest()
