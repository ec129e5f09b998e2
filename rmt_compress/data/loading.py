"""`load_data`: from what the user typed after ``--data`` to a `Dataset`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from rmt_compress.data.cifar import BATCH_STEMS, layout_suffix, read_cifar_split
from rmt_compress.data.dataset import Dataset, Split
from rmt_compress.data.idx import IDX_STEMS, find_idx_file, has_idx, read_idx_split
from rmt_compress.data.image_folder import read_image_folder, splits_of
from rmt_compress.data.named_sets import NAMED_SETS, locate
from rmt_compress.errors import DataError, MissingDependencyError
from rmt_compress.object_reference import is_reference, load_callable
from rmt_compress.wording import did_you_mean, one_line

if TYPE_CHECKING:
    from numpy.typing import NDArray

KNOWN_SETS = (*NAMED_SETS, "digits")

DIGITS_TEST_IMAGES = 360
DIGITS_SPLIT_SEED = 0


def load_data(spec: str, *, split: Split, allow_partial: bool = False) -> Dataset:
    """One split of a data set, in memory.

    Args:
        spec: ``mnist``, ``fashion-mnist``, ``cifar10`` (under ``$RMT_COMPRESS_DATA``, else in the user's cache,
            else downloaded with a known checksum), ``digits`` (scikit-learn's 8×8 digits, no download); a
            directory with IDX files, CIFAR-10 batches or image folders; or ``package.module:callable``. A name
            wins over a directory of the same name: write ``./mnist`` for that.
        split: ``train`` or ``test``.
        allow_partial: take a CIFAR-10 set with missing batch files as it is; `Dataset.notes` says which.

    Returns:
        images float32 (N, C, H, W) in [0, 1] without further normalisation, labels int64 (N,), in memory.

    The callable is called with ``split=…`` when it has such a parameter, else without arguments, and returns an
    iterable of (inputs, labels) batches. Its inputs keep their values and shape; classes are counted from the
    labels unless it has an attribute ``classes``.

    Raises:
        DataError: unknown set, missing or broken files, no network, a callable that fails or yields no batches.
        MissingDependencyError: scikit-learn, pooch or Pillow is needed and not installed.
    """
    if split not in get_args(Split):
        raise DataError(f"split {split!r} is unknown: train or test")
    if spec == "digits":
        return _load_digits(split)
    if spec in NAMED_SETS:
        known = NAMED_SETS[spec]
        folder = locate(known, split)
        if known.layout == "idx":
            return read_idx_split(spec, folder, split, classes=known.classes)
        return read_cifar_split(spec, folder, split, allow_partial=allow_partial)
    path = Path(spec).expanduser()
    if path.is_dir():
        return _load_directory(spec, path, split, allow_partial=allow_partial)
    if path.exists():
        raise DataError(f"{spec} is a file: give the directory that holds the data set's files")
    if is_reference(spec):
        return _load_callable(spec, split)
    raise DataError(
        f"no data set and no directory is called {spec!r}{did_you_mean(spec, KNOWN_SETS)}; known sets are "
        f"{', '.join(KNOWN_SETS)}; otherwise "
        "name a directory with IDX files, CIFAR-10 batches or image folders, or package.module:callable"
    )


def splits_on_disk(path: Path) -> tuple[Split, ...]:
    """Which splits of IDX files or CIFAR-10 batches a directory has; none where it holds neither."""
    splits: tuple[Split, ...] = get_args(Split)
    for folder in (path, path / "raw"):
        if has_idx(folder):
            return tuple(each for each in splits if any(find_idx_file(folder, stem) for stem in IDX_STEMS[each]))
    for folder in (path, path / "cifar-10-batches-bin", path / "cifar-10-batches-py"):
        if (suffix := layout_suffix(folder)) is not None:
            return tuple(
                each for each in splits if any((folder / f"{stem}{suffix}").is_file() for stem in BATCH_STEMS[each])
            )
    return ()


def _load_directory(spec: str, path: Path, split: Split, *, allow_partial: bool) -> Dataset:
    for folder in (path, path / "raw"):
        if has_idx(folder):
            return read_idx_split(spec, folder, split)
    for folder in (path, path / "cifar-10-batches-bin", path / "cifar-10-batches-py"):
        if layout_suffix(folder) is not None:
            return read_cifar_split(spec, folder, split, allow_partial=allow_partial)
    if splits_of(path):
        return read_image_folder(spec, path, split)
    raise DataError(
        f"{spec}: nothing known in it; expected IDX files (train-images-idx3-ubyte.gz …), CIFAR-10 batches "
        "(data_batch_1.bin …) or image folders (train/CLASS/*.png, test/CLASS/*.png)"
    )


def _load_digits(split: Split) -> Dataset:
    """Scikit-learn's 1,797 digits, 1,437 to train and 360 to test, stratified, split with seed 0."""
    import numpy as np
    import torch

    images, target, parts = _digits()
    picked = parts[split == "test"]
    scaled = torch.from_numpy(images[picked][:, None] / 16.0).to(torch.float32)
    return Dataset("digits", split, scaled, torch.from_numpy(target[picked].astype(np.int64)), 10)


@cache
def _digits() -> tuple[NDArray[Any], NDArray[Any], list[NDArray[Any]]]:
    """Images and classes of all, and which are to train and to test: reading them takes a tenth of a second."""
    import numpy as np

    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise MissingDependencyError("scikit-learn", "train", "the digits data set") from error
    digits = load_digits()
    parts = train_test_split(
        np.arange(len(digits.target)),
        test_size=DIGITS_TEST_IMAGES,
        random_state=DIGITS_SPLIT_SEED,
        stratify=digits.target,
    )
    return digits.images, digits.target, parts


def _load_callable(spec: str, split: Split) -> Dataset:
    try:
        source = load_callable(spec)
    except ImportError as error:
        raise DataError(f"data {spec}: {error}") from error
    takes_split = _takes_split(source)
    try:
        batches = [_as_batch(spec, batch) for batch in (source(split=split) if takes_split else source())]
    except DataError:
        raise
    except Exception as error:  # a stranger's code can raise anything
        raise DataError(f"data {spec}: calling it failed ({one_line(error)})") from error
    if not batches:
        raise DataError(f"data {spec}: it yields no batches for the {split} split")
    import torch

    try:
        images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    except RuntimeError as error:
        raise DataError(f"data {spec}: its batches do not fit together ({one_line(error)})") from error
    notes = () if takes_split else (f"{spec} has no parameter 'split': train and test are the same data.",)
    classes = getattr(source, "classes", None) or (int(labels.max()) + 1 if labels.numel() else 1)
    return Dataset(spec, split, images, labels, int(classes), notes)


def _takes_split(source: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(source).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(parameter.name == "split" or parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


def _as_batch(spec: str, batch: object) -> Any:
    import torch

    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise DataError(f"data {spec}: each batch must be a pair (inputs, labels), not {type(batch).__name__}")
    inputs, labels = (torch.as_tensor(part).detach().cpu() for part in batch)
    if inputs.ndim == 0 or labels.ndim != 1 or labels.dtype.is_floating_point or labels.dtype.is_complex:
        raise DataError(
            f"data {spec}: labels must be integers of shape (N,), not {labels.dtype} of {tuple(labels.shape)}"
        )
    # Whole numbers are tokens or indices, which an embedding table takes; bytes are pixels.
    named = inputs.dtype in (torch.int8, torch.int16, torch.int32, torch.int64)
    return inputs if named else inputs.to(torch.float32), labels.to(torch.int64)
