"""IDX files, the format of MNIST and Fashion-MNIST (http://yann.lecun.com/exdb/mnist), raw or gzip."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rmt_compress.data.dataset import Dataset, Split, from_pixels
from rmt_compress.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

IDX_STEMS: dict[Split, tuple[str, str]] = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
_UNSIGNED_BYTE = 0x08
_GZIP_MAGIC = b"\x1f\x8b"
_LARGEST_GZIP_RATIO = 1032  # deflate cannot do better (zlib.net, "Maximum Compression Factor")
# Images do not pack better than a few times. More is a trap once it is larger than memory forgives.
_USUAL_RATIO, _SMALL = 100, 128 << 20


def find_idx_file(folder: Path, stem: str) -> Path | None:
    """The file called `stem` in `folder`, also as ``.gz`` or in the spelling ``train-images.idx3-ubyte``."""
    spellings = (stem, stem.replace("-idx", ".idx"))
    candidates = (folder / f"{spelling}{suffix}" for spelling in spellings for suffix in ("", ".gz"))
    return next((path for path in candidates if path.is_file()), None)


def has_idx(folder: Path) -> bool:
    """Whether any of the four files is in `folder`."""
    return any(find_idx_file(folder, stem) for stems in IDX_STEMS.values() for stem in stems)


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """The array in one IDX file of unsigned bytes, gzipped or not.

    The sizes in the header are checked against the file before anything is allocated.
    """
    import numpy as np

    try:
        with path.open("rb") as raw:
            compressed = raw.read(2) == _GZIP_MAGIC
            raw.seek(0)
            stream = gzip.GzipFile(fileobj=raw) if compressed else raw
            shape = _read_header(path, stream.read(4), stream.read)
            expected = math.prod(shape)
            room = path.stat().st_size * (_LARGEST_GZIP_RATIO if compressed else 1)
            if expected > room:
                raise DataError(
                    f"{path}: truncated, its header promises {expected:,} bytes of data for shape {shape}"
                )
            if compressed and expected > max(_SMALL, _USUAL_RATIO * path.stat().st_size):
                raise DataError(
                    f"{path}: is to unpack into {expected:,} bytes, over {_USUAL_RATIO} times its size; if that "
                    "is meant, unpack it first (gunzip)"
                )
            content = stream.read(expected + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({' '.join(str(error).split())})") from error
    if len(content) != expected:
        found = f"{len(content):,}" if len(content) < expected else "more"
        state = "truncated" if len(content) < expected else "longer than its header says"
        raise DataError(f"{path}: {state}, {expected:,} bytes of data expected for shape {shape}, {found} found")
    try:
        return np.frombuffer(content, np.uint8).reshape(shape)
    except ValueError as error:
        raise DataError(f"{path}: no array has the shape {shape} that its header says") from error


def read_idx_split(name: str, folder: Path, split: Split, *, classes: int | None = None) -> Dataset:
    """One split of the set `name` from the four IDX files in `folder`.

    Where nobody says how many `classes` there are, it is one more than the largest label of both splits.
    """
    image_stem, label_stem = IDX_STEMS[split]
    images_path, labels_path = _require(folder, image_stem), _require(folder, label_stem)
    pixels, labels = read_idx(images_path), read_idx(labels_path)
    for path, array, ndim in ((images_path, pixels, 3), (labels_path, labels, 1)):
        if array.ndim != ndim:
            raise DataError(f"{path}: {ndim} dimensions expected, its header says {array.ndim}")
    if len(pixels) != len(labels):
        raise DataError(f"{images_path} holds {len(pixels):,} images but {labels_path.name} {len(labels):,} labels")
    if classes is None:
        every = [found for _, stem in IDX_STEMS.values() if (found := find_idx_file(folder, stem))]
        classes = 1 + max(int(read_idx(found).max(initial=0)) for found in every)
    return from_pixels(name, split, pixels[:, None], labels, classes=classes)


def _require(folder: Path, stem: str) -> Path:
    path = find_idx_file(folder, stem)
    if path is None:
        raise DataError(f"{folder}: {stem} (or {stem}.gz) is missing")
    return path


def _read_header(path: Path, magic: bytes, read: Callable[[int], bytes]) -> tuple[int, ...]:
    if len(magic) < 4 or magic[:2] != b"\0\0" or not magic[3]:
        raise DataError(f"{path}: no IDX file, it starts with {magic.hex(' ') or 'nothing'} instead of 00 00 08 0d")
    if magic[2] != _UNSIGNED_BYTE:
        raise DataError(f"{path}: element type 0x{magic[2]:02x} is not supported, only unsigned bytes (0x08) are")
    sizes = read(4 * magic[3])
    if len(sizes) != 4 * magic[3]:
        raise DataError(f"{path}: truncated inside its header")
    return struct.unpack(f">{magic[3]}I", sizes)
