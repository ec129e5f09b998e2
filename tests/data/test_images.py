import numpy as np
import pytest
import torch

from rmt_compress.data import DataSettings, flattened, image_files, open_samples
from rmt_compress.errors import DataError
from tests.samples.data_files import write_binary, write_idx_set

Image = pytest.importorskip("PIL.Image")


def draw(path, mode="L", size=(4, 3), value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)


def opened(spec, **settings):
    return open_samples(str(spec), DataSettings(**settings))


def gathered(samples, size=4):
    batches = list(samples.batches(size))
    targets = None if batches[0].targets is None else torch.cat([each.targets for each in batches])
    return torch.cat([each.inputs for each in batches]), targets


def test_images_without_labels_are_read_when_they_are_asked_for(tmp_path, monkeypatch):
    for number in range(8):
        draw(tmp_path / f"{number % 2}" / f"{number}.png", value=number)
    (tmp_path / "notes.txt").write_text("no image")
    read = []
    original = image_files.read_image
    monkeypatch.setattr(
        image_files, "read_image", lambda path, *rest: read.append(path.name) or original(path, *rest)
    )
    samples = opened(f"images:{tmp_path}").whole()
    assert (samples.count, samples.targets) == (8, "none")
    read.clear()
    inputs, targets = next(samples.batches(2))
    assert read == ["0.png", "2.png"]
    assert targets is None
    assert inputs.shape == (2, 1, 3, 4)
    assert inputs[:, 0, 0, 0].tolist() == pytest.approx([0, 2 / 255])


def test_grey_images_among_coloured_ones_have_three_channels(tmp_path):
    draw(tmp_path / "1.png", value=51)
    draw(tmp_path / "2.png", "RGB", value=(255, 0, 51))
    inputs, _ = gathered(opened(f"images:{tmp_path}").whole(), 1)
    assert inputs[:, :, 0, 0].tolist() == [pytest.approx([0.2] * 3), pytest.approx([1, 0, 0.2])]


def test_two_sizes_need_one(tmp_path):
    draw(tmp_path / "1.png", size=(4, 3))
    draw(tmp_path / "2.png", size=(8, 9))
    with pytest.raises(
        DataError, match=r"2\.png is 8×9 pixels but .*1\.png 4×3: resize them to one size, or give --size"
    ):
        gathered(opened(f"images:{tmp_path}").whole(), 1)
    assert gathered(opened(f"images:{tmp_path}", size=5).whole())[0].shape == (2, 1, 5, 5)


def test_the_middle_square_is_taken(tmp_path):
    pixels = np.zeros((4, 8), np.uint8)
    pixels[:, 2:6] = 255
    Image.fromarray(pixels).save(tmp_path / "1.png")
    assert gathered(opened(f"images:{tmp_path}", size=4).whole())[0].unique().tolist() == [1.0]


def test_resizing_in_memory_agrees_with_pillow(tmp_path, rng):
    pixels = rng.integers(0, 256, (3, 37, 52), dtype=np.uint8)
    Image.fromarray(pixels.transpose(1, 2, 0)).save(tmp_path / "1.png")
    np.save(tmp_path / "a.npy", pixels[None] / 255)
    files, _ = gathered(opened(f"images:{tmp_path}", size=16).whole())
    memory, _ = gathered(opened(f"array:{tmp_path / 'a.npy'}", size=16).whole())
    # Pillow rounds to bytes after each of its two passes.
    assert float((files - memory).abs().max()) < 2 / 255


def test_mean_and_std_are_applied_by_channel(tmp_path):
    draw(tmp_path / "1.png", "RGB", value=(255, 0, 51))
    inputs, _ = gathered(opened(f"images:{tmp_path}", mean="imagenet").whole())
    # By hand: (1 - .485) / .229, (0 - .456) / .224, (.2 - .406) / .225.
    assert inputs[0, :, 0, 0].tolist() == pytest.approx([2.248908, -2.035714, -0.915556], abs=1e-5)
    draw(tmp_path / "1.png", value=51)
    with pytest.raises(DataError, match="--mean and --std have 3 channels, its images are 1×3×4"):
        opened(f"images:{tmp_path}", mean="imagenet").whole()


