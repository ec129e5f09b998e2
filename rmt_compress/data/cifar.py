"""CIFAR-10 in its binary and its Python layout (https://www.cs.toronto.edu/~kriz/cifar.html)."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmt_compress.data.dataset import Dataset, Split, from_pixels
from rmt_compress.errors import DataError
from rmt_compress.wording import one_line

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

CLASSES = 10
BATCH_STEMS: dict[Split, tuple[str, ...]] = {
    "train": tuple(f"data_batch_{index}" for index in range(1, 6)),
    "test": ("test_batch",),
}
_SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32
_RECORD = 1 + _PIXELS
_IMAGES_PER_FILE = 10_000


def layout_suffix(folder: Path) -> str | None:
    """``.bin`` when `folder` holds batches in the binary layout, empty text for the Python one, else None."""
    stems = [stem for stems in BATCH_STEMS.values() for stem in stems]
    return next(
        (suffix for suffix in (".bin", "") if any((folder / f"{stem}{suffix}").is_file() for stem in stems)),
        None,
    )


def read_cifar_split(name: str, folder: Path, split: Split, *, allow_partial: bool = False) -> Dataset:
    """One split of the set `name` from the batch files in `folder`, ``data_batch_1.bin`` … or ``data_batch_1`` ….

    Missing files are all named in the error, or under `allow_partial` in the notes. Train reads five, test one.
    """
    import numpy as np

    suffix = layout_suffix(folder)
    wanted = [f"{stem}{'' if suffix is None else suffix}" for stem in BATCH_STEMS[split]]
    missing = [file for file in wanted if not (folder / file).is_file()]
    present = [file for file in wanted if file not in missing]
    if not present:
        raise DataError(f"{folder}: {', '.join(wanted)} missing, so there is no {split} split")
    if missing and not allow_partial:
        raise DataError(
            f"{folder}: {', '.join(missing)} missing, {len(present)} of {len(wanted)} {split} files; "
            "add them, or allow a partial set"
        )
    read = _read_binary if suffix == ".bin" else _read_python
    parts = [read(folder / file) for file in present]
    labels = np.concatenate([part[1] for part in parts])
    notes = []
    if missing:
        total = _IMAGES_PER_FILE * len(wanted)
        notes.append(f"{', '.join(missing)} missing: {len(labels):,} of {total:,} {split} images are used.")
    notes += [
        f"{file} holds {len(part[1]):,} images, the official file {_IMAGES_PER_FILE:,}."
        for file, part in zip(present, parts, strict=True)
        if len(part[1]) != _IMAGES_PER_FILE
    ]
    pixels = np.concatenate([part[0] for part in parts])
    return from_pixels(name, split, pixels, labels, classes=CLASSES, notes=tuple(notes))


def _read_binary(path: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    import numpy as np

    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({one_line(error)})") from error
    if not content or len(content) % _RECORD:
        raise DataError(f"{path}: truncated, {len(content):,} bytes are no multiple of the record size {_RECORD}")
    records = np.frombuffer(content, np.uint8).reshape(-1, _RECORD)
    return records[:, 1:].reshape(-1, *_SHAPE), records[:, 0]


def _read_python(path: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    import numpy as np

    try:
        batch = _BatchUnpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
    except Exception as error:  # a broken pickle can raise anything
        raise DataError(f"{path}: no readable CIFAR-10 batch ({one_line(error)})") from error
    entries = batch if isinstance(batch, dict) else {}
    found, labels = (entries.get(key.encode(), entries.get(key)) for key in ("data", "labels"))
    pixels = found.bytes() if isinstance(found, _Array) else None
    if pixels is None or pixels.shape[1:] != (_PIXELS,):
        raise DataError(f"{path}: no CIFAR-10 batch, 'data' must be bytes of shape (N, {_PIXELS})")
    # What is outside of the classes is told later, by its name: here it has to be a number that an array holds.
    if not (isinstance(labels, list) and all(type(label) is int and abs(label) < 2**63 for label in labels)):
        raise DataError(f"{path}: no CIFAR-10 batch, 'labels' must be a list of whole numbers")
    if len(labels) != len(pixels):
        raise DataError(f"{path}: {len(pixels):,} images but {len(labels):,} labels")
    return pixels.reshape(-1, *_SHAPE), np.array(labels, np.int64)


def _encode_latin1(text: str, _encoding: str) -> bytes:
    """How Python 3 writes bytes into pickles of protocol 2."""
    return text.encode("latin1")


class _Described:
    """What a pickle says of an array's type. numpy itself would take its word for where there are pointers."""

    def __init__(self, kind: Any = None, *_rest: Any) -> None:
        self.kind = kind

    def __setstate__(self, _state: Any) -> None:
        """Of bytes it has nothing to say."""


class _Array:
    """What a pickle says of an array."""

    def __init__(self, *_empty: Any) -> None:
        self._state: Any = None

    def __setstate__(self, state: Any) -> None:
        self._state = state

    def bytes(self) -> npt.NDArray[np.uint8] | None:
        """The array of bytes, (N, M); None where it is of another type, or there are more or fewer of them."""
        import numpy as np

        match self._state:
            case (_, (int(rows), int(columns)), _Described(kind=b"u1" | "u1"), fortran, bytes(content)):
                if min(rows, columns) < 0 or rows * columns != len(content):
                    return None
                return np.frombuffer(content, np.uint8).reshape((rows, columns), order="F" if fortran else "C")
        return None


# The one written in Python: the other one makes room for as many remembered objects as a pickle's largest number of
# one says, gigabytes for a pickle of fifty bytes.
class _BatchUnpickler(pickle._Unpickler):
    """Reads arrays, dicts, lists, text and numbers; whatever else a pickle asks for is refused by name."""

    def find_class(self, module: str, name: str) -> Any:
        # numpy moved its function from numpy.core to numpy._core; old files name the old place.
        allowed = {
            ("numpy.core.multiarray", "_reconstruct"): _Array,
            ("numpy._core.multiarray", "_reconstruct"): _Array,
            ("numpy", "ndarray"): _Array,
            ("numpy", "dtype"): _Described,
            ("_codecs", "encode"): _encode_latin1,
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is refused")
        return allowed[module, name]
