import sys

import numpy as np
import pytest

from rmt_compress.data import KNOWN_SETS, Dataset, Samples, load_data, open_samples
from rmt_compress.data.parts import MOST, OF_ONLY, OF_TEST, dealt, stretches
from rmt_compress.errors import DataError, MissingDependencyError


def test_a_data_set_in_memory_is_samples():
    data = load_data("digits", split="test")
    assert isinstance(data, Dataset)
    assert isinstance(data, Samples)
    assert (data.part, data.targets, data.count) == ("test", "classes", 360)
    (batch, *_) = data.batches(5)
    images, labels = batch
    assert (batch.inputs is images, batch.targets is labels, len(labels)) == (True, True, 5)


WAYS = pytest.mark.parametrize("which", [lambda count, share: dealt(count, share, 3), stretches])


@WAYS
@pytest.mark.parametrize("count", [3, 4, 8, 9, 100, 100_003])
def test_parts_are_disjoint_and_bounded(which, count):
    parts = {part: which(count, share) for part, share in OF_ONLY.items()}
    calibration, selection, train = (set(parts[part].tolist()) for part in ("calibration", "selection", "train"))
    assert not calibration & selection
    assert calibration | selection <= train
    assert max(len(calibration), len(selection)) <= MOST
    assert sorted([*train, *parts["test"].tolist()]) == list(range(count))
    assert all(map(len, parts.values()))


@WAYS
@pytest.mark.parametrize("count", [2, 3, 9, 5000, 100_003])
def test_half_of_a_test_split_chooses(which, count):
    test, selection = (set(which(count, OF_TEST[part]).tolist()) for part in ("test", "selection"))
    # A text is divided into pieces first, however many of them count.
    whole = which(count, OF_TEST["selection"]._replace(most=None))
    assert selection <= set(whole.tolist())
    assert not test & set(whole.tolist())
    assert not test & selection
    assert len(selection) == min(count // 2, MOST)
    assert len(test) == count - count // 2


def test_an_unknown_set_lists_what_there_is():
    with pytest.raises(DataError) as caught:
        open_samples("digit")
    message = str(caught.value)
    assert "did you mean digits?" in message
    assert all(known in message for known in KNOWN_SETS)
    assert "text:FILE" in message
    assert "images:FOLDER" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("file", "message"),
    [("a.npz", "write array:"), ("a.tsv", "write csv:"), ("a.bin", "write what it holds before")],
)
def test_a_file_without_its_kind(tmp_path, file, message):
    (tmp_path / file).write_bytes(b"")
    with pytest.raises(DataError, match=f"is a file: {message}"):
        open_samples(str(tmp_path / file))


def test_a_kind_that_is_misspelled():
    with pytest.raises(DataError, match="did you mean array"):
        open_samples("aray:./file.npz")


def test_a_folder_of_nothing_known(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(3))
    with pytest.raises(DataError, match="nothing known in it; expected IDX files"):
        open_samples(str(tmp_path)).part("test")


def test_pyarrow_missing_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependencyError, match=r"needs pyarrow: pip install 'rmt-compress\[data\]'"):
        open_samples(f"parquet:{tmp_path / 't.parquet'}")
