"""Files that are whole or not there at all."""

import os
import resource
import shutil
import textwrap
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_model
from torch import nn

from rmt_compress.checkpoints import open_checkpoint, writers
from rmt_compress.checkpoints.memory import StateDictCheckpoint
from rmt_compress.checkpoints.provenance import make_manifest
from rmt_compress.checkpoints.state_dicts import describe
from rmt_compress.checkpoints.writers import write_checkpoint
from rmt_compress.errors import CheckpointError, CompressionError, OutputError
from tests.samples.contents import assert_holds

SUFFIXES = [".safetensors", ".pt"]


def odd_state():
    """Lengths that are no multiple of eight bytes, in an order that would leave every tensor unaligned."""
    return {
        "bytes": torch.randint(0, 255, (13,), dtype=torch.uint8),
        "double": torch.randn(5, dtype=torch.float64),
        "half": torch.randn(7, 3).half(),
        "flag": torch.tensor(True),
        "float": torch.randn(3, 3),
        "brain": torch.randn(9).bfloat16(),
        "count": torch.tensor(7),
        "empty": torch.zeros(0, 4),
        "complex": torch.randn(3, dtype=torch.complex64),
        "eight": torch.randn(5).to(torch.float8_e4m3fn),
        "Größe ⊗": torch.randn(2, 4),
    }


def write(target, state, *, manifest=None, metadata=None, **options):
    view = StateDictCheckpoint(state)
    view.manifest, view.metadata = manifest, metadata or {}
    return write_checkpoint(view, target, **options)


def manifest_of(state, **options):
    return make_manifest(None, None, {name: describe(name, tensor) for name, tensor in state.items()}, **options)


def leftovers(folder, *known):
    return sorted(entry.name for entry in folder.iterdir() if entry.name not in known)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("compressed", [True, False])
def test_round_trip_of_every_type_and_odd_length(tmp_path, suffix, compressed):
    state = odd_state()
    target = tmp_path / f"model{suffix}"
    metadata = {"licence": "CC0", "quote": 'a "b"\nc'}
    manifest = manifest_of(state, metadata=metadata) if compressed else None
    written = write(target, state, manifest=manifest, metadata=metadata)
    assert written.bytes == target.stat().st_size
    assert_holds(target, state)
    assert list(open_checkpoint(target).tensors) == list(state)
    assert leftovers(tmp_path) == [target.name]
    if suffix == ".safetensors":
        loaded = load_file(target)
        assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items() if name != "eight")
        with safe_open(target, "pt") as file:
            assert metadata.items() <= file.metadata().items()
    else:
        loaded = torch.load(target, weights_only=True)
        loaded = loaded["state_dict"] if compressed else loaded
        assert list(loaded) == list(state)
    if compressed or suffix == ".safetensors":
        assert metadata.items() <= open_checkpoint(target).metadata.items()


def test_every_tensor_is_aligned_to_its_type(tmp_path):
    target = tmp_path / "model.safetensors"
    state = odd_state()
    write(target, state, manifest=manifest_of(state))
    data = target.read_bytes()
    length = int.from_bytes(data[:8], "little")
    assert length % 8 == 0
    stored: Any = open_checkpoint(target)
    for entry in stored.inner._entries.values():
        itemsize = getattr(torch, entry.info.dtype).itemsize
        assert (entry.begin - 8 - length) % itemsize == 0, entry
        assert entry.begin % itemsize == 0


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_sparse_tensors_shrink_the_file_and_come_back_dense(tmp_path, suffix):
    dense = torch.randn(200, 301)
    state = {"a": dense * (dense > 1.5), "b": dense, "c.bits": torch.zeros(4000), "c": torch.zeros(4000)}
    target = tmp_path / f"model{suffix}"
    written = write(target, state, manifest=manifest_of(state))
    # `c` would need the name c.bits, which is taken.
    assert written.sparse == ("a", "c.bits")
    assert written.nonzeros == {name: int(tensor.count_nonzero()) for name, tensor in state.items()}
    assert_holds(target, state)
    assert target.stat().st_size < 0.75 * 4 * sum(tensor.numel() for tensor in state.values())
    write(target, state)
    assert_holds(target, state)
    assert target.stat().st_size > 4 * sum(tensor.numel() for tensor in state.values())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_nan_inf_and_negative_zero(tmp_path, suffix):
    tensor = torch.zeros(1000)
    tensor[:4] = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0])
    target = tmp_path / f"model{suffix}"
    written = write(target, {"a": tensor}, manifest=manifest_of({"a": tensor}))
    assert written.sparse == ("a",)
    back = open_checkpoint(target).read("a")
    assert torch.equal(back[:3].isnan(), tensor[:3].isnan())
    assert back[1:3].tolist() == [float("inf"), -float("inf")]
    assert not back.signbit()[3]
    # A plain file keeps every bit.
    write(target, {"a": tensor})
    assert open_checkpoint(target).read("a").signbit()[3]


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(50, 20)
        self.head = nn.Linear(20, 50, bias=False)
        self.head.weight = self.table.weight


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("source", ["module.pt", "model.safetensors"])
def test_ties_survive(tmp_path, suffix, source, zeros):
    model = Tied()
    if zeros:
        nn.init.sparse_(model.table.weight, 0.9)
    if source.endswith(".pt"):
        torch.save(model.state_dict(), tmp_path / source)
    else:
        save_model(model, tmp_path / source)
    target = tmp_path / f"out{suffix}"
    with open_checkpoint(tmp_path / source) as checkpoint:
        checkpoint.manifest = make_manifest(checkpoint, None, checkpoint.tensors, ties=checkpoint.ties)
        written = write_checkpoint(checkpoint, target)
    assert bool(written.sparse) is zeros
    assert target.stat().st_size < (2000 if zeros else 1.5 * 4000) + 3000
    with open_checkpoint(target) as checkpoint:
        ((first, others),) = checkpoint.ties.items()
        assert {first, *others} == {"table.weight", "head.weight"}
        assert all(torch.equal(checkpoint.read(name), model.table.weight) for name in checkpoint.tensors)
        fresh = Tied()
        fresh.load_state_dict({name: checkpoint.read(name) for name in checkpoint.tensors}, strict=True)
    if suffix == ".safetensors" and not zeros:
        from safetensors.torch import load_model

        load_model(Tied(), target)
    if suffix == ".pt" and not zeros:
        state = torch.load(target, weights_only=True)["state_dict"]
        assert state["table.weight"].data_ptr() == state["head.weight"].data_ptr()


