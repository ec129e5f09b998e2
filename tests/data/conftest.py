"""Writers of small data files in the standard layouts, written from the formats' descriptions."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.samples.data_files import write_idx_set


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
