"""Images from files, read one by one when they are asked for."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmt_compress.data.rows import RowTable
from rmt_compress.data.samples import Batch
from rmt_compress.errors import DataError, MissingDependencyError
from rmt_compress.wording import one_line

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp"})
# Pillow knows many more, some of which it has other programs read: of EPS Ghostscript would run the PostScript.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
# Of a file that says it is larger than this, when it is unpacked, so many times its own size is believed.
_SMALL, _MOST_TIMES = 1 << 22, 200
_GREY_MODES = frozenset({"1", "L", "LA"})
_DEEP_MODES = ("I", "F")  # more than 8 bits: Pillow would clip them silently


def is_image(path: Path) -> bool:
    """Whether a file is called like an image."""
    return path.suffix.lower() in _SUFFIXES and path.is_file()


def open_images(folder: Path, *, size: int | None, seed: int) -> RowTable:
    """All images in a folder and in those below it, in the order of their names, without labels.

    Args:
        folder: where they are.
        size: see `ImageRows`.
        seed: of the shuffle.

    Raises:
        DataError: there is no such folder, or no image in it.
    """
    name = f"images:{folder}"
    if not folder.is_dir():
        raise DataError(f"{name}: there is no such folder")
    paths = sorted(filter(is_image, folder.rglob("*")))
    if not paths:
        raise DataError(f"{name}: no images in it; files ending in {', '.join(sorted(_SUFFIXES))} are looked for")
    return RowTable(name, ImageRows(paths, None, size), seed)


class ImageRows:
    """Images as float32 (N, C, H, W) in [0, 1], read when they are asked for.

    Args:
        paths: of the files. Where one of them has colours, grey ones are given three channels.
        labels: classes of the images; None where they have none.
        size: the shorter side is brought to this many pixels and the middle square taken; None where all images
            must be of one size.
    """

    def __init__(self, paths: Sequence[Path], labels: Sequence[int] | None, size: int | None) -> None:
        self._paths, self._labels, self._size = paths, labels, size
        self._channels = 0

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, _name: str, which: npt.NDArray[np.int64], size: int) -> Iterator[Batch]:
        """See `Rows`."""
        import numpy as np
        import torch

        if not self._channels:
            self._channels = 1 if all(is_grey(path, str(path)) for path in self._paths) else 3
        first: tuple[Path, npt.NDArray[np.uint8]] | None = None
        for start in range(0, len(which), size):
            mine = which[start : start + size].tolist()
            arrays = []
            for path in (self._paths[number] for number in mine):
                array = read_image(path, str(path), self._size)
                first = first or (path, array)
                check_size(path, array, *first)
                arrays.append(np.broadcast_to(array, (self._channels, *array.shape[1:])))
            images = torch.from_numpy(np.stack(arrays).astype(np.float32)).div_(255.0)
            labels = None if self._labels is None else torch.tensor([self._labels[number] for number in mine])
            yield Batch(images, labels)


def check_size(path: Path, array: npt.NDArray[np.uint8], other: Path, expected: npt.NDArray[np.uint8]) -> None:
    """Refuse an image (C, H, W) of another size than that of another file: nothing is resized unasked."""
    if array.shape[1:] != expected.shape[1:]:
        first, this = (f"{each.shape[2]}×{each.shape[1]}" for each in (expected, array))
        raise DataError(f"{path} is {this} pixels but {other} {first}: resize them to one size, or give --size")


def read_image(source: Path | bytes, name: str, size: int | None = None) -> npt.NDArray[np.uint8]:
    """The image in a file, or in the content of one that messages call `name`: (1 or 3, H, W).

    With a size it is the middle square, brought to that.

    Raises:
        DataError: no image, or one of more than 8 bits per channel.
        MissingDependencyError: Pillow is not installed.
    """
    import numpy as np

    with _opened(source, name) as image:
        grey = image.mode in _GREY_MODES
        converted = image.convert("L" if grey else "RGB")
        array = np.asarray(converted if size is None else _square(converted, size))
    return array[None] if grey else array.transpose(2, 0, 1)


def is_grey(source: Path | bytes, name: str) -> bool:
    """Whether an image has one channel; its header alone is read."""
    with _opened(source, name) as image:
        return image.mode in _GREY_MODES


def _square(image: Any, size: int) -> Any:
    from PIL import Image

    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))


@contextmanager
def _opened(source: Path | bytes, name: str) -> Iterator[Any]:
    """An image of 8 bits per channel; what goes wrong with it inside is a `DataError`."""
    try:
        # The last two Pillow would look for among all that it knows.
        from PIL import Image, TiffImagePlugin, WebPImagePlugin  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError("pillow", "train", "reading image folders") from error
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=_FORMATS) as image:
            if image.mode.startswith(_DEEP_MODES):
                raise DataError(
                    f"{name}: more than 8 bits per channel (Pillow mode {image.mode}); convert it first"
                )
            _check_unpacked(image, len(source) if isinstance(source, bytes) else source.stat().st_size, name)
            yield image
    except DataError:
        raise
    # A damaged file makes Pillow's decoders stumble in any way.
    except Exception as error:
        raise DataError(f"{name}: not a readable image ({one_line(error)})") from error


def _check_unpacked(image: Any, size: int, name: str) -> None:
    """Refuse an image of a few bytes that unpacks into gigabytes, before it does."""
    width, height = image.size
    if width * height * 3 > max(_SMALL, _MOST_TIMES * size):
        raise DataError(
            f"{name}: {width}×{height} pixels in {size:,} bytes would be over {_MOST_TIMES} times its size; if "
            "that is meant, resize it first"
        )
