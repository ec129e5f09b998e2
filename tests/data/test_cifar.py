import codecs
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from rmt_compress.data import load_data
from rmt_compress.errors import DataError
from tests.samples.data_files import write_binary


def write_python(path: Path, pixels: np.ndarray, labels: np.ndarray, *, protocol: int = 2, text_keys: bool = False):
    keys = ("data", "labels") if text_keys else (b"data", b"labels")
    path.parent.mkdir(parents=True, exist_ok=True)
    content = dict(zip(keys, (pixels, [int(label) for label in labels]), strict=True))
    path.write_bytes(pickle.dumps(content, protocol=protocol))


def test_both_layouts_give_the_same(tmp_path, cifar_images):
    for index in range(1, 6):
        pixels, labels = cifar_images(index)
        write_binary(tmp_path / "bin" / f"data_batch_{index}.bin", pixels, labels)
        write_python(tmp_path / "py" / "cifar-10-batches-py" / f"data_batch_{index}", pixels, labels)
    binary, python = (load_data(str(tmp_path / name), split="train") for name in ("bin", "py"))
    assert tuple(binary.images.shape) == (15, 3, 32, 32)
    assert torch.equal(binary.images, python.images)
    assert torch.equal(binary.labels, python.labels)
    assert binary.labels[-5:].tolist() == labels.tolist()  # files in their order
    # Planes red, green, blue, each in row-major order.
    last = pixels[-1]
    assert binary.images[-1, 1, 2, 3] * 255 == pytest.approx(int(last[1024 + 2 * 32 + 3]))


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("text_keys", [True, False])
def test_python_layout_in_every_usual_pickle(tmp_path, cifar_images, protocol, text_keys):
    pixels, labels = cifar_images(4)
    write_python(tmp_path / "test_batch", pixels, labels, protocol=protocol, text_keys=text_keys)
    assert load_data(str(tmp_path), split="test").labels.tolist() == labels.tolist()


def test_python_layout_as_python_2_and_old_numpy_wrote_it(tmp_path, cifar_images):
    """The official files: str keys in Python 2's STRING opcodes, numpy.core.multiarray."""
    pixels, labels = cifar_images(2)
    data = pixels.tobytes()
    content = (
        b"\x80\x02}(U\x04dataq\x01cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x02M\x00\x0c\x86"
        b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
        + len(data).to_bytes(4, "little")
        + data
        + b"tbU\x06labels](K"
        + bytes([labels[0]])
        + b"K"
        + bytes([labels[1]])
        + b"eu."
    )
    (tmp_path / "test_batch").write_bytes(content)
    loaded = load_data(str(tmp_path), split="test")
    assert loaded.labels.tolist() == labels.tolist()
    assert (loaded.images.flatten(1) * 255).round().to(torch.uint8).numpy().tobytes() == data


class Malicious:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def test_a_pickle_with_code_in_it_is_refused_and_not_run(tmp_path):
    marker = tmp_path / "executed"
    (tmp_path / "test_batch").write_bytes(pickle.dumps({b"data": Malicious(marker)}))
    with pytest.raises(DataError, match=r"test_batch: .*asks for (posix|nt)\.mkdir, which is refused"):
        load_data(str(tmp_path), split="test")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "EOFError"),
        (b"\x80\x02garbage", "no readable CIFAR-10 batch"),
        (pickle.dumps([1, 2]), "'data' must be bytes"),
        (pickle.dumps({"data": np.zeros((2, 3072)), "labels": [1, 2]}, 4), "'data' must be bytes"),
        (pickle.dumps({"data": np.zeros((2, 99), np.uint8), "labels": [1, 2]}, 4), "shape (N, 3072)"),
        (pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": ["cat", "dog"]}, 4), "'labels' must be"),
        (pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [1]}, 4), "2 images but 1 labels"),
        (pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [12]}, 4), "label 12 is outside 0 … 9"),
        (pickle.dumps(codecs.decode), "asks for _codecs.decode"),
    ],
)
def test_python_layout_broken(tmp_path, content, message):
    (tmp_path / "test_batch").write_bytes(content)
    with pytest.raises(DataError) as caught:
        load_data(str(tmp_path), split="test")
    assert message in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_truncated_binary_file(tmp_path, cifar_images):
    path = tmp_path / "test_batch.bin"
    write_binary(path, *cifar_images(3))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"test_batch.bin: truncated, 9,218 bytes are no multiple of .* 3073"):
        load_data(str(tmp_path), split="test")


def test_missing_files_are_named_and_allowed_on_request(tmp_path, cifar_images):
    pixels, labels = cifar_images(5)
    write_binary(tmp_path / "data_batch_2.bin", pixels, labels)
    with pytest.raises(DataError) as caught:
        load_data(str(tmp_path), split="train")
    for index in (1, 3, 4, 5):
        assert f"data_batch_{index}.bin" in str(caught.value)
    assert "1 of 5 train files" in str(caught.value)
    data = load_data(str(tmp_path), split="train", allow_partial=True)
    assert data.labels.tolist() == labels.tolist()
    assert "data_batch_5.bin missing: 5 of 50,000 train images" in data.notes[0]


def test_a_split_with_no_file_at_all_is_refused_even_partially(tmp_path, cifar_images):
    write_binary(tmp_path / "data_batch_2.bin", *cifar_images(1))
    with pytest.raises(DataError, match=r"test_batch.bin missing, so there is no test split"):
        load_data(str(tmp_path), split="test", allow_partial=True)


@pytest.mark.realdata
def test_the_real_partial_set(real_data):
    with pytest.raises(DataError, match=r"data_batch_3.bin, data_batch_4.bin, data_batch_5.bin missing, 2 of 5"):
        load_data("cifar10", split="train")
    train = load_data("cifar10", split="train", allow_partial=True)
    raw = (real_data / "cifar10/cifar-10-batches-bin/data_batch_2.bin").read_bytes()
    assert tuple(train.images.shape) == (20_000, 3, 32, 32)
    assert "20,000 of 50,000 train images" in train.notes[0]
    assert train.labels[10_007] == raw[7 * 3073]
    assert train.images[10_007, 2, 31, 31] * 255 == pytest.approx(raw[8 * 3073 - 1])
    assert "test_batch.bin holds 5,000 images" in load_data("cifar10", split="test").notes[0]
