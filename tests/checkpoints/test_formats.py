"""The table of formats: what each row promises, and that everything else asks it."""

import inspect
import re
import subprocess
import sys
from dataclasses import replace
from pkgutil import resolve_name

import pytest
import torch
from safetensors.torch import save_file

from rmt_compress.checkpoints import formats, open_checkpoint
from rmt_compress.checkpoints.contents import StateDictWriter
from rmt_compress.checkpoints.graph import GraphCheckpoint
from rmt_compress.checkpoints.pytorch.torch_file import TorchFile
from rmt_compress.checkpoints.safetensors.safetensors_file import SafetensorsFile
from rmt_compress.checkpoints.writers import write_checkpoint
from rmt_compress.cli.console import checkpoint_or_only_one_here
from rmt_compress.errors import CheckpointError

each_row = pytest.mark.parametrize("row", formats.FORMATS, ids=lambda row: row.name)
each_suffix = pytest.mark.parametrize("suffix", formats.weight_suffixes())


def test_what_is_known_by_its_suffix_alone_is_of_one_format():
    writing = [suffix for row in formats.FORMATS if row.writer for suffix in row.suffixes]
    assert len(set(writing)) == len(writing)
    guessed = [suffix for row in formats.FORMATS if row.by_suffix for suffix in row.suffixes]
    assert len(set(guessed)) == len(guessed)
    for row in formats.FORMATS:
        assert len(set(row.suffixes)) == len(row.suffixes)
        assert all(suffix.startswith(".") for suffix in row.suffixes)
    assert len({row.name for row in formats.FORMATS}) == len(formats.FORMATS)


@each_row
def test_a_reader_takes_what_its_row_says(row):
    reader = resolve_name(row.reader)
    path, *options = inspect.signature(reader).parameters
    assert path == "path"
    assert set(options) == set(row.takes) <= inspect.signature(formats.open_file).parameters.keys()


@each_row
def test_a_graph_is_written_under_the_suffixes_of_its_row(row):
    reader = resolve_name(row.reader)
    if inspect.isclass(reader) and issubclass(reader, GraphCheckpoint):
        assert reader.suffixes == row.suffixes
        assert not row.writer


@each_row
def test_a_writer_does_what_is_asked_of_writers(row):
    if row.writer:
        writer = resolve_name(row.writer)
        for name in ("start", "add", "finish", "close"):
            wanted = inspect.signature(getattr(StateDictWriter, name))
            assert inspect.signature(getattr(writer, name)).parameters.keys() == wanted.parameters.keys()
    else:
        assert not row.has_room


@each_suffix
def test_every_suffix_is_found(suffix, tmp_path, monkeypatch):
    save_file({"w": torch.ones(3)}, tmp_path / f"some{suffix}")
    assert open_checkpoint(tmp_path).path == tmp_path / f"some{suffix}"
    monkeypatch.chdir(tmp_path)
    assert checkpoint_or_only_one_here(None).name == f"some{suffix}"


@pytest.mark.parametrize("suffix", formats.state_dict_formats())
def test_what_is_written_is_recognized(suffix, tmp_path):
    target = tmp_path / f"some{suffix}"
    write_checkpoint(open_checkpoint({"w": torch.ones(3)}), target)
    assert formats.recognize(target) is formats.state_dict_formats()[suffix]


def test_the_suffixes_are_named_where_nothing_is_found(tmp_path, monkeypatch):
    with pytest.raises(CheckpointError) as error:
        open_checkpoint(tmp_path)
    for suffix in formats.weight_suffixes():
        assert f"*{suffix}" in str(error.value)
    monkeypatch.chdir(tmp_path)
    listed = ", ".join(formats.weight_suffixes())
    with pytest.raises(CheckpointError, match=rf"none \({re.escape(listed)}\) in the current folder"):
        checkpoint_or_only_one_here(None)


def test_a_new_row_is_all_that_a_format_takes(tmp_path, monkeypatch):
    toy = replace(
        formats.FORMATS[0],
        name="toy",
        suffixes=(".toy",),
        fits=lambda signs: signs.head.startswith(b"toy"),
        reader=f"{__name__}:Toy",
        writer="",
        by_suffix=False,
    )
    monkeypatch.setattr(formats, "FORMATS", (*formats.FORMATS, toy))
    save_file({"w": torch.ones(3)}, tmp_path / "inner")
    (tmp_path / "some.toy").write_bytes(b"toy" + (tmp_path / "inner").read_bytes())
    assert open_checkpoint(tmp_path).format == "toy"
    monkeypatch.chdir(tmp_path)
    assert checkpoint_or_only_one_here(None).name == "some.toy"
    with pytest.raises(CheckpointError, match=r"some\.toy: holds one set of weights; leave out --weights ema"):
        open_checkpoint(tmp_path / "some.toy", weights="ema")


class Toy(SafetensorsFile):
    """A safetensors file behind three more bytes."""

    format = "toy"

    def __init__(self, path):
        inner = path.with_name("toy.inner")
        inner.write_bytes(path.read_bytes()[3:])
        super().__init__(inner)


def test_opening_a_file_imports_its_own_reader_only(tmp_path):
    save_file({"w": torch.ones(3)}, tmp_path / "some.safetensors")
    program = (
        "import sys; from rmt_compress.checkpoints import open_checkpoint; open_checkpoint(sys.argv[1])\n"
        "print(*sorted(name for name in sys.modules if name in ('torch', 'onnx') or 'checkpoints.' in name))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "some.safetensors"], capture_output=True, text=True, check=True
    )
    loaded = run.stdout.split()
    assert "rmt_compress.checkpoints.safetensors.safetensors_file" in loaded
    readers = {row.reader.partition(":")[0] for row in formats.FORMATS[1:]}
    assert not {"torch", "onnx", *readers} & set(loaded)


def test_a_state_dict_of_any_archive_that_is_nothing_else(tmp_path):
    torch.save({"w": torch.ones(3)}, tmp_path / "some.pt2")
    assert isinstance(open_checkpoint(tmp_path), TorchFile)