def test_a_view_does_not_drag_its_storage_along(tmp_path):
    base = torch.randn(100_000)
    state = {"part": base[:10], "turned": base[:20].reshape(4, 5).T}
    for suffix in SUFFIXES:
        target = tmp_path / f"model{suffix}"
        write(target, state)
        assert target.stat().st_size < 5000
        assert_holds(target, state)


class Unlike(StateDictCheckpoint):
    """A state dict whose tensors are not what it says of them."""

    def __init__(self, state, came):
        super().__init__(state)
        self._came = came

    def read(self, name):
        return self._came(name)


def test_what_does_not_come_as_described_is_refused(tmp_path):
    state = {"a": torch.zeros(3, 4), "b": torch.zeros(2)}
    cases = {
        r"a came as float32 \(4, 3\)": lambda name: state[name].T,
        "a came as float64": lambda name: state[name].double(),
        "has no values": lambda name: state[name].to("meta"),
    }
    for message, came in cases.items():
        with pytest.raises(CompressionError, match=message):
            write_checkpoint(Unlike(state, came), tmp_path / "model.safetensors")
    assert leftovers(tmp_path) == []


def test_what_safetensors_cannot_hold(tmp_path):
    target = tmp_path / "model.safetensors"
    for name, tensor in {
        "double complex": torch.zeros(3, dtype=torch.complex128),
        "scattered": torch.eye(3).to_sparse(),
        "__metadata__": torch.zeros(3),
        "half \ud800": torch.zeros(3),
    }.items():
        with pytest.raises(OutputError, match=r"\.pt"):
            write(target, {name: tensor})
    assert leftovers(tmp_path) == []
    write(tmp_path / "model.pt", {"a": torch.zeros(3, dtype=torch.complex128), "s": torch.eye(3).to_sparse()})
    with pytest.raises(OutputError, match=r"must end in \.safetensors, \.pt"):
        write(tmp_path / "model.h5", {"a": torch.zeros(1)})


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_disk_too_small_is_told_before_anything_is_computed(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 3999})())

    def came(name):
        raise AssertionError("asked for")

    with pytest.raises(OutputError, match=r"needs up to [\d,]+ bytes, 3,999 are free") as caught:
        write_checkpoint(Unlike({"a": torch.zeros(1000)}, came), tmp_path / f"m{suffix}")
    assert "\n" not in str(caught.value)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_disk_full_half_way(tmp_path, suffix):
    """The kernel refuses to let the file grow, as on a full disk or over a quota."""
    target = tmp_path / f"model{suffix}"
    target.write_bytes(b"what was there before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
    try:
        with pytest.raises(OutputError, match="cannot be written"):
            write(target, {f"t{i}": torch.randn(10_000) for i in range(20)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert target.read_bytes() == b"what was there before"
    assert leftovers(tmp_path) == [target.name]


def test_unwritable_folder(tmp_path):
    with pytest.raises(OutputError, match="nowhere"):
        write(tmp_path / "nowhere" / "model.safetensors", {"a": torch.zeros(3)})
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    with pytest.raises(OutputError, match="locked"):
        write(folder / "model.safetensors", {"a": torch.zeros(3)})


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_that_reads_back_differently_is_not_kept(tmp_path, monkeypatch, suffix):
    """One bit flips on the way to the disk."""
    target = tmp_path / f"model{suffix}"
    target.write_bytes(b"what was there before")
    compare = writers.compare

    def flip(target, written, digests, ties, **known):
        data = bytearray(written.read_bytes())
        place = data.index(torch.full((50,), 1.5).numpy().tobytes()) + 80
        data[place] ^= 1
        written.write_bytes(data)
        compare(target, written, digests, ties, **known)

    monkeypatch.setattr(writers, "compare", flip)
    state = {"a": torch.full((50,), 1.5), "b": torch.zeros(50)}
    for manifest in (None, manifest_of(state)):
        with pytest.raises(OutputError, match=r"(other than it was written|cannot be read).*the disk"):
            write(target, state, manifest=manifest)
    assert target.read_bytes() == b"what was there before"
    assert leftovers(tmp_path) == [target.name]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_disk_is_not_blamed_for_what_was_written_wrongly(tmp_path, monkeypatch, suffix):
    """The writer of the format stores another value; the file holds every byte it was given."""
    target = tmp_path / f"model{suffix}"
    honest = writers.digest
    seen = []

    def other_at_first(tensor, **options):
        seen.append(tensor)
        return honest(tensor + 1 if len(seen) == 1 else tensor, **options)

    monkeypatch.setattr(writers, "digest", other_at_first)
    with pytest.raises(OutputError, match=r"a reads back other than it was written; .*this program's.* report it"):
        write(target, {"a": torch.zeros(50), "b": torch.zeros(50)})
    assert leftovers(tmp_path) == []


def test_an_error_of_the_source_leaves_nothing(tmp_path):
    def came(name):
        if name == "b":
            raise CheckpointError("the source is damaged")
        return torch.zeros(3)

    with pytest.raises(CheckpointError, match="the source is damaged"):
        write_checkpoint(Unlike({name: torch.zeros(3) for name in "ab"}, came), tmp_path / "m.safetensors")
    assert leftovers(tmp_path) == []


KILL = """
    import os, random, signal, sys, time, torch
    from pathlib import Path
    from rmt_compress.checkpoints import open_checkpoint
    from rmt_compress.checkpoints.writers import write_checkpoint
    from rmt_compress.checkpoints.provenance import make_manifest

    torch.set_num_threads(1)  # a pool of threads would not survive the fork
    target, chance = Path(sys.argv[1]), random.Random(11)
    state = {f"t{i}": torch.full((50_001 + i,), float(i + 1)) for i in range(40)} | {"sparse": torch.eye(1000)}
    view = open_checkpoint(state)
    view.manifest = make_manifest(None, None, view.tensors)

    def write():
        write_checkpoint(view, target)

    start = time.monotonic()
    write()
    takes = time.monotonic() - start
    for _ in range(10):
        target.unlink()
        child = os.fork()
        if child == 0:
            write()
            os._exit(0)
        time.sleep(chance.uniform(0, 1.3 * takes))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        whole = target.exists()
        takes *= 0.7 if whole else 1.1  # whatever else the machine does, some moments are before the end
        print("whole" if whole else "absent")
        if whole:
            with open_checkpoint(target) as checkpoint:
                assert checkpoint.tensors.keys() == state.keys()
                assert all(torch.equal(checkpoint.read(name), tensor) for name, tensor in state.items())
        else:
            target.touch()
"""


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_killed_at_a_random_moment_the_file_is_absent_or_whole(python, tmp_path, suffix):
    target = tmp_path / f"model{suffix}"
    done = python.run("-c", textwrap.dedent(KILL), target)
    assert done.returncode == 0, done.stderr
    outcome = done.stdout.split()
    assert len(outcome) == 10
    assert "absent" in outcome
    # What may be left besides is hidden, and no reader takes it for a checkpoint.
    assert all(name.startswith(".") for name in leftovers(tmp_path, target.name))
    write(target, {"a": torch.zeros(3)})
    assert open_checkpoint(tmp_path).path == target


MEASURE = """
    import sys, torch
    from pathlib import Path
    from rmt_compress.checkpoints.base import Checkpoint
    from rmt_compress.checkpoints.writers import write_checkpoint
    from rmt_compress.checkpoints.manifest import Manifest
    from rmt_compress.layers.layer import TensorInfo
    import safetensors, resource
    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    class Made(Checkpoint):
        path, format, notes, metadata = None, "made", (), {}
        def __init__(self, count):
            shape = (2049, 1023)
            self._tensors = {f"t{i}": TensorInfo(f"t{i}", shape, "float32", 4 * 2049 * 1023) for i in range(count)}
        def read(self, name):
            return torch.randn(self.tensors[name].shape)
    write_checkpoint(Made(1), Path(sys.argv[1] + ".warm.safetensors"))
    large = Made(37)
    large.manifest = Manifest(tool_version="test")
    before = peak()
    write_checkpoint(large, Path(sys.argv[1]))
    print(peak() - before)
"""


@pytest.mark.slow
def test_memory_of_one_tensor_is_enough(python, tmp_path):
    """300 MB of tensors of 8 MB each, all of odd length; the first write pays for imports."""
    target = tmp_path / "model.safetensors"
    result = python.run("-c", textwrap.dedent(MEASURE), target)
    result.check_returncode()
    assert target.stat().st_size > 300e6
    target.unlink()
    assert float(result.stdout) < 100, result.stdout
