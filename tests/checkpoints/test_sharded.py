import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.errors import CheckpointError
from tests.samples.contents import assert_holds

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def _index(folder: Path, placement: object, name: str = "model.safetensors.index.json") -> Path:
    path = folder / name
    path.write_text(json.dumps({"metadata": {"total_size": 12}, "weight_map": placement}))
    return path


@pytest.fixture
def halves(state: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    names = sorted(state)
    return {name: state[name] for name in names[:2]}, {name: state[name] for name in names[2:]}


@pytest.fixture
def folder(tmp_path: Path, halves: tuple[dict[str, torch.Tensor], ...]) -> Path:
    """A sharded checkpoint as Hugging Face's libraries write it."""
    for name, half in zip((FIRST, SECOND), halves, strict=True):
        save_file(half, tmp_path / name, metadata={"format": "pt"})
    _index(tmp_path, {key: name for name, half in zip((FIRST, SECOND), halves, strict=True) for key in half})
    return tmp_path


def test_a_folder_and_its_index_are_read_alike(folder: Path, state: dict[str, torch.Tensor]) -> None:
    index = folder / "model.safetensors.index.json"
    assert_holds(folder, state)
    assert_holds(index, state)
    with open_checkpoint(folder) as checkpoint:
        assert checkpoint.format == "safetensors, 2 shards"
        assert checkpoint.path == index
        assert checkpoint.metadata == {"total_size": "12"}
        assert checkpoint.notes == ()


def test_shards_of_torch_with_prefixes_and_ties(tmp_path: Path) -> None:
    table = torch.randn(5, 5)
    first = {"module.embed.weight": table, "module.head.weight": table}
    second = {"module.fc.weight": torch.randn(3, 3)}
    torch.save(first, tmp_path / "pytorch_model-00001-of-00002.bin")
    torch.save(second, tmp_path / "pytorch_model-00002-of-00002.bin")
    placement = dict.fromkeys(first, "pytorch_model-00001-of-00002.bin")
    placement |= dict.fromkeys(second, "pytorch_model-00002-of-00002.bin")
    _index(tmp_path, placement, "pytorch_model.bin.index.json")
    assert_holds(tmp_path, first | second)
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.ties == {"module.embed.weight": ("module.head.weight",)}
        assert checkpoint.format == "PyTorch (zip), 2 shards"
        assert len(checkpoint.layers()) == 2


def test_a_tied_name_the_index_leaves_out_is_kept(tmp_path: Path) -> None:
    save_file({"embed.weight": torch.ones(3, 3)}, tmp_path / "a.safetensors", {"head.weight": "embed.weight"})
    with open_checkpoint(_index(tmp_path, {"embed.weight": "a.safetensors"})) as checkpoint:
        assert checkpoint.ties == {"embed.weight": ("head.weight",)}
        assert checkpoint.read("head.weight").shape == (3, 3)
        assert checkpoint.notes == ()


def test_numbered_shards_without_an_index(folder: Path, state: dict[str, torch.Tensor]) -> None:
    (folder / "model.safetensors.index.json").unlink()
    assert_holds(folder, state)
    (folder / FIRST).rename(folder / "elsewhere")
    with pytest.raises(CheckpointError, match=r"1 of 2 shards of model are there, number 1 is missing"):
        open_checkpoint(folder)


def test_one_shard_alone_says_so(folder: Path, halves: tuple[dict[str, torch.Tensor], ...]) -> None:
    assert_holds(folder / FIRST, halves[0])
    with open_checkpoint(folder / FIRST) as checkpoint:
        assert checkpoint.notes == ("One shard of several; name the folder to read all.",)


def test_a_tensor_in_two_shards_without_an_index(tmp_path: Path, refusal: Callable[..., str]) -> None:
    save_file({"w": torch.ones(2)}, tmp_path / FIRST)
    save_file({"w": torch.zeros(2)}, tmp_path / SECOND)
    assert f"w is both in {FIRST} and in {SECOND}" in refusal(tmp_path)


def test_a_missing_shard_is_named(folder: Path, refusal: Callable[..., str]) -> None:
    (folder / SECOND).unlink()
    assert f"the shard {SECOND} is missing" in refusal(folder / "model.safetensors.index.json")


def test_a_damaged_shard_is_named(folder: Path) -> None:
    (folder / SECOND).write_bytes((folder / SECOND).read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=f"{SECOND}: truncated"):
        open_checkpoint(folder)


def test_a_tensor_that_is_not_in_its_shard_is_named(folder: Path, refusal: Callable[..., str]) -> None:
    index = _index(folder, {"absent.weight": FIRST})
    assert f"absent.weight is in {FIRST}, which does not hold it" in refusal(index)


def test_a_tensor_the_index_does_not_list_is_left_alone(
    folder: Path, halves: tuple[dict[str, torch.Tensor], ...]
) -> None:
    first = next(iter(halves[0]))
    others = [name for name in halves[0] if name != first]
    path = _index(folder, {first: FIRST} | dict.fromkeys(halves[1], SECOND))
    assert_holds(path, {first: halves[0][first], **halves[1]})
    with open_checkpoint(path) as checkpoint:
        (note,) = checkpoint.notes
        assert FIRST in note
        assert ", ".join(others) in note
        with pytest.raises(CheckpointError, match="holds no tensor"):
            checkpoint.read(others[0])


@pytest.mark.parametrize(
    "name",
    [
        "../secret.safetensors",
        "sub/../../secret.safetensors",
        "..",
        "{absolute}",
        "C:\\secret.safetensors",
        "C:secret.safetensors",
        "..\\secret.safetensors",
        "\\\\host\\share\\secret.safetensors",
        "",
        "a\0b",
        3,
        None,
        ["model.safetensors"],
    ],
)
def test_an_index_that_points_outside_its_folder_is_refused(
    name: object, tmp_path: Path, refusal: Callable[..., str]
) -> None:
    secret = tmp_path / "secret.safetensors"
    save_file({"w": torch.ones(2)}, secret)
    inside = tmp_path / "checkpoint"
    (inside / "sub").mkdir(parents=True)
    name = str(secret) if name == "{absolute}" else name
    message = refusal(_index(inside, {"w": name}))
    assert "outside the checkpoint's own folder" in message


def test_subfolders_and_links_named_plainly_are_followed(tmp_path: Path) -> None:
    """As in Hugging Face's cache: snapshots/…/name is a link to ../../blobs/…"""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    (snapshot / "part").mkdir(parents=True)
    save_file({"w": torch.ones(2)}, blobs / "0123")
    save_file({"v": torch.zeros(2)}, snapshot / "part" / "two.safetensors")
    (snapshot / "one.safetensors").symlink_to("../../blobs/0123")
    _index(snapshot, {"w": "one.safetensors", "v": "part/two.safetensors"})
    assert_holds(snapshot, {"w": torch.ones(2), "v": torch.zeros(2)})


BAD_INDEXES: Mapping[str, tuple[bytes, str]] = {
    "nested deep": (b'{"weight_map": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001, "nested too deep"),
    "not JSON": (b'{"weight_map": {"w": ', "not JSON"),
    "not UTF-8": (b'{"weight_map": {"\xff": "a"}}', "not UTF-8"),
    "no weight_map": (b'{"metadata": {}}', "without a weight_map"),
    "weight_map a list": (b'{"weight_map": ["a"]}', "without a weight_map"),
    "same tensor twice": (b'{"weight_map": {"w": "a", "w": "b"}}', "given twice"),
    "no tensors": (b'{"weight_map": {}}', "no tensors"),
}


@pytest.mark.parametrize(("content", "expected"), BAD_INDEXES.values(), ids=BAD_INDEXES)
def test_bad_indexes(content: bytes, expected: str, tmp_path: Path, refusal: Callable[..., str]) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_bytes(content)
    assert expected in refusal(path)


def test_a_shard_that_is_no_weight_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    for name, expected in (
        ("model.safetensors.index.json", "JSON text where a weight file is due"),
        ("pipe.safetensors", "no regular file"),
        ("folder.safetensors", "no regular file"),
        ("x" * 300, "too long"),
    ):
        with pytest.raises(CheckpointError, match=expected):
            open_checkpoint(_index(tmp_path, {"w": name}))


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no memory map to look at")
def test_only_the_shard_last_read_from_stays_mapped(tmp_path: Path) -> None:
    """Walking through all shards keeps no more than one of them in the process's memory map."""
    names = [f"pytorch_model-0000{i}-of-00003.bin" for i in (1, 2, 3)]
    for i, name in enumerate(names):
        torch.save({f"w{i}": torch.full((4,), i)}, tmp_path / name)
    with open_checkpoint(tmp_path) as checkpoint:
        for i in range(3):
            assert checkpoint.read(f"w{i}").tolist() == [i] * 4
            mapped = Path("/proc/self/maps").read_text()
            assert [name for name in names if name in mapped] == [names[i]]
    mapped = Path("/proc/self/maps").read_text()
    assert not any(name in mapped for name in names)
