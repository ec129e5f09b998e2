"""Image folders: one subfolder per class, under ``train/`` and ``test/`` or directly in the directory."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from rmt_compress.data.dataset import Dataset, Split, from_pixels
from rmt_compress.data.image_files import check_size, is_image, read_image
from rmt_compress.errors import DataError

_SPLIT_NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "test": ("test", "testing", "val", "valid", "validation"),
}


class LabelledImages(NamedTuple):
    """The images of a split.

    Attributes:
        paths: of their files.
        labels: the class of each.
        classes: names.
        notes: what the user should know, one sentence each.
    """

    paths: list[Path]
    labels: list[int]
    classes: list[str]
    notes: tuple[str, ...]


def splits_of(folder: Path) -> tuple[Split, ...]:
    """Which splits an image folder has; ``test`` alone where its classes lie in it directly."""
    found: tuple[Split, ...] = tuple(split for split in _SPLIT_NAMES if _find_split(folder, split))
    return found or (("test",) if _class_folders(folder) else ())


def read_image_folder(name: str, folder: Path, split: Split) -> Dataset:
    """The images that `labelled_images` finds, in memory; all must be of one size."""
    return _read(name, split, labelled_images(folder, split))


def labelled_images(folder: Path, split: Split) -> LabelledImages:
    """The images below `folder`; classes are the subfolders' names in sorted order.

    ``train/`` and ``test/`` (or ``val/``, ``valid/``, ``validation/``) are the splits. Without them all images are
    the test split, and there is none to train on. No test class may be one that training does not have.
    """
    root, notes = _split_root(folder, split)
    folders = _class_folders(root)
    if not folders:
        raise DataError(f"{root}: no subfolder with images (one per class) in it")
    train_root = _find_split(folder, "train")
    classes = [path.name for path in (_class_folders(train_root) if train_root else folders)]
    unknown = [path.name for path in folders if path.name not in classes]
    if unknown:
        raise DataError(f"{root}: {', '.join(unknown)} is no class of {train_root}")
    found = [
        (image, classes.index(path.name)) for path in folders for image in sorted(filter(is_image, path.iterdir()))
    ]
    return LabelledImages([path for path, _ in found], [label for _, label in found], classes, notes)


def _split_root(folder: Path, split: Split) -> tuple[Path, tuple[str, ...]]:
    found = _find_split(folder, split)
    if found:
        return found, ()
    other = _find_split(folder, "train" if split == "test" else "test")
    if other or split == "train":
        raise DataError(f"{folder}: no {split} split; put its class folders into {folder / split}")
    return folder, (f"{folder} has no test folder: all its images are the test split.",)


def _find_split(folder: Path, split: Split) -> Path | None:
    return next((folder / name for name in _SPLIT_NAMES[split] if _class_folders(folder / name)), None)


def _class_folders(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    return sorted(path for path in root.iterdir() if path.is_dir() and any(map(is_image, path.iterdir())))


def _read(name: str, split: Split, images: LabelledImages) -> Dataset:
    import numpy as np

    arrays = [read_image(path, str(path)) for path in images.paths]
    for path, array in zip(images.paths, arrays, strict=True):
        check_size(path, array, images.paths[0], arrays[0])
    channels = max(array.shape[0] for array in arrays)
    pixels = np.stack([np.broadcast_to(array, (channels, *array.shape[1:])) for array in arrays])
    return from_pixels(
        name, split, pixels, np.array(images.labels, np.int64), classes=len(images.classes), notes=images.notes
    )
