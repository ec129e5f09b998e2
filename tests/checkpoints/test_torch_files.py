import os
import pickle
import struct
import threading
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.checkpoints.pytorch import torch_file as torch_files
from rmt_compress.errors import CheckpointError
from tests.samples.contents import assert_holds
from tests.samples.fork_server import ForkServer

ZIP = {"_use_new_zipfile_serialization": True}
LEGACY = {"_use_new_zipfile_serialization": False}
both_layouts = pytest.mark.parametrize("layout", [ZIP, LEGACY], ids=["zip", "legacy"])


class _WritesAFile:
    """A pickle that, if run, leaves a file named `proof` behind."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, (f"touch {self.proof}",)


class _Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(4, 3)


@both_layouts
def test_a_bare_state_dict(layout: dict[str, bool], state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save(OrderedDict(state), path, **layout)
    assert_holds(path, state)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.format == ("PyTorch (zip)" if layout is ZIP else "PyTorch (legacy)")
        assert checkpoint.notes == ()
        assert list(checkpoint.tensors) == list(state)


def test_a_file_that_fails_leaves_nothing_to_the_next(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    """torch remembers the sparse tensors of a file it gives up, and looks at them when it loads another."""
    torch.save({"w": torch.eye(2).to_sparse(), "odd": _WritesAFile(tmp_path / "proof")}, tmp_path / "bad.pt")
    bent = torch.eye(2).to_sparse()
    bent._indices()[1, 0] = 2**42
    torch.save({"w": bent, "odd": _WritesAFile(tmp_path / "proof")}, tmp_path / "worse.pt")
    torch.save(state, tmp_path / "sound.pt")
    for name in ("bad.pt", "worse.pt"):
        with suppress(CheckpointError):
            open_checkpoint(tmp_path / name).close()
        assert_holds(tmp_path / "sound.pt", state)
    assert not (tmp_path / "proof").exists()


def test_tied_tensors_and_views(tmp_path: Path) -> None:
    path = tmp_path / "tied.pt"
    table = torch.randn(6, 6)
    whole = torch.randn(4, 3)
    state = {
        "embed.weight": table,
        "head.weight": table,
        "transposed.weight": table.t(),
        "first.weight": whole[:2],
        "second.weight": whole[2:],
    }
    torch.save(state, path)
    assert_holds(path, state)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.ties == {"embed.weight": ("head.weight",)}
        assert [layer.name for layer in checkpoint.layers()] == ["embed", "transposed", "first", "second"]


@both_layouts
def test_code_in_a_pickle_is_named_and_not_run(
    layout: dict[str, bool], tmp_path: Path, refusal: Callable[..., str]
) -> None:
    proof = tmp_path / "proof"
    path = tmp_path / "evil.pt"
    torch.save({"fc.weight": torch.ones(2, 2), "x": _WritesAFile(proof)}, path, **layout)
    message = refusal(path)
    assert "posix.system" in message
    assert "not run" in message
    assert "state_dict" in message
    assert not proof.exists()
    # The payload is live: what refuses it is the reader.
    torch.load(path, weights_only=False)
    assert proof.exists()


@pytest.mark.parametrize("protocol", range(6))
def test_a_plain_pickle_is_not_run(protocol: int, tmp_path: Path, refusal: Callable[..., str]) -> None:
    proof = tmp_path / "proof"
    path = tmp_path / "evil.pt"
    path.write_bytes(pickle.dumps(_WritesAFile(proof), protocol=protocol))
    refusal(path)
    assert not proof.exists()
    with path.open("rb") as file:
        pickle.load(file)
    assert proof.exists()


@both_layouts
@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_other_pickle_protocols_are_read(
    protocol: int,
    layout: dict[str, bool],
    state: dict[str, torch.Tensor],
    tmp_path: Path,
    refusal: Callable[..., str],
) -> None:
    path = tmp_path / "model.pt"
    torch.save(state, path, pickle_protocol=protocol, **layout)
    assert_holds(path, state)
    hostile = {"w": torch.ones(2), "x": _WritesAFile(tmp_path / "proof")}
    torch.save(hostile, path, pickle_protocol=protocol, **layout)
    assert "posix.system" in refusal(path)
    assert not (tmp_path / "proof").exists()


@both_layouts
def test_a_whole_model_is_named(layout: dict[str, bool], tmp_path: Path, refusal: Callable[..., str]) -> None:
    path = tmp_path / "model.pt"
    torch.save(_Net(), path, **layout)
    message = refusal(path)
    assert "whole pickled model" in message
    assert f"{_Net.__module__}._Net" in message
    assert "torch.nn.modules.linear.Linear" in message


@both_layouts
def test_every_truncation_is_refused(layout: dict[str, bool], tmp_path: Path, refusal: Callable[..., str]) -> None:
    torch.save({"fc.weight": torch.ones(3, 2)}, tmp_path / "whole.pt", **layout)
    whole = (tmp_path / "whole.pt").read_bytes()
    path = tmp_path / "cut.pt"
    for size in [*range(1, len(whole), 7), len(whole) - 1]:
        path.write_bytes(whole[:size])
        refusal(path)


@both_layouts
def test_damaged_bytes_never_give_another_error(layout: dict[str, bool], tmp_path: Path) -> None:
    torch.save({"state_dict": {"fc.weight": torch.ones(3, 2)}, "epoch": 3}, tmp_path / "whole.pt", **layout)
    whole = (tmp_path / "whole.pt").read_bytes()
    path = tmp_path / "damaged.pt"
    for position in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[position] ^= 0x41
        path.write_bytes(damaged)
        with suppress(CheckpointError), open_checkpoint(path) as checkpoint:
            for name in checkpoint.tensors:
                checkpoint.read(name)


def _with_pickle(source: Path, target: Path, change: Callable[[bytes], bytes]) -> None:
    """Copies a zip checkpoint with other bytes for its data.pkl."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for entry in old.infolist():
            content = old.read(entry)
            new.writestr(entry.filename, change(content) if entry.filename.endswith("data.pkl") else content)


