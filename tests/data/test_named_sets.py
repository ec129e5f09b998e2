import hashlib
import io
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pooch
import pytest

from rmt_compress.data import load_data, named_sets
from rmt_compress.errors import DataError, MissingDependencyError
from tests.samples.data_files import idx_bytes, write_binary, write_idx_set


@pytest.fixture
def cache(tmp_path: Path, monkeypatch) -> Path:
    """An empty cache directory in the user's place, and no $RMT_COMPRESS_DATA."""
    folder: Path = tmp_path / "cache"
    monkeypatch.setattr(pooch, "os_cache", lambda name: str(folder) if name == "rmt-compress" else None)
    monkeypatch.delenv("RMT_COMPRESS_DATA", raising=False)
    return folder


class Server:
    """Stands in for pooch's HTTP downloader: serves `files` by URL, counts requests, and is down for the rest."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []

    def __call__(self, url: str, output_file: str, _pooch: object) -> None:
        self.requests.append(url)
        if url not in self.files:
            raise ConnectionError(f"cannot reach\n{url}")
        Path(output_file).write_bytes(self.files[url])


@pytest.fixture
def server(monkeypatch) -> Server:
    server = Server()
    monkeypatch.setattr(pooch, "HTTPDownloader", lambda **_: server)
    return server


def publish(monkeypatch, server: Server, name: str, files: dict[str, bytes], mirrors: tuple[str, ...]) -> None:
    """Make `files` the official ones of the set `name`, served by the last mirror only."""
    checksums = {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}
    known = replace(named_sets.NAMED_SETS[name], files=checksums, mirrors=mirrors)
    monkeypatch.setitem(named_sets.NAMED_SETS, name, known)
    server.files |= {mirrors[-1] + file: content for file, content in files.items()}


def small_mnist(count: int) -> dict[str, bytes]:
    images, labels = np.arange(count * 4).reshape(count, 2, 2), np.arange(count) % 10
    return {
        f"{prefix}-{kind}-ubyte.gz": idx_bytes(array)
        for prefix in ("train", "t10k")
        for kind, array in (("images-idx3", images), ("labels-idx1", labels))
    }


@pytest.mark.parametrize("folder", ["mnist", "MNIST/raw"])
def test_the_environment_comes_first_and_has_no_checksum(tmp_path, cache, server, monkeypatch, folder):
    write_idx_set(tmp_path / "root" / folder, np.zeros((3, 2, 2)), np.array([0, 1, 2]), prefix="t10k")
    monkeypatch.setenv("RMT_COMPRESS_DATA", str(tmp_path / "root"))
    data = load_data("mnist", split="test")
    assert len(data) == 3
    assert data.classes == 10
    assert server.requests == []


def test_a_download_goes_to_the_cache_from_the_first_mirror_that_answers(cache, server, monkeypatch):
    publish(monkeypatch, server, "mnist", small_mnist(4), ("http://down.test/", "http://up.test/"))
    assert load_data("mnist", split="test").labels.tolist() == [0, 1, 2, 3]
    names = ["t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"]
    assert server.requests == [f"http://{host}.test/{name}" for name in names for host in ("down", "up")]
    assert sorted(path.name for path in (cache / "mnist").iterdir()) == names
    server.requests.clear()
    assert len(load_data("mnist", split="test")) == 4
    assert server.requests == []  # found in the cache


def test_an_environment_without_the_set_falls_through(tmp_path, cache, server, monkeypatch):
    publish(monkeypatch, server, "fashion-mnist", small_mnist(2), ("http://up.test/",))
    monkeypatch.setenv("RMT_COMPRESS_DATA", str(tmp_path))
    assert len(load_data("fashion-mnist", split="train")) == 2


def test_a_wrong_checksum_is_refused_and_leaves_nothing(cache, server, monkeypatch):
    publish(monkeypatch, server, "mnist", small_mnist(4), ("http://up.test/",))
    server.files["http://up.test/t10k-images-idx3-ubyte.gz"] = b"tampered with"
    with pytest.raises(DataError, match=r"downloading it failed .*hash") as caught:
        load_data("mnist", split="test")
    assert "\n" not in str(caught.value)
    assert [path for path in cache.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10"])
def test_no_network_is_one_line_with_the_way_out(cache, server, name):
    with pytest.raises(DataError) as caught:
        load_data(name, split="test")
    message = str(caught.value)
    assert message.startswith(f"{name} is not under $RMT_COMPRESS_DATA (not set)")
    assert "ConnectionError: cannot reach http" in message
    assert "set RMT_COMPRESS_DATA to a folder" in message
    assert "\n" not in message


def test_cifar_archive_is_unpacked_whole_and_without_its_paths(cache, server, monkeypatch, cifar_images, tmp_path):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for stem in (*(f"data_batch_{index}" for index in range(1, 6)), "test_batch"):
            write_binary(tmp_path / "one.bin", *cifar_images(2))
            tar.add(tmp_path / "one.bin", f"../../cifar-10-batches-bin/{stem}.bin")
        tar.add(tmp_path / "one.bin", "cifar-10-batches-bin/readme.html")
    publish(monkeypatch, server, "cifar10", {"cifar-10-binary.tar.gz": packed.getvalue()}, ("http://up.test/",))
    assert len(load_data("cifar10", split="train")) == 10
    assert len(load_data("cifar10", split="test")) == 2
    assert len(server.requests) == 1
    files = sorted(path.relative_to(cache).as_posix() for path in cache.rglob("*") if path.is_file())
    names = [*(f"data_batch_{index}.bin" for index in range(1, 6)), "test_batch.bin"]
    assert files == [f"cifar10/cifar-10-batches-bin/{name}" for name in names]


def test_pooch_missing_is_one_line(cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(MissingDependencyError, match=r"pooch: pip install 'rmt-compress\[train\]'"):
        load_data("mnist", split="test")


def test_published_checksums_are_sha256():
    # Lengths only: the values were compared with those that TensorFlow Datasets and others publish.
    for known in named_sets.NAMED_SETS.values():
        for checksum in known.files.values():
            assert len(bytes.fromhex(checksum)) == 32
