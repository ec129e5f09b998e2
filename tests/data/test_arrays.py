import io
import zipfile

import numpy as np
import pytest
import torch

from fuzz.mutating import archives, bombs
from rmt_compress.data.settings import DataSettings
from rmt_compress.data.sources import open_samples
from rmt_compress.errors import DataError


def opened(path, **settings):
    return open_samples(f"array:{path}", DataSettings(**settings))


def gathered(samples, size=4):
    batches = list(samples.batches(size))
    inputs = [each.inputs for each in batches]
    joined = (
        {key: torch.cat([x[key] for x in inputs]) for key in inputs[0]} if isinstance(inputs[0], dict) else None
    )
    targets = None if batches[0].targets is None else torch.cat([each.targets for each in batches])
    return torch.cat(inputs) if joined is None else joined, targets


@pytest.fixture(params=[np.savez, np.savez_compressed])
def save(request):
    return request.param


def test_x_and_y(tmp_path, rng, save):
    x, y = rng.normal(size=(20, 3)), rng.integers(0, 5, 20)
    y[7] = 6
    save(tmp_path / "a.npz", x=x, y=y)
    samples = opened(tmp_path / "a.npz").whole()
    inputs, targets = gathered(samples)
    assert (samples.count, samples.targets, samples.classes) == (20, "classes", 7)
    assert (inputs.dtype, targets.dtype) == (torch.float32, torch.int64)
    np.testing.assert_array_equal(inputs, x.astype(np.float32))
    np.testing.assert_array_equal(targets, y)


def test_a_stored_archive_is_mapped_not_read(tmp_path, monkeypatch):
    # Fortran order and an uneven name, so that each number of the headers matters.
    x = np.asfortranarray(np.arange(12.0, dtype=np.float32).reshape(4, 3))
    np.savez(tmp_path / "a.npz", inputs=x, targets=np.arange(4.0))
    monkeypatch.setattr(np.lib.format, "read_array", None)
    samples = opened(tmp_path / "a.npz").whole()
    inputs, targets = gathered(samples)
    assert inputs.tolist() == x.tolist()
    assert (samples.targets, samples.classes, targets.dtype) == ("numbers", None, torch.float32)


def test_inputs_alone(tmp_path, rng):
    x = rng.normal(size=(9, 2, 4)).astype(np.float32)
    np.save(tmp_path / "a.npy", x)
    samples = opened(tmp_path / "a.npy").whole()
    inputs, targets = gathered(samples)
    assert targets is None
    assert samples.targets == "none"
    np.testing.assert_array_equal(inputs, x)


def test_rows_of_whole_numbers_without_targets_are_tokens(tmp_path):
    np.save(tmp_path / "ids.npy", np.arange(24, dtype=np.uint16).reshape(4, 6))
    samples = opened(tmp_path / "ids.npy").whole()
    assert samples.targets == "tokens"
    assert gathered(samples)[0].dtype == torch.int64


def test_inputs_by_name(tmp_path):
    ids, mask = np.arange(12).reshape(3, 4), np.ones((3, 4), bool)
    np.savez(tmp_path / "a.npz", input_ids=ids, attention_mask=mask, labels=np.array([1, 0, 1]))
    inputs, targets = gathered(opened(tmp_path / "a.npz").whole())
    assert inputs["input_ids"].tolist() == ids.tolist()
    assert inputs["attention_mask"].dtype == torch.bool
    assert targets.tolist() == [1, 0, 1]


def test_splits_by_name(tmp_path):
    np.savez(
        tmp_path / "a.npz",
        x_train=np.zeros((40, 2)),
        y_train=np.arange(40),
        x_test=np.ones((20, 2)),
        y_test=np.arange(20),
    )
    source = opened(tmp_path / "a.npz")
    assert source.comes_in == "splits"
    assert source.part("train").count == 40
    assert (source.whole().count, source.held_out().count) == (20, 20)
    assert source.part("calibration").count == 5
    # What chooses is not what was trained on, and not what scores.
    test, selection = (set(gathered(source.part(p))[1].tolist()) for p in ("test", "selection"))
    assert (len(test), len(selection), test | selection) == (10, 10, set(range(20)))
    assert "Of the test split of" in source.part("selection").notes[0]
    assert "Calibration samples are taken from the train split" in source.part("calibration").notes[0]


