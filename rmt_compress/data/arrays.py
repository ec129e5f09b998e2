"""``array:FILE``: inputs and targets from numpy files, mapped into memory where they are stored as they are."""

from __future__ import annotations

import math
import struct
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmt_compress.data.batches import INPUT_NAMES, TARGET_NAMES, split_names
from rmt_compress.data.dataset import Split
from rmt_compress.data.rows import ArrayRows, RowTable
from rmt_compress.errors import DataError
from rmt_compress.wording import listed, one_line

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# As `idx` has it: what packs better is a trap, once it is larger than memory forgives.
_USUAL_RATIO, _SMALL = 100, 128 << 20
_LOCAL_HEADER = (
    30  # bytes, of which the last four are the lengths of the name and of the extra field (APPNOTE 4.3.7)
)


def open_array(path: Path, *, seed: int) -> dict[Split, RowTable]:
    """The splits of a numpy file: ``test`` alone, or ``train`` too where names end so (``x_train``, ``y_test``).

    Args:
        path: ``.npy`` with inputs alone, or ``.npz`` with inputs ``x`` and targets ``y``, which may lack. In their
            place stand ``inputs``, ``labels`` and the other names of `batches`, or several inputs, each by the name
            with which the network is called.
        seed: of the shuffle.

    Raises:
        DataError: no such file, no numpy file, objects in it, arrays of different lengths.
    """
    name = f"array:{path}"
    arrays = _read(name, path)
    splits: dict[Split, dict[str, Any]] = {}
    for key, array in arrays.items():
        stem, _, end = key.rpartition("_")
        if stem and end == "train":
            splits.setdefault("train", {})[stem] = array
        elif stem and end == "test":
            splits.setdefault("test", {})[stem] = array
        else:
            splits.setdefault("test", {})[key] = array
    if "train" in splits and "test" not in splits:
        splits = {"test": splits["train"]}
    return {split: _table(name, given, seed) for split, given in splits.items()}


def _table(name: str, given: dict[str, Any], seed: int) -> RowTable:
    lowered = {key.lower(): array for key, array in given.items()}
    if set(lowered) <= {*INPUT_NAMES, *TARGET_NAMES}:
        given = lowered
    inputs, targets = split_names(name, given)
    rows = ArrayRows(name, inputs, targets)
    return RowTable(name, rows, seed, rows.classes)


def _read(name: str, path: Path) -> dict[str, npt.NDArray[Any]]:
    import numpy as np

    try:
        if not zipfile.is_zipfile(path):
            return {"x": _usable(name, "x", np.load(path, mmap_mode="r", allow_pickle=False))}
        with zipfile.ZipFile(path) as archive:
            members = [each for each in archive.infolist() if each.filename.endswith(".npy")]
            arrays = {}
            for member in members:
                key = member.filename.removesuffix(".npy")
                arrays[key] = _usable(name, key, _member(path, archive, member))
    except DataError:
        raise
    except Exception as error:
        # numpy reads the text of a header as Python's tokenizer and parser do, and fails as they fail.
        missing = isinstance(error, FileNotFoundError)
        # What numpy takes for a pickle is no file of its own, and its advice to load it unsafely is not ours.
        why = "ValueError: it does not begin as one" if "pickle" in str(error) else one_line(error)
        said = "no such file" if missing else f"no readable numpy file of numbers ({why})"
        raise DataError(f"{name}: {said}") from error
    if not arrays:
        raise DataError(f"{name}: no arrays in it; save them with numpy.savez(FILE, x=…, y=…)")
    if set(arrays) <= {"arr_0", "arr_1"}:
        return {{"arr_0": "x", "arr_1": "y"}[key]: array for key, array in arrays.items()}
    return arrays


def _member(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> npt.NDArray[Any]:
    """An array of an archive: mapped where it is stored as it is, read where it is compressed."""
    import numpy as np

    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
        header = file.tell()
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    if math.prod(shape) * dtype.itemsize > member.file_size - header:
        raise ValueError(f"{member.filename} is shorter than its header says")
    if member.file_size > max(_SMALL, _USUAL_RATIO * member.compress_size):
        raise ValueError(
            f"{member.filename} is to unpack into {member.file_size:,} bytes, over {_USUAL_RATIO} times its size; "
            "if that is meant, save it with numpy.savez"
        )
    if member.compress_type != zipfile.ZIP_STORED:
        with archive.open(member) as file:
            array: npt.NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
        return array
    with path.open("rb") as raw:
        raw.seek(member.header_offset)
        lengths = struct.unpack("<HH", raw.read(_LOCAL_HEADER)[-4:])
    offset = member.header_offset + _LOCAL_HEADER + sum(lengths) + header
    if 0 in shape:
        return np.empty(shape, dtype)
    return np.memmap(path, dtype, "r", offset, shape, "F" if fortran else "C")


def _usable(name: str, key: str, array: npt.NDArray[Any]) -> npt.NDArray[np.number[Any]]:
    if array.dtype.kind not in "biuf":
        raise DataError(f"{name}: {key} is of type {array.dtype}; numbers are needed")
    if not array.ndim:
        raise DataError(
            f"{name}: {key} is one number; {listed((*INPUT_NAMES, *TARGET_NAMES))} have a row per sample"
        )
    return array
