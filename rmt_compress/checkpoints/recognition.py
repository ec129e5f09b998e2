"""What a file is, told by its first bytes: the formats that are read, and the name of those that are not."""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import Literal

from rmt_compress.errors import CheckpointError

FileKind = Literal["safetensors", "torch-zip", "torch-legacy", "index", "onnx"]

# How torch's legacy layout starts: a protocol-2 pickle of its magic number 0x1950A86A20F9469CFC6C.
_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."

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


def recognize(path: Path) -> FileKind:
    """Format of the file at `path`, from its content; only its first kilobyte is read.

    Raises:
        CheckpointError: no regular file, not readable, empty, or none of the formats this package reads; the
            message says what it looks like and what to do.
    """
    head, size = _head(path)
    if size == 0:
        raise CheckpointError(f"{path}: is empty (0 bytes); save or download it again")
    if head.startswith(b"PK\x03\x04"):
        return "torch-zip"
    if head.startswith(_LEGACY_MAGIC):
        return "torch-legacy"
    if _looks_like_safetensors(head):
        return "safetensors"
    if head.lstrip().startswith(b"{"):
        return "index"
    if _looks_like_onnx(head) and not _CORE_ML.match(head):
        return "onnx"
    foreign = _foreign(head, path)
    if foreign is None and path.suffix == ".safetensors":
        # The reader says what is wrong with the header.
        return "safetensors"
    if foreign is None and path.suffix == ".onnx":
        return "onnx"
    looks, advice = foreign or (
        f"is of no known format (it starts with the bytes {head[:8].hex(' ')})",
        _RESAVE,
    )
    raise CheckpointError(f"{path}: {looks}; {advice}")


def _head(path: Path) -> tuple[bytes, int]:
    """First kilobyte and size in bytes of the regular file at `path`."""
    try:
        status = path.stat()
        # Checked before opening: to open a pipe would wait for a writer.
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointError(f"{path}: is no regular file (a pipe, socket or device); name a saved file")
        with path.open("rb") as file:
            return file.read(1024), status.st_size
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError | ValueError) -> CheckpointError:
    """The one line for a file the system would not open or read."""
    if isinstance(error, FileNotFoundError):
        return CheckpointError(f"{path}: no such file or directory")
    if isinstance(error, PermissionError):
        return CheckpointError(f"{path}: permission denied; make it readable (chmod u+r) or copy it")
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return CheckpointError(f"{path}: cannot be read: {reason}")


def _looks_like_safetensors(head: bytes) -> bool:
    # Eight bytes of header length, then the header's brace. A length beyond 2**40 is text, not a length.
    return len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**40


# The fields of an ONNX model (onnx.proto, ModelProto) that hold a message or text, and those that hold a number.
_ONNX_MESSAGES = frozenset({2, 3, 4, 6, 7, 8, 14, 20, 25, 26})
_ONNX_NUMBERS = frozenset({1, 5})
_ONNX_GRAPH, _ONNX_OPSETS = 7, 8
_MOST_IR_VERSIONS = 100


def _looks_like_onnx(head: bytes) -> bool:
    """Whether the fields of a protobuf message that `head` starts with are those of an ONNX model.

    Protobuf has no magic number: the first field must be a sensible IR version, and those up to the graph, or to
    the end of `head`, no other than the model's own.
    """
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


def _foreign(head: bytes, path: Path) -> tuple[str, str] | None:
    """What the file looks like and what to do, None where nothing is known."""
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