def test_flattened(tmp_path):
    draw(tmp_path / "1.png", "RGB", value=(255, 0, 51))
    samples = flattened(opened(f"images:{tmp_path}", mean="0.2").whole())
    inputs, _ = gathered(samples.thinned(1))
    assert inputs.shape == (1, 36)
    assert inputs[0, ::12].tolist() == pytest.approx([0.8, -0.2, 0], abs=1e-6)
    assert samples.notes[-1] == "Inputs go flattened into the network."
    assert (samples.name, samples.part, samples.count) == (f"images:{tmp_path}", "test", 1)


@pytest.mark.parametrize(("make", "message"), [(False, "there is no such folder"), (True, "no images in it")])
def test_no_images(tmp_path, make, message):
    if make:
        (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=message):
        opened(f"images:{tmp_path / 'empty'}")


def test_image_folders_with_splits_are_read_one_by_one(tmp_path):
    for split, count in (("train", 16), ("val", 2)):
        for number in range(count):
            draw(tmp_path / split / "ab"[number % 2] / f"{number:02}.png", value=number)
    source = opened(tmp_path)
    assert source.comes_in == "splits"
    test = source.held_out()
    assert (test.classes, test.targets, gathered(test)[1].tolist()) == (2, "classes", [0, 1])
    pixels = [gathered(source.part(part))[0][:, 0, 0, 0].tolist() for part in ("test", "selection")]
    assert [len(each) for each in pixels] == [1, 1]
    assert not set(pixels[0]) & set(pixels[1])


def test_an_image_folder_of_one_split_is_divided(tmp_path):
    for number in range(16):
        draw(tmp_path / "ab"[number % 2] / f"{number:02}.png", value=number)
    source = opened(tmp_path)
    assert [source.part(part).count for part in ("calibration", "selection", "test", "train")] == [2, 2, 4, 12]
    assert source.part("test").notes == (
        f"{tmp_path} has no test split of its own; its 16 samples are divided: 4 test, 2 calibration, 2 selection.",
    )
    assert source.whole().count == 16


def test_idx_files_of_one_split_are_divided(tmp_path, rng):
    images, labels = rng.integers(0, 256, (16, 2, 3), dtype=np.uint8), np.arange(16, dtype=np.uint8)
    write_idx_set(tmp_path, images, labels, prefix="t10k")
    source = opened(tmp_path)
    seen = {part: gathered(source.part(part))[1].tolist() for part in ("calibration", "selection", "test", "train")}
    assert sorted(seen["test"] + seen["train"]) == labels.tolist()
    assert gathered(source.part("test"))[0][0].mul(255).round().tolist() == [images[seen["test"][0]].tolist()]


def test_cifar_batches_have_their_own_splits_and_presets(tmp_path, rng):
    pixels, labels = rng.integers(0, 256, (8, 3, 32, 32), dtype=np.uint8), np.arange(8, dtype=np.uint8)
    for stem in ("data_batch_1", "test_batch"):
        write_binary(tmp_path / f"{stem}.bin", pixels.reshape(8, -1), labels)
    source = opened(tmp_path, mean="cifar10")
    inputs, targets = gathered(source.whole())
    mean, std = np.array([0.4914, 0.4822, 0.4465]), np.array([0.2470, 0.2435, 0.2616])
    expected = (pixels / 255 - mean[:, None, None]) / std[:, None, None]
    np.testing.assert_allclose(inputs, expected, atol=1e-5)
    assert targets.tolist() == labels.tolist()
    assert "data_batch_2.bin" in source.part("calibration").notes[0]
    with pytest.raises(DataError, match="1 of 5 train files"):
        opened(tmp_path, allow_partial=False).part("calibration")


def test_digits_have_three_disjoint_parts():
    source = opened("digits")
    parts = {part: source.part(part) for part in ("calibration", "selection", "test", "train")}
    assert {part: each.count for part, each in parts.items()} == {
        "calibration": 180,
        "selection": 180,
        "test": 180,
        "train": 1437,
    }
    rows = [
        {each.numpy().tobytes() for each in gathered(parts[part], 512)[0]}
        for part in ("calibration", "selection", "test")
    ]
    assert not rows[0] & rows[1]
    assert not rows[1] & rows[2]


@pytest.mark.realdata
def test_a_set_with_its_own_splits(real_data):
    source = opened("mnist")
    assert [source.part(part).count for part in ("calibration", "test", "train")] == [7500, 5000, 60000]
    assert [source.part("calibration").part, source.part("test").classes] == ["calibration", 10]


def test_an_unknown_part():
    with pytest.raises(DataError, match="part 'validation' is unknown: train, calibration, selection, test"):
        opened("digits").part("validation")
