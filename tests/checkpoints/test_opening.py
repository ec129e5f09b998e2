import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rmt_compress.checkpoints import open_checkpoint
from tests.samples.contents import assert_holds


@contextmanager
def _as_nobody() -> Iterator[None]:
    """Without root's right to read everything."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        if before == 0:
            os.seteuid(before)


def test_the_content_decides_not_the_suffix(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    save_file(state, tmp_path / "weights.pt")
    torch.save(state, tmp_path / "weights.dat")
    assert_holds(tmp_path / "weights.pt", state)
    assert_holds(str(tmp_path / "weights.dat"), state)


def test_a_torch_file_named_safetensors_is_named(tmp_path: Path, refusal: Callable[..., str]) -> None:
    path = tmp_path / "model.safetensors"
    torch.save({"w": torch.ones(2)}, path)
    assert "rename it to .pt" in refusal(path)


def test_an_open_checkpoint_is_handed_back(state: dict[str, torch.Tensor]) -> None:
    checkpoint = open_checkpoint(state)
    assert open_checkpoint(checkpoint) is checkpoint


@pytest.mark.parametrize("source", [3, [torch.ones(3)], None])
def test_other_objects_are_a_type_error(source: object) -> None:
    with pytest.raises(TypeError, match=r"not (int|list|NoneType)"):
        open_checkpoint(source)


FOREIGN = [
    ("empty.pt", b"", "empty (0 bytes)"),
    ("empty.safetensors", b"", "empty (0 bytes)"),
    ("text.pt", b"These are not weights.\n", "is text"),
    ("text.pt", "ζεύγος ".encode() * 200, "is text"),
    ("text.safetensors", b"These are not weights.\n", "is text"),
    ("lfs.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\n", "git lfs pull"),
    ("page.bin", b"\n<!DOCTYPE html><html></html>", "web page"),
    ("model.gguf", b"GGUF\x03\x00\x00\x00", "GGUF"),
    ("model.mlmodel", b"\x08\x02\x12\xe8\x11\n\x16\n\x05input" + bytes(20), "Core ML"),
    ("model.tflite", b"\x1c\x00\x00\x00TFL3" + bytes(20), "TensorFlow Lite"),
    ("model.bin", b"lmgg\n" + bytes(20), "ggml"),
    ("model.h5", b"\x89HDF\r\n\x1a\n" + bytes(20), "HDF5"),
    ("model.pt.gz", b"\x1f\x8b\x08\x00", "gzip"),
    ("old.pt", bytes(257) + b"ustar\x00" + bytes(300), "tar archive"),
    ("noise.pt", bytes(range(128, 160)), "80 81 82 83"),
    ("settings.json", b'{"a": 1}', "weight_map"),
    ("settings.pt", b"{not json", "not JSON"),
    ("short.safetensors", b"\x10\x00\x00", "truncated"),
    ("pickle.pkl", b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00", "pickle that torch.save did not write"),
]


@pytest.mark.parametrize(("name", "content", "expected"), FOREIGN)
def test_other_files_are_named_for_what_they_look_like(
    name: str, content: bytes, expected: str, tmp_path: Path, refusal: Callable[..., str]
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert expected in refusal(path)


def test_numpy_and_empty_onnx_and_zip_files(tmp_path: Path, refusal: Callable[..., str]) -> None:
    np.save(tmp_path / "array.npy", np.ones(3))
    assert "NumPy array" in refusal(tmp_path / "array.npy")
    np.savez(tmp_path / "arrays.npz", a=np.ones(3))
    assert ".npz" in refusal(tmp_path / "arrays.npz")
    with zipfile.ZipFile(tmp_path / "plain.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "no data.pkl" in refusal(tmp_path / "plain.zip")
    with zipfile.ZipFile(tmp_path / "nothing.pt", "w"):
        pass
    assert "empty zip" in refusal(tmp_path / "nothing.pt")
    onnx = pytest.importorskip("onnx")
    model = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], []), producer_name="test")
    (tmp_path / "model.pt").write_bytes(model.SerializeToString())
    assert "no tensors" in refusal(tmp_path / "model.pt")


def test_what_is_no_file(tmp_path: Path, refusal: Callable[..., str]) -> None:
    assert "no such file" in refusal(tmp_path / "missing.pt")
    os.mkfifo(tmp_path / "pipe.pt")
    assert "no regular file" in refusal(tmp_path / "pipe.pt")
    assert "no regular file" in refusal(Path("/dev/null"))
    (tmp_path / "dangling.pt").symlink_to(tmp_path / "nowhere")
    assert "no such file" in refusal(tmp_path / "dangling.pt")
    (tmp_path / "loop.pt").symlink_to(tmp_path / "loop.pt")
    assert "cannot be read" in refusal(tmp_path / "loop.pt")
    assert "cannot be read" in refusal(tmp_path / ("x" * 300))
    assert "cannot be read: File name too long" in refusal(str(tmp_path / ("x" * 5000)))
    assert "cannot be read" in refusal("a\0b")


def test_without_permission(refusal: Callable[..., str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        file = folder / "locked.safetensors"
        save_file({"w": torch.ones(3)}, file)
        file.chmod(0)
        closed = folder / "closed"
        closed.mkdir()
        closed.chmod(0)
        with _as_nobody():
            assert "locked.safetensors: permission denied" in refusal(file)
            assert "closed: permission denied" in refusal(closed)
            assert "permission denied" in refusal(closed / "model.pt")
        closed.chmod(0o700)


def test_importing_does_not_import_torch() -> None:
    program = "import sys, rmt_compress.checkpoints; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
