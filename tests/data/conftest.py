"""Writers of small data files in the standard layouts, written from the formats' descriptions."""

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest


def idx_bytes(array: np.ndarray, element_type: int = 0x08) -> bytes:
    header = struct.pack(">HBB", 0, element_type, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_idx_set(folder: Path, images: np.ndarray, labels: np.ndarray, *, prefix: str, compress: bool = False):
    folder.mkdir(parents=True, exist_ok=True)
    for stem, array in ((f"{prefix}-images-idx3-ubyte", images), (f"{prefix}-labels-idx1-ubyte", labels)):
        content = idx_bytes(array)
        path = folder / (f"{stem}.gz" if compress else stem)
        path.write_bytes(gzip.compress(content) if compress else content)


@pytest.fixture
def idx_folder(tmp_path: Path, rng: np.random.Generator) -> Path:
    """A folder ``idx`` with 7 training and 3 test images of 4×5 pixels, classes 0 … 6; the test files are gzip."""
    folder = tmp_path / "idx"
    for prefix, count in (("train", 7), ("t10k", 3)):
        images = rng.integers(0, 256, (count, 4, 5))
        write_idx_set(folder, images, np.arange(count), prefix=prefix, compress=prefix == "t10k")
    return folder


@pytest.fixture
def cifar_images(rng: np.random.Generator) -> Callable[[int], tuple[np.ndarray, np.ndarray]]:
    """count -> pixels (count, 3072) and labels (count,), as in one CIFAR-10 batch."""
    return lambda count: (rng.integers(0, 256, (count, 3072), dtype=np.uint8), rng.integers(0, 10, count))