def _claim_huge(content: bytes) -> bytes:
    """2**30 entries (4 GiB) as 2**15 × 2**15, in the storage as in the tensor."""
    # A 7×11 tensor: its 77 entries, 7 rows and 11 columns are one-byte integers in the pickle.
    assert content.count(b"K\x4d") == 1
    return _reshape(content.replace(b"K\x4d", b"J" + struct.pack("<i", 2**30)))


def _reshape(content: bytes) -> bytes:
    """2**15 × 2**15 entries in the tensor only."""
    assert content.count(b"K\x07K\x0b") == content.count(b"K\x0bK\x01") == 1
    side = b"J" + struct.pack("<i", 2**15)
    return content.replace(b"K\x07K\x0b", side + side).replace(b"K\x0bK\x01", side + b"K\x01")


@pytest.mark.slow
def test_huge_claims_allocate_nothing(python: ForkServer, tmp_path: Path) -> None:
    small = {"fc.weight": torch.ones(7, 11)}
    torch.save(small, tmp_path / "small.pt")
    torch.save(small, tmp_path / "legacy.pt", **LEGACY)
    legacy = (tmp_path / "legacy.pt").read_bytes()
    for name, change in (("storage", _claim_huge), ("tensor", _reshape)):
        _with_pickle(tmp_path / "small.pt", tmp_path / f"zip_{name}.pt", change)
        (tmp_path / f"legacy_{name}.pt").write_bytes(change(legacy))
        # In the legacy layout the number of entries stands before the values once more.
        assert change(legacy).count(struct.pack("<q", 77)) == 1
        both = change(legacy).replace(struct.pack("<q", 77), struct.pack("<q", 2**30))
        (tmp_path / f"legacy_{name}_and_count.pt").write_bytes(both)
    (tmp_path / "small.pt").unlink()
    (tmp_path / "legacy.pt").unlink()
    program = (
        "import resource, sys, torch\n"
        "from rmt_compress.checkpoints import open_checkpoint\n"
        "from rmt_compress.errors import CheckpointError\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n"
        "        with open_checkpoint(path) as checkpoint: checkpoint.read('fc.weight')\n"
        "        print('read', path)\n"
        "    except CheckpointError: pass\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    paths = sorted(map(str, tmp_path.iterdir()))
    assert len(paths) == 6
    run = python.run("-c", program, *paths)
    run.check_returncode()
    *read, grown_kib = run.stdout.splitlines()
    assert read == []
    assert int(grown_kib) < 100 * 1024


def test_a_storage_larger_than_its_record_is_refused(tmp_path: Path, refusal: Callable[..., str]) -> None:
    """The claim fits into the file, but its bytes would come from the neighbouring records."""
    torch.save({"fc.weight": torch.ones(7, 11), "other": torch.ones(300)}, tmp_path / "small.pt")
    path = tmp_path / "spilled.pt"
    _with_pickle(tmp_path / "small.pt", path, lambda content: content.replace(b"K\x4d", b"K\x4f"))
    assert "fc.weight claims 316 bytes" in refusal(path)


def test_a_compressed_archive_is_not_unpacked(tmp_path: Path, refusal: Callable[..., str]) -> None:
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", bytes(10**7))
    assert path.stat().st_size < 20_000
    assert "compressed" in refusal(path)


def test_a_repeated_record_is_refused(tmp_path: Path, refusal: Callable[..., str]) -> None:
    path = tmp_path / "twice.pt"
    torch.save({"w": torch.ones(2)}, path)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("twice/data.pkl", b"\x80\x02}.")
    assert "two records of one name" in refusal(path)


def test_odd_tensors_are_listed_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "odd.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantized = torch.quantize_per_tensor(torch.ones(64, 64), 0.1, 0, torch.qint8)
    state = {
        "plain": torch.ones(64, 64),
        "expanded": torch.ones(()).expand(10**6, 10**6),
        "sparse": torch.eye(64).to_sparse(),
        "quantized": quantized,
        "meta": torch.empty(64, 64, device="meta"),
        "complex": torch.ones(64, 64, dtype=torch.complex64),
        "integers": torch.ones(64, 64, dtype=torch.int8),
        "empty": torch.empty(0, 64),
    }
    torch.save(state, path)
    with open_checkpoint(path) as checkpoint:
        reasons = {layer.name: layer.skip_reason() or "" for layer in checkpoint.layers()}
        assert reasons.pop("plain") == ""
        words = {
            "expanded": "repeated to fill 4000000000000",
            "sparse": "sparse",
            "quantized": "qint8",
            "meta": "without values",
            "complex": "complex64",
            "integers": "int8",
            "empty": "empty",
        }
        assert reasons.keys() == words.keys()
        assert all(word in reasons[name] for name, word in words.items())
        assert checkpoint.read("expanded").shape == (10**6, 10**6)
        assert torch.equal(checkpoint.read("sparse").to_dense(), torch.eye(64))
        with pytest.raises(CheckpointError, match=r"odd\.pt: meta .* without values"):
            checkpoint.read("meta")


def test_parameters_are_read_as_plain_tensors(tmp_path: Path) -> None:
    path = tmp_path / "parameters.pt"
    torch.save(dict(_Net().named_parameters()), path)
    with open_checkpoint(path) as checkpoint:
        values = checkpoint.read("fc.weight")
    assert type(values) is torch.Tensor
    assert not values.requires_grad


@both_layouts
def test_what_is_read_is_the_callers_own_and_stays_after_closing(layout: dict[str, bool], tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"w": torch.ones(3)}, path, **layout)
    with open_checkpoint(path) as checkpoint:
        values = checkpoint.read("w")
        values.zero_()
        assert checkpoint.read("w").tolist() == [1, 1, 1]
    assert values.tolist() == [0, 0, 0]
    assert checkpoint.read("w").tolist() == [1, 1, 1]


def test_the_mapping_is_renewed_between_reads_by_several_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_files, "_MAX_TOUCHED", 100)
    path = tmp_path / "model.pt"
    torch.save({"model": {f"module.{i}": torch.full((20,), i) for i in range(8)}}, path)
    checkpoint = open_checkpoint(path)
    wrong: list[int] = []

    def read() -> None:
        wrong.extend(i for i in range(8) if checkpoint.read(str(i)).tolist() != [i] * 20)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    maps = Path("/proc/self/maps")
    assert not maps.exists() or str(path) not in maps.read_text()


def test_a_changed_file_and_a_missing_name_are_named(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"w": torch.ones(3)}, path)
    checkpoint = open_checkpoint(path)
    with pytest.raises(CheckpointError, match=r"model\.pt: holds no tensor 'v'"):
        checkpoint.read("v")
    torch.save({"w": torch.zeros(400)}, path)
    with pytest.raises(CheckpointError, match="changed while"):
        checkpoint.read("w")
    path.unlink()
    with pytest.raises(CheckpointError, match="no such file"):
        checkpoint.read("w")
