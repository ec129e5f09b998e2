import numpy as np
import pytest
import torch

from rmt_compress.data import DataSettings, csv_files, open_samples
from rmt_compress.errors import DataError


@pytest.fixture
def table(tmp_path):
    def write(content, encoding="utf-8"):
        (tmp_path / "t.csv").write_bytes(content.encode(encoding))
        return f"csv:{tmp_path / 't.csv'}"

    return write


def opened(spec, **more):
    return open_samples(spec, DataSettings(sequence_length=6), **more)


def gathered(samples, size=4):
    batches = list(samples.batches(size))
    targets = None if batches[0].targets is None else torch.cat([each.targets for each in batches])
    return torch.cat([each.inputs for each in batches]), targets


def test_numbers_and_classes_by_name(table, monkeypatch):
    monkeypatch.setattr(csv_files, "_ROWS", 2)
    samples = opened(table("a,Label,b\n1,cat,2.5\n-3,dog,1e2\n0,cat,0\n")).whole()
    inputs, targets = gathered(samples)
    assert inputs.tolist() == [[1, 2.5], [-3, 100], [0, 0]]
    assert targets.tolist() == [0, 1, 0]
    assert (samples.classes, samples.count, samples.targets, samples.notes) == (2, 3, "classes", ())


@pytest.mark.parametrize(
    ("cells", "targets", "classes"),
    [(["3", "0", "1"], [3, 0, 1], 4), (["1.5", "2", "-3"], [1.5, 2, -3], None), (["10", "9", "x"], [0, 1, 2], 3)],
)
def test_what_labels_are(table, cells, targets, classes):
    samples = opened(table("a,y\n" + "".join(f"0,{cell}\n" for cell in cells))).whole()
    assert gathered(samples)[1].tolist() == targets
    assert samples.classes == classes
    assert samples.targets == ("numbers" if classes is None else "classes")


def test_columns_are_named_behind_the_file(table):
    spec = table("a;b;c\n1;2;3\n4;5;6\n")
    inputs, targets = gathered(opened(f"{spec}:b:c").whole())
    assert (inputs.tolist(), targets.tolist()) == ([[3], [6]], [2, 5])
    inputs, targets = gathered(opened(f"{spec}::c,a").whole())
    assert (inputs.tolist(), targets) == ([[3, 1], [6, 4]], None)
    samples = opened(spec).whole()
    assert gathered(samples)[0].shape == (2, 3)
    assert "no labels; FILE:COLUMN names one" in samples.notes[0]


def test_a_file_without_names(table):
    spec = table("5\t.5\t1\n6\t.25\t0\n")
    inputs, targets = gathered(opened(f"{spec}:3").whole())
    assert (inputs.tolist(), targets.tolist()) == ([[5, 0.5], [6, 0.25]], [1, 0])


def test_texts_as_bytes(table):
    samples = opened(table('text,label\n"a, b",good\nmuch longer,bad\n\n'), vocabulary=256).whole()
    ((inputs, targets),) = samples.batches(2)
    assert inputs["input_ids"].tolist() == [[*b"a, b", 0, 0], [*b"much l"]]
    assert inputs["attention_mask"].tolist() == [[1, 1, 1, 1, 0, 0], [1] * 6]
    assert targets.tolist() == [1, 0]
    assert "Texts of more than 6 tokens are cut." in samples.notes


def test_texts_without_labels_are_their_own_targets(table):
    samples = opened(
        f"{table('text,n' + chr(10) + 'a b,1' + chr(10))}::text", tokenizer=lambda text: [len(text)]
    ).whole()
    ((inputs, targets),) = samples.batches(2)
    assert (inputs["input_ids"].tolist(), targets, samples.targets) == ([[3]], None, "tokens")


def test_parts_of_rows(table):
    source = opened(table("a,y\n" + "".join(f"{n},{n}\n" for n in range(20))))
    parts = [gathered(source.part(part))[1].tolist() for part in ("calibration", "selection", "test", "train")]
    assert parts[:3] == [[1, 9, 17], [2, 10, 18], [0, 4, 8, 12, 16]]
    assert sorted(parts[2] + parts[3]) == list(range(20))
    assert [source.part(part).count for part in ("calibration", "test")] == [3, 5]


@pytest.mark.parametrize(
    ("content", "columns", "message"),
    [
        ("", "", "the file is empty"),
        ("a,y\n", "", "no rows in it"),
        ("a,y\n1,2\n", ":z", "no column 'z'; it has a, y"),
        ("alpha,y\n1,2\n", ":y:alpa", "no column 'alpa'; did you mean alpha?; it has alpha, y"),
        ("y\n1\n", "", "no column is left for the inputs beside 'y'"),
        ("a,a\n1,2\n", "", "two columns are called the same"),
        ("a,y\n1,2\n1\n", "", "line 3 has 1 columns, the first 2"),
        ("a,y\n1,2\n,3\n", "", "row 2 has nothing in column 'a', where a number is needed"),
        ("a,y\n1,2\nb,3\n", "", "row 2 has 'b' in column 'a', where a number is needed"),
        ("a,y\n1,\n2,3\n", "", "column 'y' has an empty cell; every sample needs a label"),
        ("a,y\nnan,2\n", "", "inputs hold NaN"),
        ("a,y\n1,-2\n", "", "label -2 is negative"),
        ("a,b,y\nword,3,2\n", "", "column 'a' holds text; text is asked alone: name its column, csv:"),
        ("a,y\nword,2\n", "", "there is no tokenizer beside the network, and no table of tokens in it"),
    ],
)
def test_a_wrong_table_is_one_line(table, content, columns, message):
    spec = table(content)
    with pytest.raises(DataError) as caught:
        gathered(opened(f"{spec}{columns}").whole())
    assert message in str(caught.value)
    assert "t.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_table_that_is_no_utf8(table):
    with pytest.raises(DataError, match="it is no UTF-8 text"):
        opened(table("é,y\n1,2\n", "latin-1"))


def test_a_table_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        opened(f"csv:{tmp_path / 'x.csv'}:label")


def test_too_many_texts_are_no_labels(table, monkeypatch):
    monkeypatch.setattr("rmt_compress.data.columns.MOST_CLASSES", 2)
    with pytest.raises(DataError, match="column 'y' holds more than 2 different texts: are they labels"):
        opened(table("a,y\n1,p\n1,q\n1,r\n"))


def test_a_colon_in_the_name_of_a_file(tmp_path):
    path = tmp_path / "a:b.csv"
    path.write_text("p,q\n1,2\n")
    assert gathered(opened(f"csv:{path}:q").whole())[1].tolist() == [2]
    np.testing.assert_array_equal(gathered(opened(f"csv:{path}:q").whole())[0], [[1]])
