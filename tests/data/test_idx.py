import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from rmt_compress.data import load_data
from rmt_compress.data.idx import read_idx
from rmt_compress.errors import DataError
from tests.samples.data_files import idx_bytes, write_idx_set


def test_pixels_are_scaled_to_one_and_nothing_else(tmp_path):
    images = np.array([[[0, 51], [102, 255]]])
    write_idx_set(tmp_path, images, np.array([2]), prefix="t10k")
    data = load_data(str(tmp_path), split="test")
    expected = torch.tensor([[[[0.0, 0.2], [0.4, 1.0]]]])
    assert torch.equal(data.images, expected)
    assert data.labels.tolist() == [2]
    assert data.labels.dtype == torch.int64
    assert data.images.dtype == torch.float32
    assert data.notes == ()


def test_classes_count_both_splits(idx_folder):
    assert load_data(str(idx_folder), split="train").classes == 7
    assert load_data(str(idx_folder), split="test").classes == 7  # its own labels end at 2


def test_gzip_and_raw_and_torchvision_folder_give_the_same(tmp_path, rng):
    images, labels = rng.integers(0, 256, (5, 6, 6)), np.array([0, 1, 2, 3, 4])
    write_idx_set(tmp_path / "a", images, labels, prefix="train")
    write_idx_set(tmp_path / "b" / "raw", images, labels, prefix="train", compress=True)
    first, second = (load_data(str(tmp_path / name), split="train") for name in "ab")
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.labels, second.labels)


def test_batches_cover_everything_in_order(idx_folder):
    data = load_data(str(idx_folder), split="train")
    batches = list(data.batches(3))
    assert [len(labels) for _, labels in batches] == [3, 3, 1]
    assert torch.equal(torch.cat([images for images, _ in batches]), data.images)
    with pytest.raises(ValueError, match="below 1"):
        next(data.batches(0))


GOOD = idx_bytes(np.arange(24).reshape(2, 3, 4))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no IDX file, it starts with nothing"),
        (b"PK\3\4 not an idx file at all", "no IDX file, it starts with 50 4b 03 04"),
        (GOOD[:10], "truncated inside its header"),
        (GOOD[:-1], "truncated, 24 bytes of data expected for shape (2, 3, 4), 23 found"),
        (GOOD + b"x", "longer than its header says"),
        (idx_bytes(np.zeros((2, 3)), element_type=0x0D), "element type 0x0d is not supported"),
        (struct.pack(">HBB3I", 0, 8, 3, 2**31, 2**31, 2**31), "its header promises"),
        (gzip.compress(GOOD, mtime=0)[:-12], "cannot be read"),
        (gzip.compress(GOOD[:-3], mtime=0), "truncated, 24 bytes of data expected"),
        (gzip.compress(struct.pack(">HBB2I", 0, 8, 2, 2**31, 2**31), mtime=0), "its header promises"),
        (b"\x1f\x8b" + b"\0" * 40, "cannot be read"),
    ],
)
def test_broken_files_are_one_clear_line(tmp_path: Path, content: bytes, message: str):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_idx(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_counts_that_differ(tmp_path):
    write_idx_set(tmp_path, np.zeros((3, 2, 2)), np.zeros(4), prefix="train")
    with pytest.raises(DataError, match=r"holds 3 images but train-labels-idx1-ubyte 4 labels"):
        load_data(str(tmp_path), split="train")


def test_labels_where_images_belong(tmp_path):
    write_idx_set(tmp_path, np.zeros(4), np.zeros(4), prefix="train")
    with pytest.raises(DataError, match="3 dimensions expected, its header says 1"):
        load_data(str(tmp_path), split="train")


def test_a_missing_split_names_the_file(tmp_path):
    write_idx_set(tmp_path, np.zeros((1, 2, 2)), np.zeros(1), prefix="train")
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte .* is missing"):
        load_data(str(tmp_path), split="test")


def test_an_empty_split(tmp_path):
    write_idx_set(tmp_path, np.zeros((0, 2, 2)), np.zeros(0), prefix="train")
    with pytest.raises(DataError, match="the train split is empty"):
        load_data(str(tmp_path), split="train")


@pytest.mark.realdata
@pytest.mark.parametrize(("spec", "folder"), [("mnist", "mnist"), ("fashion-mnist", "fashion_mnist")])
def test_real_sets_against_their_bytes(real_data, spec, folder):
    with gzip.open(real_data / folder / "t10k-images-idx3-ubyte.gz") as stream:
        pixels = stream.read()[16:]
    with gzip.open(real_data / folder / "t10k-labels-idx1-ubyte.gz") as stream:
        labels = stream.read()[8:]
    data = load_data(spec, split="test")
    assert tuple(data.images.shape) == (10_000, 1, 28, 28)
    assert data.classes == 10
    assert data.labels.tolist() == list(labels)
    assert (data.images.flatten() * 255).round().to(torch.uint8).numpy().tobytes() == pixels


@pytest.mark.realdata
def test_mnist_is_the_published_one(real_data):
    # Class counts of the official test set, as published with it (LeCun, Cortes, Burges).
    counts = torch.bincount(load_data("mnist", split="test").labels).tolist()
    assert counts == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert len(load_data("mnist", split="train")) == 60_000
