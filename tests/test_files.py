"""Outputs are whole or absent."""

import os
import signal
import subprocess
import sys

import pytest

from rmt_compress.errors import OutputError
from rmt_compress.outputs import check_output, check_output_folder, placing, replacing, replacing_folder


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


WRITER = """
import sys
from pathlib import Path
from rmt_compress.outputs import replacing
with replacing(Path(sys.argv[1])) as path:
    path.write_text("half")
    print("writing", flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no such locks")
def test_what_a_killed_run_has_left_goes_with_the_next_one_and_a_living_run_is_left_alone(tmp_path):
    target = tmp_path / "out.txt"
    others = [".out.txt.txt", ".out.txt.abc.txt", ".other.txt.abcdefgh.txt", "out.txt.abcdefgh.txt"]
    for name in others:
        (tmp_path / name).write_text("mine")
    command = [sys.executable, "-c", WRITER, str(target)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        writer.stdout.readline()
        (half,) = set(os.listdir(tmp_path)) - set(others)
        with replacing(target) as path:
            path.write_text("first")
        assert (tmp_path / half).read_text() == "half"
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    assert (tmp_path / half).read_text() == "half"
    with replacing(target) as path:
        path.write_text("second")
    assert target.read_text() == "second"
    assert sorted(os.listdir(tmp_path)) == sorted([*others, "out.txt"])


@pytest.mark.parametrize("exchanges", (True, False))
def test_a_folder_takes_the_place_of_another(tmp_path, monkeypatch, exchanges):
    if not exchanges:
        monkeypatch.setattr(placing, "_exchange", lambda one, other: False)
    target = tmp_path / "net"
    for content in ("first", "second"):
        with replacing_folder(target) as folder:
            (folder / "weights").write_text(content)
        assert (target / "weights").read_text() == content
        assert os.listdir(tmp_path) == ["net"]
    (tmp_path / "link").symlink_to(target)
    with replacing_folder(tmp_path / "link") as folder:
        (folder / "weights").write_text("third")
    assert not (tmp_path / "link").is_symlink()
    assert (target / "weights").read_text() == "second"
    assert sorted(os.listdir(tmp_path)) == ["link", "net"]


@pytest.mark.skipif(sys.platform == "win32", reason="no such locks")
def test_what_killed_runs_have_left_of_a_folder_goes_with_the_next_one_and_what_they_set_aside_comes_back(tmp_path):
    target = tmp_path / "net"
    mine = (".net.txt", ".net.abc", "net.abcdefgh", ".net.abcdefgh.older")
    for name in (*mine, ".net.abcdefgh", ".net.abcdefgh.old", ".net.zzzzzzzz"):
        (tmp_path / name).mkdir()
    (tmp_path / ".net.abcdefgh.old" / "weights").write_text("old")

    def fail():
        with replacing_folder(target) as folder:
            assert (target / "weights").read_text() == "old"
            with replacing_folder(target) as other:
                assert folder.is_dir()
                (other / "weights").write_text("another run's")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (target / "weights").read_text() == "another run's"
    assert sorted(os.listdir(tmp_path)) == sorted([*mine, "net"])
