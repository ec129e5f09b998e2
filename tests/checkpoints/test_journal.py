"""Finished parts in a file: taken up where they are whole and of the same thing, else begun anew."""

import os

import pytest
from safetensors.torch import save_file

from rmt_compress.checkpoints import journal as journals
from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.checkpoints.journal import Journal, identity_of
from rmt_compress.errors import OutputError, SettingsError

OF = {"settings": {"beta": 0.1}, "files": [["a", 3, 7]]}


@pytest.fixture
def path(tmp_path):
    """A journal of three entries."""
    with Journal(tmp_path / "kept", OF, print) as journal:
        for number in range(3):
            journal.add({"number": number}, [bytes(range(number)), b"\n end"])
    return tmp_path / "kept"


def numbers(path, of=OF):
    said = []
    with Journal(path, of, said.append) as journal:
        found = [entry.facts["number"] for entry in journal.entries]
        assert all(
            journal.bytes_of(each) == bytes(range(number)) + b"\n end"
            for each, number in zip(journal.entries, found, strict=True)
        )
    return found, said


def test_entries_come_back(path):
    assert numbers(path) == ([0, 1, 2], [f"{path}: 3 finished layers taken from it"])


def test_cut_anywhere_the_whole_entries_before_it_remain_and_others_follow(path):
    whole = path.read_bytes()
    ends = [whole.index(b"\n") + 1]
    with Journal(path, OF, print) as journal:
        ends += [entry.end for entry in journal.entries]
    assert ends[-1] == len(whole)
    for cut in (*range(0, len(whole), 9), *ends, *(end - 1 for end in ends)):
        path.write_bytes(whole[:cut])
        found, _ = numbers(path)
        assert found == list(range(sum(end <= cut for end in ends[1:])))
        with Journal(path, OF, print) as journal:
            for number in range(len(found), 3):
                journal.add({"number": number}, [bytes(range(number)), b"\n end"])
        assert path.read_bytes() == whole


def test_a_changed_byte_voids_its_entry_and_those_behind(path):
    whole = path.read_bytes()
    place = whole.index(b'"number": 1')
    path.write_bytes(whole[: place + 10] + b"7" + whole[place + 11 :])
    assert numbers(path)[0] == [0]


def test_of_something_else_it_is_begun_anew(path, monkeypatch):
    assert numbers(path, OF | {"settings": {"beta": 0.2}}) == (
        [],
        [f"{path} is begun anew: the settings changed since"],
    )
    assert numbers(path) == ([], [f"{path} is begun anew: the settings changed since"])
    assert numbers(path) == ([], [])
    monkeypatch.setattr(journals, "tool_version", lambda: "0.0.0")
    assert numbers(path)[1] == [f"{path} is begun anew: the version of rmt-compress changed since"]


@pytest.mark.parametrize("content", (b"\x10\0\0\0\0\0\0\0{}", b"{}\n", b"hello", b'["rmt_compress_journal"]\n'))
def test_another_file_is_never_written_over(content, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(OutputError, match="holds something else than the layers of an interrupted run"):
        Journal(tmp_path / "model.safetensors", OF, print)
    assert (tmp_path / "model.safetensors").read_bytes() == content


def test_two_runs_do_not_share_one(path, tmp_path):
    with Journal(path, OF, print), pytest.raises(OutputError, match="another run is writing it"):
        Journal(path, OF, print)
    with pytest.raises(OutputError, match="cannot be written: No such file"):
        Journal(tmp_path / "none" / "kept", OF, print)


def test_a_checkpoint_is_told_from_itself_once_it_has_changed(state, tmp_path):
    file = tmp_path / "model.safetensors"
    save_file(state, file)
    with open_checkpoint(file) as checkpoint:
        before = identity_of(checkpoint)
    save_file(state, file)
    # Clocks of file systems tick every few milliseconds.
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 10**9))
    with open_checkpoint(file) as checkpoint:
        after = identity_of(checkpoint)
        assert {key for key in before if before[key] != after[key]} == {"files"}
        file.unlink()
        with pytest.raises(Exception, match=r"model\.safetensors"):
            identity_of(checkpoint)
    with pytest.raises(SettingsError, match="give the path of a file"):
        identity_of(open_checkpoint(state))
