"""How tensors lie in a ``.safetensors`` file that is being written."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO

from rmt_compress.checkpoints.contents import Contents, Encoded
from rmt_compress.checkpoints.keys import MANIFEST_KEY
from rmt_compress.checkpoints.safetensors.safetensors_file import DTYPES, MAX_HEADER
from rmt_compress.errors import OutputError
from rmt_compress.layers.bitmask import BITS, SHAPE, VALUES, bits_length
from rmt_compress.layers.group_patterns import KEPT, PATTERN, PLACES
from rmt_compress.layers.pivot_rows import COEFFICIENTS, PIVOTS
from rmt_compress.wording import printable

if TYPE_CHECKING:
    import torch

_NAMES = {dtype: name for name, (dtype, _) in DTYPES.items()}
_METADATA = "__metadata__"
_IN_MEMORY = 2**23
_LARGEST = 10**18


class SafetensorsWriter:
    """Values as they come, the header at the end in the room kept for it.

    The format wants tensors without gaps. What is a multiple of eight bytes long is written at once; the rest
    waits in temporary files and follows, larger element types first, so that every tensor stays aligned. See
    `StateDictWriter`.
    """

    def __init__(self, target: Path, contents: Contents) -> None:
        self._target = target
        self._contents = contents
        self._reserved = _header_bound(target, contents)
        self._entries: list[tuple[str, str, tuple[int, ...], int, int, int]] = []
        self._position = 0
        self._tails: dict[int, IO[bytes]] = {}
        self.room = 8 + self._reserved
        for info in contents.outline.values():
            self.room += info.nbytes
            # Tensors of odd length, bitmasks, and some of what is packed wait in a second file for their turn.
            if info.nbytes % 8 or info.name in contents.packed | contents.patterned:
                self.room += info.nbytes
            elif contents.sparse:
                self.room += bits_length(info.nbytes)

    def start(self, file: BinaryIO) -> None:
        """Leave room for the header, and open the temporary files in the target's folder."""
        self._file = file
        file.seek(8 + self._reserved)
        for itemsize in (4, 2, 1):
            # `close` closes it.
            self._tails[itemsize] = tempfile.SpooledTemporaryFile(  # noqa: SIM115
                max_size=_IN_MEMORY, dir=str(self._target.parent)
            )

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Write one tensor."""
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

    def finish(self, encoded: Encoded) -> None:
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
        header = _header(described, self._contents, encoded)
        # Trailing spaces belong to the format.
        self._file.seek(0)
        self._file.write(self._reserved.to_bytes(8, "little") + header.ljust(self._reserved))
        if len(header) > self._reserved:
            raise OutputError(f"{self._target}: its header outgrew the room kept for it; this is a bug, report it")

    def close(self) -> None:
        """Give back the temporary files."""
        for tail in self._tails.values():
            tail.close()


def _header_bound(target: Path, contents: Contents) -> int:
    """Bytes to keep for the header: what it takes if every tensor is stored sparse; a multiple of eight."""
    if _METADATA in contents.outline:
        raise OutputError(f"{target}: a tensor must not be called {_METADATA} in a safetensors file; write a .pt")
    described = {}
    for name, info in contents.outline.items():
        described[name] = _described("F8_E4M3FNUZ", info.shape, _LARGEST, _LARGEST)
        if contents.manifest is not None:
            for part in (BITS, VALUES, SHAPE, *((PIVOTS,) if name in contents.packed else ())):
                described[name + part] = _described("F64", (_LARGEST,), _LARGEST, _LARGEST)
            if name in contents.packed:
                described[name + COEFFICIENTS] = _described("F64", info.shape, _LARGEST, _LARGEST)
            if name in contents.patterned:
                described[name + KEPT] = _described("F64", (_LARGEST, _LARGEST), _LARGEST, _LARGEST)
                for part in (PLACES, PATTERN):
                    described[name + part] = _described("F64", (_LARGEST,), _LARGEST, _LARGEST)
    try:
        names = tuple(contents.outline)
        chosen = (tuple(name for name in names if name in some) for some in (contents.packed, contents.patterned))
        length = len(_header(described, contents, Encoded(names, *chosen)))
    except UnicodeEncodeError as error:
        raise OutputError(f"{target}: a name or text in it is no valid Unicode; write a .pt") from error
    if length > MAX_HEADER:
        raise OutputError(f"{target}: its header would be larger than safetensors allows; write a .pt")
    return -(-length // 8) * 8


def _described(dtype: str, shape: tuple[int, ...], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def _header(described: Mapping[str, Any], contents: Contents, encoded: Encoded) -> bytes:
    # `format` is what transformers looks for; ties are written as safetensors.torch.save_model does.
    texts = {"format": "pt", **contents.metadata, **contents.ties}
    if (manifest := contents.manifest_text(encoded)) is not None:
        texts[MANIFEST_KEY] = manifest
    header = {_METADATA: texts, **described}
    return json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
