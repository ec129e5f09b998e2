"""Files of images and labels in the standard layouts, written and read from the formats' descriptions."""

import gzip
import struct
from pathlib import Path

import numpy as np


def idx_bytes(array: np.ndarray, element_type: int = 0x08) -> bytes:
    header = struct.pack(">HBB", 0, element_type, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_idx_set(folder: Path, images: np.ndarray, labels: np.ndarray, *, prefix: str, compress: bool = False):
    folder.mkdir(parents=True, exist_ok=True)
    for stem, array in ((f"{prefix}-images-idx3-ubyte", images), (f"{prefix}-labels-idx1-ubyte", labels)):
        content = idx_bytes(array)
        path = folder / (f"{stem}.gz" if compress else stem)
        path.write_bytes(gzip.compress(content) if compress else content)


def idx_test_set(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    with gzip.open(folder / "t10k-images-idx3-ubyte.gz") as stream:
        pixels = np.frombuffer(stream.read()[16:], np.uint8)
    with gzip.open(folder / "t10k-labels-idx1-ubyte.gz") as stream:
        return pixels, np.frombuffer(stream.read()[8:], np.uint8)


def write_binary(path: Path, pixels: np.ndarray, labels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(bytes([label]) + row.tobytes() for label, row in zip(labels, pixels, strict=True)))
