import numpy as np
import pytest
import torch

from rmt_compress.data import text
from rmt_compress.data.samples import Samples
from rmt_compress.data.settings import DataSettings
from rmt_compress.data.sources import open_samples
from rmt_compress.errors import DataError

PARTS = ("calibration", "selection", "test")


def opened(path, length=8, **more):
    return open_samples(f"text:{path}", DataSettings(sequence_length=length), **({"vocabulary": 256} | more))


def rows(samples, size=3):
    return torch.cat([inputs for inputs, _ in samples.batches(size)])


@pytest.fixture
def book(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("".join(f"line {number} é\n" for number in range(60)), encoding="utf-8")
    return path


def test_bytes_in_windows_that_do_not_overlap(book):
    source = opened(book)
    whole = source.whole()
    content = np.frombuffer(book.read_bytes(), np.uint8)
    count = len(content) // 8
    assert isinstance(whole, Samples)
    assert (whole.count, whole.targets, whole.classes, source.bytes_per_token) == (count, "tokens", None, 1.0)
    assert rows(whole).dtype == torch.int64
    assert rows(whole).tolist() == content[: 8 * count].reshape(-1, 8).tolist()
    assert [len(inputs) for inputs, _ in whole.batches(50)] == [50, count - 50]
    assert f"The last {len(content) % 8} of {len(content)} tokens do not fill a window of 8" in whole.notes[0]


def test_parts_are_stretches_that_do_not_meet(book):
    source = opened(book)
    everything = rows(source.whole()).tolist()
    parts = {part: rows(source.part(part)).tolist() for part in (*PARTS, "train")}
    assert parts["train"] + parts["test"] == everything
    assert parts["train"][-len(parts["calibration"]) :] == parts["calibration"]
    before = parts["train"][: -len(parts["calibration"])]
    assert before[-len(parts["selection"]) :] == parts["selection"]
    assert len(parts["test"]) == len(everything) // 4
    assert "test" in source.part("test").notes[-1]


def words(piece):
    """Ids of words: their first letter's place, spaces are lost."""
    return [ord(word[0]) % 50 for word in piece.split()]


def test_a_tokenizer_is_given_the_text(book):
    source = opened(book, tokenizer=words, vocabulary=50)
    ids = words(book.read_text(encoding="utf-8"))
    assert rows(source.whole()).flatten().tolist() == ids[: len(ids) // 8 * 8]
    assert source.bytes_per_token == pytest.approx(book.stat().st_size / len(ids))


def test_a_long_text_is_tokenized_piece_by_piece(book, monkeypatch):
    short = opened(book, tokenizer=words, vocabulary=50)
    expected = rows(short.whole()).tolist()
    monkeypatch.setattr(text, "KEPT", 100)
    monkeypatch.setattr(text, "PIECE", 64)
    pieces = []

    def tokenizer(piece):
        pieces.append(piece)
        return words(piece)

    source = opened(book, tokenizer=tokenizer, vocabulary=50)
    whole = source.whole()
    assert whole.count is None
    pieces.clear()
    assert rows(whole).tolist() == expected
    assert "".join(pieces) == book.read_text(encoding="utf-8")
    assert max(map(len, pieces)) < 100
    assert all(piece.endswith("\n") for piece in pieces)
    texts = {}
    for part in (*PARTS, "train"):
        samples = source.part(part)
        pieces.clear()
        rows(samples)
        texts[part] = "".join(pieces)
    assert texts["train"] + texts["test"] == book.read_text(encoding="utf-8")
    assert texts["train"].endswith(texts["selection"] + texts["calibration"])
    assert len(rows(whole.thinned(2))) == 2


@pytest.mark.parametrize("content", ["é" * 700, "a" + "é" * 700, "é\n" * 300, "\n" * 500, "a\u4e2d\U0001f600" * 99])
def test_parts_of_a_long_text_of_any_lines_are_the_text(tmp_path, content, monkeypatch):
    monkeypatch.setattr(text, "KEPT", 100)
    monkeypatch.setattr(text, "PIECE", 61)
    path = tmp_path / "book.txt"
    path.write_bytes(content.encode())
    pieces = []

    def tokenizer(piece):
        pieces.append(piece)
        return [1] * len(piece)

    source = opened(path, tokenizer=tokenizer, vocabulary=None)
    texts = {}
    for part in (*PARTS, "train"):
        samples = source.part(part)
        pieces.clear()
        rows(samples)
        texts[part] = "".join(pieces)
    assert texts["train"] + texts["test"] == content
    assert texts["train"].endswith(texts["selection"] + texts["calibration"])
    assert all(texts.values())


@pytest.mark.parametrize(
    ("content", "more", "message"),
    [
        (None, {}, "no such file can be read"),
        (b"", {}, "the file is empty"),
        (b"abc", {}, "3 tokens are fewer than a window of 8; take a longer text or a smaller --sequence-length"),
        (b"caf\xe9 au lait, all of it", {}, "it is no UTF-8 text, byte 0xe9"),
        (b"ends in the middle of \xc3", {}, "it is no UTF-8 text, byte 0xc3"),
        (b"any text", {"vocabulary": 32000}, "no tokenizer beside the network, and its vocabulary is 32,000"),
        (
            b"any text",
            {"vocabulary": None},
            "text is for networks that take tokens; give the --data it was trained on",
        ),
        (
            b"a b " * 9,
            {"tokenizer": words, "vocabulary": 40},
            "the tokenizer gives id 48, but the vocabulary is 40",
        ),
        (b"a b c", {"tokenizer": lambda _: 1 / 0}, "the tokenizer failed (ZeroDivisionError"),
    ],
)
def test_a_wrong_text_is_one_line(tmp_path, content, more, message):
    path = tmp_path / "book.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        opened(path, **more)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_text_of_one_window_cannot_be_divided(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("nine byte")
    source = opened(path)
    assert rows(source.whole()).shape == (1, 8)
    with pytest.raises(DataError, match="1 samples are too few to set some apart for the calibration part"):
        source.part("calibration")


def test_pixels_are_not_text(book):
    settings = DataSettings(mean="imagenet", sequence_length=8)
    with pytest.raises(
        DataError, match="--mean and --std are of images, C×H×W in floating point; its samples are 8"
    ):
        open_samples(f"text:{book}", settings, vocabulary=256).whole()
