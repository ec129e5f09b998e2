import io
import json

import numpy as np
import pytest
import torch

from rmt_compress.data import DataSettings, arrow_files, open_samples
from rmt_compress.errors import DataError
from tests.samples.arrow_tables import save

pa = pytest.importorskip(
    "pyarrow", reason="PYARROW MISSING: nothing of Parquet files and saved data sets is tested"
)
parquet = pytest.importorskip("pyarrow.parquet")


def opened(spec, **more):
    return open_samples(str(spec), DataSettings(sequence_length=6), **more)


def gathered(samples, size=4):
    batches = list(samples.batches(size))
    targets = None if batches[0].targets is None else torch.cat([each.targets for each in batches])
    return torch.cat([each.inputs for each in batches]), targets


@pytest.fixture(params=["parquet", "datasets"])
def written(request, tmp_path):
    """Writes a table in either format and gives what is typed for it."""

    def write(**columns):
        table = pa.table(columns)
        if request.param == "datasets":
            save(tmp_path / "saved", table.slice(0, 2), table.slice(2))
            return f"datasets:{tmp_path / 'saved'}"
        parquet.write_table(table, tmp_path / "t.parquet")
        return f"parquet:{tmp_path / 't.parquet'}"

    return write


def test_numbers_and_labels(written, monkeypatch):
    monkeypatch.setattr(arrow_files, "_ROWS", 2)
    source = opened(written(a=[1.5, 2, 3], b=[4, 5, 6], label=[2, 0, 1]))
    samples = source.whole()
    inputs, targets = gathered(samples)
    assert inputs.tolist() == [[1.5, 4], [2, 5], [3, 6]]
    assert targets.tolist() == [2, 0, 1]
    assert (samples.count, samples.classes) == (3, 3)
    assert [source.part(part).count for part in ("test", "calibration", "selection")] == [1, 1, 1]
    assert "its 3 samples are divided: 1 test, 1 calibration, 1 selection" in source.part("test").notes[-1]


def test_named_columns_and_targets_that_are_numbers(written):
    spec = written(a=[1.5, 2, 3], b=[4, 5, 6], c=["x", "z", "y"])
    samples = opened(f"{spec}:a:b").whole()
    assert samples.targets == "numbers"
    assert gathered(samples)[0].tolist() == [[4], [5], [6]]
    assert gathered(opened(f"{spec}:c:a").whole())[1].tolist() == [0, 2, 1]


def test_texts(written):
    samples = opened(written(text=["ab", "longer than six"], y=[True, False]), vocabulary=256).whole()
    ((inputs, targets),) = samples.batches(2)
    assert inputs["input_ids"].tolist() == [[*b"ab", 0, 0, 0, 0], [*b"longer"]]
    assert inputs["attention_mask"].sum(1).tolist() == [2, 6]
    assert targets.tolist() == [1, 0]


def test_ids_and_labels_of_every_place(written):
    samples = opened(
        written(input_ids=[[1, 2, 3], [4]], attention_mask=[[1, 1, 1], [1]], labels=[[-100, 5, 6], [7]])
    ).whole()
    ((inputs, targets),) = samples.batches(2)
    assert {name: each.tolist() for name, each in inputs.items()} == {
        "input_ids": [[1, 2, 3], [4, 0, 0]],
        "attention_mask": [[1, 1, 1], [1, 0, 0]],
    }
    assert targets.tolist() == [[-100, 5, 6], [7, -100, -100]]


def test_lists_of_numbers(written):
    spec = written(x=[[[1.0, 2.0]], [[3.0, 4.0]]])
    assert gathered(opened(spec).whole())[0].shape == (2, 1, 2)


def test_lists_of_bytes_are_pixels(written):
    spec = written(x=pa.array([[[255, 0]], [[51, 255]]], pa.list_(pa.list_(pa.uint8()))))
    plain = opened(spec).whole()
    assert "Inputs are bytes" in plain.notes[-1]
    scaled = open_samples(spec, DataSettings(mean="0")).whole()
    assert gathered(scaled)[0].flatten().tolist() == pytest.approx([1, 0, 0.2, 1])


