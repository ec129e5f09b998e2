import sys
from pathlib import Path

import numpy as np
import pytest

from rmt_compress.data import load_data
from rmt_compress.errors import DataError, MissingDependencyError

Image = pytest.importorskip("PIL.Image")


def draw(path: Path, mode: str = "L", size: tuple[int, int] = (3, 2), value: int | tuple[int, ...] = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)


def test_classes_are_sorted_folder_names_and_grey_is_one_channel(tmp_path):
    draw(tmp_path / "train" / "dog" / "a.png", value=255)
    draw(tmp_path / "train" / "cat" / "a.png", value=51)
    draw(tmp_path / "train" / "cat" / "b.png", value=102)
    draw(tmp_path / "val" / "dog" / "c.png", value=204)
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no image")
    train, test = (load_data(str(tmp_path), split=split) for split in ("train", "test"))
    assert tuple(train.images.shape) == (3, 1, 2, 3)  # height before width
    assert train.images[:, 0, 0, 0].tolist() == pytest.approx([0.2, 0.4, 1.0])
    assert train.labels.tolist() == [0, 0, 1]
    assert test.labels.tolist() == [1]  # dog is class 1 there too, though cat is absent
    assert (train.classes, test.classes) == (2, 2)


def test_colour_channels_in_order_and_grey_images_among_them(tmp_path):
    draw(tmp_path / "test" / "a" / "1.png", "RGB", value=(255, 51, 0))
    draw(tmp_path / "test" / "b" / "2.png", "L", value=102)
    images = load_data(str(tmp_path), split="test").images
    assert images[:, :, 0, 0].tolist() == [pytest.approx([1.0, 0.2, 0.0]), pytest.approx([0.4, 0.4, 0.4])]


def test_without_split_folders_all_is_test_and_nothing_train(tmp_path):
    draw(tmp_path / "a" / "1.png")
    data = load_data(str(tmp_path), split="test")
    assert len(data) == 1
    assert "all its images are the test split" in data.notes[0]
    with pytest.raises(DataError, match="no train split; put its class folders into"):
        load_data(str(tmp_path), split="train")


def test_a_test_class_unknown_in_training(tmp_path):
    draw(tmp_path / "train" / "cat" / "1.png")
    draw(tmp_path / "test" / "cow" / "1.png")
    with pytest.raises(DataError, match="cow is no class of"):
        load_data(str(tmp_path), split="test")


def test_two_sizes(tmp_path):
    draw(tmp_path / "test" / "a" / "1.png", size=(3, 2))
    draw(tmp_path / "test" / "a" / "2.png", size=(5, 4))
    with pytest.raises(DataError, match=r"2\.png is 5×4 pixels but .*1\.png 3×2"):
        load_data(str(tmp_path), split="test")


def test_sixteen_bits_are_refused_not_clipped(tmp_path):
    (tmp_path / "a").mkdir()
    Image.fromarray(np.full((2, 2), 40_000, np.uint16)).save(tmp_path / "a" / "1.png")
    with pytest.raises(DataError, match="more than 8 bits per channel"):
        load_data(str(tmp_path), split="test")


def test_a_broken_image_is_named(tmp_path):
    draw(tmp_path / "a" / "1.png")
    (tmp_path / "a" / "2.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"2\.png: not a readable image"):
        load_data(str(tmp_path), split="test")


def test_pillow_missing_is_one_line(tmp_path, monkeypatch):
    draw(tmp_path / "a" / "1.png")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingDependencyError, match="reading image folders needs pillow"):
        load_data(str(tmp_path), split="test")
