"""What a file is told by: signs of the formats that are read (see `formats`), and the names of others."""

from __future__ import annotations

import re
import stat
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rmt_compress.errors import CheckpointError

_ZIP_MAGIC = b"PK\x03\x04"
# How torch's legacy layout starts: a pickle, of protocol 2 if not asked otherwise, of its magic number
# 0x1950A86A20F9469CFC6C.
_LEGACY_MAGIC = re.compile(rb"\x80[\x02-\x05](\x95.{8})?\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19\.", re.DOTALL)

# What the names of the files end in that `torch.distributed.checkpoint` writes, beside one called ``.metadata``.
DISTRIBUTED = ".distcp"

_ORIGINAL = "name the PyTorch or ONNX model it was made from"
_RESAVE = "save the weights again with torch.save(model.state_dict(), …) or safetensors"
_UNPACK = "unpack it first and name the checkpoint inside"

# (first bytes, what they mean, what to do)
_FOREIGN: tuple[tuple[bytes, str, str], ...] = (
    (
        b"version https://git-lfs",
        "is a Git LFS pointer, not the weights",
        "fetch them with `git lfs pull` or download the file itself",
    ),
    (b"\x89HDF\r\n\x1a\n", "is an HDF5 file (Keras or similar)", _RESAVE),
    (b"GGUF", "is a GGUF file (llama.cpp)", "name the original safetensors checkpoint it was made from"),
    (b"lmgg", "is a ggml file (whisper.cpp)", _ORIGINAL),
    (b"\x93NUMPY", "is a NumPy array", _RESAVE),
    (b"\x1f\x8b", "is gzip-compressed", _UNPACK),
    (b"BZh", "is bzip2-compressed", _UNPACK),
    (b"\xfd7zXZ\x00", "is xz-compressed", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "is zstd-compressed", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "is a 7-Zip archive", _UNPACK),
    (b"Rar!", "is a RAR archive", _UNPACK),
    (b"PK\x05\x06", "is an empty zip archive", _RESAVE),
)


# Both are protobuf and begin with a version; what follows is a message here, in ONNX the name of a producer.
_CORE_ML = re.compile(rb"\x08[\x01-\x7f]\x12[\x80-\xff]{0,4}[\x00-\x7f]\n", re.S)


@dataclass(frozen=True)
class Signs:
    """What a file's format is told by: its path and its first kilobyte."""

    path: Path
    head: bytes

    @property
    def is_zip(self) -> bool:
        """Whether it begins as a zip archive does."""
        return self.head.startswith(_ZIP_MAGIC)

    @cached_property
    def archived(self) -> frozenset[str]:
        """Full names of the records of a zip archive; none of anything else, or of a damaged one."""
        if not self.is_zip:
            return frozenset()
        try:
            with zipfile.ZipFile(self.path) as archive:
                return frozenset(archive.namelist())
        except OSError as error:
            raise unreadable(self.path, error) from error
        except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, UnicodeDecodeError):
            # The reader says what is wrong with it.
            return frozenset()

    @property
    def records(self) -> frozenset[str]:
        """Names of the records below the one folder that torch puts them in."""
        return frozenset(name.partition("/")[2] for name in self.archived)


def signs_of(path: Path) -> Signs:
    """What the format of the file at `path` is told by; one that is empty or no regular file is refused."""
    try:
        status = path.stat()
        # Checked before opening: to open a pipe would wait for a writer.
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointError(f"{path}: is no regular file (a pipe, socket or device); name a saved file")
        with path.open("rb") as file:
            head = file.read(1024)
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error
    if status.st_size == 0:
        raise CheckpointError(f"{path}: is empty (0 bytes); save or download it again")
    return Signs(path, head)


def unreadable(path: Path, error: OSError | ValueError) -> CheckpointError:
    """The one line for a file the system would not open or read."""
    if isinstance(error, FileNotFoundError):
        return CheckpointError(f"{path}: no such file or directory")
    if isinstance(error, PermissionError):
        return CheckpointError(f"{path}: permission denied; make it readable (chmod u+r) or copy it")
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return CheckpointError(f"{path}: cannot be read: {reason}")


def is_part_of_distributed(path: Path) -> bool:
    """Whether the file is one of several that `torch.distributed.checkpoint` wrote into a folder."""
    return path.suffix == DISTRIBUTED or (path.name == ".metadata" and any(path.parent.glob(f"*{DISTRIBUTED}")))


