"""How tensors lie in a ``.safetensors`` file that is being written."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from rmt_compress.checkpoints.keys import MANIFEST_KEY
from rmt_compress.checkpoints.safetensors.safetensors_file import DTYPES, MAX_HEADER
from rmt_compress.errors import OutputError
from rmt_compress.layers.bitmask import BITS, SHAPE, VALUES
from rmt_compress.layers.layer import TensorInfo
from rmt_compress.wording import printable

if TYPE_CHECKING:
    import torch

    from rmt_compress.checkpoints.manifest import Manifest

_NAMES = {dtype: name for name, (dtype, _) in DTYPES.items()}
_METADATA = "__metadata__"
_IN_MEMORY = 2**23
_LARGEST = 10**18


class SafetensorsWriter:
    """Values as they come, the header at the end in the room kept for it.

    The format wants tensors without gaps. What is a multiple of eight bytes long is written at once; the rest
    waits in temporary files and follows, larger element types first, so that every tensor stays aligned.

    Args:
        target: the file, for messages and for where temporary files go.
        file: what is written to, at its start.
        reserved: bytes of header, a multiple of eight; see `safetensors_header_bound`.
    """

    def __init__(self, target: Path, file: BinaryIO, reserved: int) -> None:
        self._target = target
        self._file = file
        self._reserved = reserved
        self._entries: list[tuple[str, str, tuple[int, ...], int, int, int]] = []
        self._position = 0
        self._tails = {
            itemsize: tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY, dir=str(target.parent))  # noqa: SIM115
            for itemsize in (4, 2, 1)
        }
        file.seek(8 + reserved)

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Write one tensor.

        Raises:
            OutputError: the format cannot hold it.
        """
        import torch

        dtype = _NAMES.get(str(tensor.dtype).removeprefix("torch."))
        if dtype is None or tensor.layout != torch.strided or tensor.is_nested or tensor.is_quantized:
            raise OutputError(
                f"{self._target}: a safetensors file cannot hold {printable(name)} ({tensor.dtype}, "
                f"{str(tensor.layout).removeprefix('torch.')}); give the output a name in .pt"
            )
        values = tensor.resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8).numpy().data
        tail = self._tails[tensor.element_size()] if len(values) % 8 else None
        begin = self._position if tail is None else tail.tell()
        self._entries.append(
            (name, dtype, tuple(tensor.shape), begin, len(values), tensor.element_size() if tail else 0)
        )
        if tail is None:
            self._file.write(values)
            self._position += len(values)
        else:
            tail.write(values)

    def finish(self, manifest: Manifest | None, metadata: Mapping[str, str], ties: Mapping[str, str]) -> None:
        """Write what has waited, and the header."""
        starts = {0: 0}
        for itemsize, tail in self._tails.items():
            starts[itemsize] = self._position
            self._position += tail.tell()
            tail.seek(0)
            shutil.copyfileobj(tail, self._file, 2**20)
            tail.close()
        described = {
            name: _described(dtype, shape, starts[waited] + begin, starts[waited] + begin + length)
            for name, dtype, shape, begin, length, waited in self._entries
        }
        header = _header(described, manifest, metadata, ties)
        # Trailing spaces belong to the format.
        self._file.seek(0)
        self._file.write(self._reserved.to_bytes(8, "little") + header.ljust(self._reserved))
        if len(header) > self._reserved:
            raise OutputError(f"{self._target}: its header outgrew the room kept for it; this is a bug, report it")

    def close(self) -> None:
        """Give back the temporary files."""
        for tail in self._tails.values():
            tail.close()


def safetensors_header_bound(
    target: Path,
    outline: Mapping[str, TensorInfo],
    manifest: Manifest | None,
    metadata: Mapping[str, str],
    ties: Mapping[str, str],
) -> int:
    """Bytes to keep for the header: what it takes if every tensor is stored sparse; a multiple of eight.

    Raises:
        OutputError: a name or text the format cannot hold, or a header beyond the format's limit.
    """
    if reserved := [name for name in outline if name == _METADATA]:
        raise OutputError(f"{target}: a tensor must not be called {reserved[0]} in a safetensors file; write a .pt")
    described = {}
    for name, info in outline.items():
        described[name] = _described("F8_E4M3FNUZ", info.shape, _LARGEST, _LARGEST)
        if manifest is not None:
            for part in stored_names(name):
                described[part] = _described("F64", (_LARGEST,), _LARGEST, _LARGEST)
    complete = manifest.model_copy(update={"sparse": tuple(outline)}) if manifest else None
    try:
        length = len(_header(described, complete, metadata, ties))
    except UnicodeEncodeError as error:
        raise OutputError(f"{target}: a name or text in it is no valid Unicode; write a .pt") from error
    if length > MAX_HEADER:
        raise OutputError(f"{target}: its header would be larger than safetensors allows; write a .pt")
    return -(-length // 8) * 8


def stored_names(name: str) -> tuple[str, str, str]:
    """Names of the three parts of the sparse tensor `name`."""
    return name + BITS, name + VALUES, name + SHAPE


def _described(dtype: str, shape: tuple[int, ...], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def _header(
    described: Mapping[str, Any],
    manifest: Manifest | None,
    metadata: Mapping[str, str],
    ties: Mapping[str, str],
) -> bytes:
    # `format` is what transformers looks for; ties are written as safetensors.torch.save_model does.
    texts = {"format": "pt", **metadata, **ties}
    if manifest is not None:
        texts[MANIFEST_KEY] = manifest.to_json()
    header = {_METADATA: texts, **described}
    return json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