def test_images(written):
    image = pytest.importorskip("PIL.Image")

    def png(value):
        content = io.BytesIO()
        image.new("RGB", (5, 4), (value, 0, 255)).save(content, "png")
        return {"bytes": content.getvalue(), "path": None}

    inputs, targets = gathered(opened(written(image=[png(51), png(102)], label=[1, 0])).whole())
    assert inputs.shape == (2, 3, 4, 5)
    assert inputs[:, :, 0, 0].tolist() == [pytest.approx([0.2, 0, 1]), pytest.approx([0.4, 0, 1])]
    assert targets.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("columns", "typed", "message"),
    [
        ({"a": pa.array([], pa.int64())}, "", "no rows in it"),
        ({"a": [1, None]}, "", "column 'a' has an empty cell"),
        ({"a": [1, 2], "y": [None, 1]}, "", "column 'y' has an empty cell; every sample needs a label"),
        ({"a": [1, 2]}, ":b", "no column 'b'; it has a"),
        (
            {"a": [1, 2], "t": ["p", "q"]},
            "",
            "'a' holds numbers and 't' does not; name the columns that are inputs",
        ),
        ({"s": ["a", "b"], "t": ["p", "q"]}, "", "column 's' holds text; text is asked alone"),
        ({"a": [{"b": 1}]}, "", "is of type struct<b: int64>, which can be no input"),
        ({"x": [[1.0, 2.0], [3.0]]}, "", "holds lists that are no numbers of one shape"),
        ({"x": [[1.0], [2.0]], "y": [{"b": 1}] * 2}, "", "column 'y' holds dict and can be no labels"),
        ({"image": [{"bytes": None, "path": "a.png"}]}, "", "holds paths, not images"),
        ({"image": [b"no image"]}, "", "not a readable image"),
    ],
)
def test_wrong_columns_are_one_line(written, columns, typed, message):
    spec = written(**columns)
    with pytest.raises(DataError) as caught:
        gathered(opened(f"{spec}{typed}", vocabulary=256).whole())
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_saved_dict_of_splits_shares_its_labels(tmp_path):
    save(tmp_path / "train", pa.table({"x": [[float(n)] for n in range(16)], "label": ["b", "c"] * 8}))
    save(tmp_path / "validation", pa.table({"x": [[0.0], [1.0]], "label": ["c", "a"]}))
    (tmp_path / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "validation"]}))
    source = opened(tmp_path)
    assert source.comes_in == "splits"
    assert gathered(source.held_out())[1].tolist() == [2, 0]
    assert sorted(gathered(source.part(part))[1].item() for part in ("test", "selection")) == [0, 2]
    assert gathered(source.part("train"))[1].tolist() == [1, 2] * 8
    assert source.part("train").classes == 3
    assert "taken from the train split" in source.part("calibration").notes[0]


def test_names_of_classes_count_them(tmp_path):
    features = {"info": {"features": {"label": {"names": list("abcd"), "_type": "ClassLabel"}}}}
    table = pa.table({"x": [[1.0]], "label": [1]}).replace_schema_metadata({"huggingface": json.dumps(features)})
    save(tmp_path / "saved", table)
    assert opened(tmp_path / "saved").whole().classes == 4


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ("no json", "state.json cannot be read"),
        ("[]", "is no JSON object"),
        ('{"_data_files": []}', "it names no files of data in its folder"),
        ('{"_data_files": [{"filename": "../data.arrow"}]}', "it names no files of data in its folder"),
        ('{"_data_files": [{"filename": "gone.arrow"}]}', "it cannot be read (FileNotFoundError"),
        ('{"_data_files": [{"filename": "state.json"}]}', "it cannot be read"),
        ('{"_indices_data_files": [1]}', "it is a selection of rows; call flatten_indices"),
    ],
)
def test_a_folder_that_is_broken(tmp_path, state, message):
    (tmp_path / "state.json").write_text(state)
    with pytest.raises(DataError) as caught:
        opened(tmp_path)
    assert message in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_tables(tmp_path):
    (tmp_path / "t.parquet").write_bytes(b"no table")
    with pytest.raises(DataError, match="it cannot be read"):
        opened(f"parquet:{tmp_path / 't.parquet'}")
    with pytest.raises(DataError, match="no such file"):
        opened(f"parquet:{tmp_path / 'u.parquet'}")
    with pytest.raises(DataError, match=r"it holds no state\.json"):
        opened(f"datasets:{tmp_path}")
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["extra"]}')
    with pytest.raises(DataError, match="its splits are extra; train or test is needed"):
        opened(tmp_path)


def test_a_parquet_file_cut_short(tmp_path):
    path = tmp_path / "t.parquet"
    parquet.write_table(pa.table({"x": np.arange(1000.0), "y": np.arange(1000)}), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="it cannot be read"):
        opened(f"parquet:{path}").whole()