def test_one_split_is_divided_by_the_seed(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((80, 2)), y=np.arange(80))
    parts = {
        part: gathered(opened(tmp_path / "a.npz").part(part))[1].tolist()
        for part in ("calibration", "selection", "test", "train")
    }
    assert sorted(parts["train"] + parts["test"]) == list(range(80))
    assert not set(parts["calibration"]) & set(parts["selection"])
    assert set(parts["calibration"]) | set(parts["selection"]) < set(parts["train"])
    assert [len(each) for each in parts.values()] == [10, 10, 20, 60]
    assert parts["test"] != list(range(0, 80, 4))
    assert gathered(opened(tmp_path / "a.npz", seed=1).part("test"))[1].tolist() != parts["test"]
    (note,) = opened(tmp_path / "a.npz").part("selection").notes
    assert "its 80 samples are divided: 20 test, 10 calibration, 10 selection" in note


def test_three_samples_are_enough_for_three_parts(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((3, 2)))
    source = opened(tmp_path / "a.npy")
    assert [source.part(part).count for part in ("calibration", "selection", "test")] == [1, 1, 1]


def test_thinned_is_spread_evenly(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((10, 1)), y=np.arange(10))
    samples = opened(tmp_path / "a.npz").whole()
    assert gathered(samples.thinned(4))[1].tolist() == [0, 2, 5, 7]
    assert samples.thinned(99).count == 10


def test_bytes_are_divided_where_pixels_are_spoken_of(tmp_path):
    np.save(tmp_path / "a.npy", np.full((3, 1, 2, 2), 255, np.uint8))
    plain = opened(tmp_path / "a.npy").whole()
    assert gathered(plain)[0].unique().tolist() == [255.0]
    assert "--mean 0 divides them by 255" in plain.notes[0]
    scaled = opened(tmp_path / "a.npy", mean="0").whole()
    assert gathered(scaled)[0].unique().tolist() == [1.0]
    assert scaled.notes == ()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((3, 2)), "y": np.zeros(2)}, "its arrays have 2 and 3 rows: they must agree"),
        ({"x": np.array(["a", "b"])}, "x is of type <U1; numbers are needed"),
        ({"x": np.array(3.0)}, "x is one number"),
        ({"x": np.zeros((0, 2))}, "its arrays are empty"),
        ({"y": np.zeros(2)}, "no inputs beside its y"),
        ({"x": np.array([None, 1], object)}, "no readable numpy file of numbers"),
        ({}, "no arrays in it; save them with numpy.savez"),
    ],
)
def test_arrays_that_are_no_data(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError) as caught:
        opened(tmp_path / "a.npz")
    assert message in str(caught.value)
    assert "a.npz" in str(caught.value)


def test_an_archive_that_promises_more_than_it_holds(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**9, 99)})
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", header.getvalue() + bytes(100))
    with pytest.raises(DataError, match=r"x\.npy is shorter than its header says"):
        opened(tmp_path / "a.npz")


def test_an_archive_of_a_few_bytes_that_unpacks_into_a_hundred_megabytes(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (129 << 20, 1)})
    stored, checksum = bombs.zeros(129, header.getvalue())
    packed = archives.Record("x.npy", stored, 8, len(header.getvalue()) + (129 << 20), checksum)
    (tmp_path / "a.npz").write_bytes(archives.written([packed]))
    with pytest.raises(DataError, match=r"x\.npy is to unpack into 135,266,\d+ bytes, over 100 times its size"):
        opened(tmp_path / "a.npz")


@pytest.mark.parametrize("content", [None, b"", b"no numpy file", b"\x93NUMPY\x01\x00"])
def test_files_that_are_no_arrays(tmp_path, content):
    path = tmp_path / "a.npy"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match="no such file" if content is None else "no readable numpy file"):
        opened(path)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([[1.0], [np.nan], [3.0]], [0, 1, 2], "inputs hold NaN, first in sample 1 of a batch"),
        ([[1.0], [2.0], [3.0]], [0, -1, 2], "label -1 is negative"),
        ([[1.0], [2.0], [3.0]], [0.5, np.nan, 2], "targets hold NaN"),
    ],
)
def test_wrong_values(tmp_path, x, y, message):
    np.savez(tmp_path / "a.npz", x=x, y=y)
    with pytest.raises(DataError, match=message):
        gathered(opened(tmp_path / "a.npz").whole())
