"""The formats that weight files are read and written in, one row each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name

from rmt_compress.checkpoints import recognition
from rmt_compress.checkpoints.base import Checkpoint
from rmt_compress.checkpoints.deepspeed import check_deepspeed
from rmt_compress.checkpoints.keys import MANIFEST_KEY
from rmt_compress.checkpoints.recognition import Signs
from rmt_compress.errors import CheckpointError


@dataclass(frozen=True)
class Format:
    """What is to be known of a format; its code lies in a folder of its own.

    Readers and writers are named ``module:callable`` and imported when one is needed: some take a while.

    Attributes:
        name: for people.
        suffixes: what the name of such a file ends in: files that are looked for, and files that are written.
        fits: whether the signs of a file are those of the format.
        reader: what opens a file, given its path and the options that it takes.
        takes: those of `open_file`'s options that the format has a use for; without ``weights`` it holds one set.
        writer: the `StateDictWriter`; empty where no state dicts are written.
        has_room: whether more than weights and text can be written beside them, see `Checkpoint.carried`.
        by_suffix: whether a file that looks like nothing known is taken for one by its suffix: a damaged one, of
            which the reader says what is wrong.
    """

    name: str
    suffixes: tuple[str, ...]
    fits: Callable[[Signs], bool]
    reader: str
    takes: tuple[str, ...] = ()
    writer: str = ""
    has_room: bool = False
    by_suffix: bool = False


# A file is of the last format that fits: `torch.save` takes any archive that those below it leave.
FORMATS = (
    Format(
        "safetensors",
        (".safetensors",),
        recognition.looks_like_safetensors,
        reader="rmt_compress.checkpoints.safetensors.safetensors_file:SafetensorsFile",
        writer="rmt_compress.checkpoints.safetensors.safetensors_writer:SafetensorsWriter",
        by_suffix=True,
    ),
    Format(
        "torch.save",
        (".pt", ".pth", ".bin", ".ckpt"),
        recognition.looks_like_torch_save,
        reader="rmt_compress.checkpoints.pytorch.torch_file:open_torch_file",
        takes=("strip_prefixes", "trust", "weights"),
        writer="rmt_compress.checkpoints.pytorch.torch_writer:TorchWriter",
        has_room=True,
    ),
    Format(
        "ONNX",
        (".onnx",),
        recognition.looks_like_onnx,
        reader="rmt_compress.checkpoints.onnx.onnx_file:OnnxFile",
        by_suffix=True,
    ),
    Format(
        "torch.export",
        (".pt2",),
        recognition.looks_like_torch_export,
        reader="rmt_compress.checkpoints.exported.program_file:ExportedProgramFile",
    ),
    Format(
        "TorchScript",
        (".pt", ".pth", ".jit", ".ts", ".torchscript", ".ptl"),
        recognition.looks_like_torchscript,
        reader="rmt_compress.checkpoints.torchscript.script_file:TorchScriptFile",
        takes=("trust",),
    ),
)


def weight_suffixes() -> tuple[str, ...]:
    """What the names of weight files end in."""
    return tuple(dict.fromkeys(suffix for row in FORMATS for suffix in row.suffixes))


def state_dict_formats() -> dict[str, Format]:
    """What the names of files that a state dict is written to end in, and in which format."""
    return {suffix: row for row in FORMATS if row.writer for suffix in row.suffixes}


def recognize(path: Path) -> Format:
    """Format of the file at `path`, from its content.

    Raises:
        CheckpointError: no regular file, not readable, empty, or of no format this package reads; the message says
            what it looks like and what to do.
    """
    if recognition.is_part_of_distributed(path):
        raise CheckpointError(
            f"{path}: is a part of a torch.distributed.checkpoint; name its folder, {path.absolute().parent}"
        )
    check_deepspeed(path)
    signs = recognition.signs_of(path)
    for row in reversed(FORMATS):
        if row.fits(signs):
            return row
    if recognition.looks_like_index(signs):
        raise CheckpointError(f"{path}: is JSON text where a weight file is due; name a .safetensors or .bin file")
    named = [row for row in FORMATS if row.by_suffix and path.suffix in row.suffixes]
    if named and recognition.foreign(signs) is None:
        return named[0]
    raise recognition.refusal(signs)


def open_file(
    path: Path, *, strip_prefixes: bool = True, trust: bool = False, weights: str | None = None
) -> Checkpoint:
    """The checkpoint in one weight file, of whichever format its content shows; see `open_checkpoint`, `TorchFile`.

    An index is refused: it holds no weights of its own.
    """
    row = recognize(path)
    if weights is not None and "weights" not in row.takes:
        raise CheckpointError(f"{path}: holds one set of weights; leave out --weights {weights}")
    options = {"strip_prefixes": strip_prefixes, "trust": trust, "weights": weights}
    stored: Checkpoint = resolve_name(row.reader)(path, **{name: options[name] for name in row.takes})
    if MANIFEST_KEY not in stored.metadata:
        return stored
    # Takes a while to import, and most files have no manifest.
    from rmt_compress.checkpoints.views import CompressedFile

    return CompressedFile(stored)
