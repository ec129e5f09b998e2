"""Image folders: one subfolder per class, under ``train/`` and ``test/`` or directly in the directory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rmt_compress.data.dataset import Dataset, Split, from_pixels
from rmt_compress.errors import DataError, MissingDependencyError
from rmt_compress.wording import one_line

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_SPLIT_NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "test": ("test", "testing", "val", "valid", "validation"),
}
_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp"})
_GREY_MODES = frozenset({"1", "L", "LA"})
_DEEP_MODES = ("I", "F")  # more than 8 bits: Pillow would clip them silently


def is_image_folder(folder: Path) -> bool:
    """Whether some subfolder of `folder`, or of its split subfolders, holds images."""
    roots = [folder, *(folder / name for names in _SPLIT_NAMES.values() for name in names)]
    return any(_class_folders(root) for root in roots)


def read_image_folder(name: str, folder: Path, split: Split) -> Dataset:
    """The images below `folder`; classes are the subfolders' names in sorted order.

    ``train/`` and ``test/`` (or ``val/``, ``valid/``, ``validation/``) are the splits. Without them all images are
    the test split, and there is none to train on. Grey images give one channel, anything else three; all must be of
    one size, for nothing is resized behind the user's back, and no test class may be one that training does not
    have.
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
    return _read(name, split, folders, classes, notes)


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
    return sorted(path for path in root.iterdir() if path.is_dir() and any(map(_is_image, path.iterdir())))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in _SUFFIXES and path.is_file()


def _read(name: str, split: Split, folders: list[Path], classes: list[str], notes: tuple[str, ...]) -> Dataset:
    import numpy as np

    paths = [
        (image, classes.index(path.name)) for path in folders for image in sorted(filter(_is_image, path.iterdir()))
    ]
    arrays = [_read_image(path) for path, _ in paths]
    for (path, _), array in zip(paths, arrays, strict=True):
        if array.shape[1:] != arrays[0].shape[1:]:
            first, this = (f"{a.shape[2]}×{a.shape[1]}" for a in (arrays[0], array))
            raise DataError(f"{path} is {this} pixels but {paths[0][0]} {first}: resize them to one size")
    channels = max(array.shape[0] for array in arrays)
    pixels = np.stack([np.broadcast_to(array, (channels, *array.shape[1:])) for array in arrays])
    labels = np.array([label for _, label in paths], np.int64)
    return from_pixels(name, split, pixels, labels, classes=len(classes), notes=notes)


def _read_image(path: Path) -> npt.NDArray[np.uint8]:
    """(1 or 3, H, W)."""
    import numpy as np

    try:
        from PIL import Image
    except ImportError as error:
        raise MissingDependencyError("pillow", "train", "reading image folders") from error
    try:
        with Image.open(path) as image:
            if image.mode.startswith(_DEEP_MODES):
                raise DataError(
                    f"{path}: more than 8 bits per channel (Pillow mode {image.mode}); convert it first"
                )
            grey = image.mode in _GREY_MODES
            array = np.asarray(image.convert("L" if grey else "RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: not a readable image ({one_line(error)})") from error
    return array[None] if grey else array.transpose(2, 0, 1)
