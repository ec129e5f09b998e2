"""Outputs are whole or absent."""

import os

import pytest

from rmt_compress.errors import OutputError
from rmt_compress.files import check_output, check_output_folder, replacing


def test_a_failing_block_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "out.txt"
    target.write_text("old")

    def fail():
        with replacing(target) as path:
            path.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["out.txt"]


def test_a_finished_block_replaces(tmp_path):
    target = tmp_path / "out.txt"
    target.write_text("old")
    with replacing(target) as path:
        path.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    mask = os.umask(0)
    os.umask(mask)
    assert target.stat().st_mode & 0o777 == 0o666 & ~mask
    assert os.listdir(tmp_path) == ["out.txt"]


def test_refusals(tmp_path):
    target = tmp_path / "out.txt"
    check_output(target, force=False)
    with pytest.raises(OutputError, match="does not exist"):
        check_output(tmp_path / "no" / "out.txt", force=False)
    with pytest.raises(OutputError, match="is a folder"):
        check_output(tmp_path, force=True)
    target.write_text("x")
    with pytest.raises(OutputError, match="--force"):
        check_output(target, force=False)
    check_output(target, force=True)
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(OutputError, match="is the input"):
        check_output(tmp_path / "link", force=True, inputs=(target,))
    with pytest.raises(OutputError, match="is a file"):
        check_output_folder(target, force=True)
    with pytest.raises(OutputError, match="not empty"):
        check_output_folder(tmp_path, force=False)
    check_output_folder(tmp_path / "new", force=False)


def test_a_full_or_missing_folder_is_one_error(tmp_path):
    with pytest.raises(OutputError, match="cannot be written"), replacing(tmp_path / "no" / "x"):
        pass