def looks_like_safetensors(signs: Signs) -> bool:
    """Whether eight bytes of header length and then the header's brace come first."""
    # A length beyond 2**40 is text, not a length.
    return signs.head[8:9] == b"{" and int.from_bytes(signs.head[:8], "little") < 2**40


def looks_like_index(signs: Signs) -> bool:
    """Whether the file is JSON, as the index of a sharded checkpoint is."""
    return signs.head.lstrip().startswith(b"{") and not looks_like_safetensors(signs)


def looks_like_torch_save(signs: Signs) -> bool:
    """Whether the file is a zip archive, of whatever else, or of torch's legacy layout."""
    return signs.is_zip or _LEGACY_MAGIC.match(signs.head) is not None


def looks_like_torch_export(signs: Signs) -> bool:
    """Whether an archive holds an exported program, of today's layout or of an older one."""
    return "archive_format" in signs.records or "serialized_exported_program.json" in signs.archived


def looks_like_torchscript(signs: Signs) -> bool:
    """Whether an archive holds a TorchScript program."""
    return {"constants.pkl", "data.pkl"} <= signs.records and not looks_like_torch_export(signs)


# The fields of an ONNX model (onnx.proto, ModelProto) that hold a message or text, and those that hold a number.
_ONNX_MESSAGES = frozenset({2, 3, 4, 6, 7, 8, 14, 20, 25, 26})
_ONNX_NUMBERS = frozenset({1, 5})
_ONNX_GRAPH, _ONNX_OPSETS = 7, 8
_MOST_IR_VERSIONS = 100


def looks_like_onnx(signs: Signs) -> bool:
    """Whether the fields of a protobuf message that the file starts with are those of an ONNX model.

    Protobuf has no magic number: the first field must be a sensible IR version, and those up to the graph, or to
    the end of the head, no other than the model's own.
    """
    head = signs.head
    if _CORE_ML.match(head) or looks_like_safetensors(signs):
        return False
    position, first = 0, True
    while position < len(head):
        tag, position = _varint(head, position)
        field, wire = tag >> 3, tag & 7
        value, position = _varint(head, position)
        if value < 0:
            return False
        if first and (field != 1 or not 0 < value <= _MOST_IR_VERSIONS):
            return False
        first = False
        if wire == 0 and field in _ONNX_NUMBERS:
            continue
        if wire != 2 or field not in _ONNX_MESSAGES:
            return False
        if field in (_ONNX_GRAPH, _ONNX_OPSETS):
            return True
        position += value
    # Nothing but a version is no model.
    return position > 2


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """The number at `position` in protobuf's encoding, and where it ends; -1 where it is none."""
    value = 0
    for shift in range(0, 70, 7):
        if position == len(data):
            return -1, position
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    return -1, position


def refusal(signs: Signs) -> CheckpointError:
    """The one line for a file of no format that is read: what it looks like and what to do."""
    looks, advice = foreign(signs) or (
        f"is of no known format (it starts with the bytes {signs.head[:8].hex(' ')})",
        _RESAVE,
    )
    return CheckpointError(f"{signs.path}: {looks}; {advice}")


def foreign(signs: Signs) -> tuple[str, str] | None:
    """What a file of a format that is not read looks like and what to do, None where nothing is known."""
    head = signs.head
    for magic, looks, advice in _FOREIGN:
        if head.startswith(magic):
            return looks, advice
    if _CORE_ML.match(head):
        return "is a Core ML model", _ORIGINAL
    if head[4:8] == b"TFL3":
        return "is a TensorFlow Lite model", _ORIGINAL
    if head[257:262] == b"ustar":
        return "is a tar archive (or a checkpoint of torch before 0.2)", _UNPACK
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return (
            "is a Python pickle that torch.save did not write; it was not run, as it can execute code",
            _RESAVE,
        )
    if head.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")):
        return "is a web page, not a checkpoint", "download the file itself (a login or a redirect was saved)"
    if _is_text(head):
        return "is text, not a checkpoint", "name a .safetensors or torch.save file"
    return None


def _is_text(head: bytes) -> bool:
    try:
        # The last character may be cut in half by the end of the first kilobyte.
        text = head.decode("utf-8") if len(head) < 1024 else head[:-4].decode("utf-8", "ignore")
    except UnicodeDecodeError:
        return False
    return all(c.isprintable() or c in "\t\n\r\f" for c in text)
