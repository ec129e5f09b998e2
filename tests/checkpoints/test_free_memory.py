"""Small files that stand for huge tensors are refused before anything is allocated."""

import pytest
import torch

import rmt_compress as rmt
from rmt_compress.checkpoints import free_memory
from rmt_compress.checkpoints.views import DenseView
from rmt_compress.errors import CheckpointError, RmtCompressError
from rmt_compress.networks.exporting import export
from rmt_compress.networks.loading import load_model
from rmt_compress.plan import LayerDecision, Plan


@pytest.fixture
def small(tmp_path):
    """Write factors of rank 1 for a square matrix, float16 on request."""

    def _write(size, dtype=torch.float32, **metadata):
        plan = Plan(
            settings={},
            layers=(
                LayerDecision(
                    name="fc1",
                    tensor="fc1.weight",
                    kind="linear",
                    shape=(size, size),
                    action="factorized",
                    rank=1,
                    reason="so the test wants it",
                ),
            ),
        )
        factors = {"fc1.down.weight": torch.ones(1, size), "fc1.up.weight": torch.ones(size, 1)}
        if metadata:
            factors["fc1.up.bias"] = torch.zeros(size)
        path = tmp_path / "small.safetensors"
        rmt.save({name: tensor.to(dtype) for name, tensor in factors.items()}, path, plan=plan, metadata=metadata)
        return path

    return _write


def test_eight_megabytes_that_stand_for_four_terabytes(small, tmp_path):
    path = small(1_000_000)
    assert path.stat().st_size < 9e6
    with pytest.raises(
        CheckpointError, match=r"small.safetensors: .* takes 4,000,000,000,000 bytes of memory, .* free"
    ):
        rmt.load_dense(path)
    with rmt.open_checkpoint(path) as checkpoint, pytest.raises(CheckpointError, match=r"fc1\.weight, the product"):
        DenseView(checkpoint).read("fc1.weight")
    with pytest.raises(RmtCompressError, match=r"4,000,000,\d+"):
        export(path, tmp_path / "dense.safetensors")
    assert [file.name for file in tmp_path.iterdir()] == ["small.safetensors"]


def test_a_network_of_four_terabytes_is_not_built(small):
    path = small(1_000_000, architecture="mlp:1000000,1000000")
    with pytest.raises(CheckpointError, match=r"the network mlp:\S+ takes 4,000,004,000,000 bytes of memory"):
        load_model(path)


@pytest.mark.parametrize(("dtype", "needed"), ((torch.float32, 40_000), (torch.float16, 60_000)))
def test_the_limit_is_what_is_free(small, monkeypatch, dtype, needed):
    path = small(100, dtype)
    with rmt.open_checkpoint(path) as checkpoint:
        view = DenseView(checkpoint)
        monkeypatch.setattr(free_memory, "free_memory", lambda: needed)
        assert torch.equal(view.read("fc1.weight"), torch.ones(100, 100, dtype=dtype))
        monkeypatch.setattr(free_memory, "free_memory", lambda: needed - 1)
        with pytest.raises(CheckpointError, match=f"{needed:,} bytes of memory, {needed - 1:,} are free"):
            view.read("fc1.weight")
    monkeypatch.setattr(free_memory, "free_memory", lambda: None)
    assert torch.equal(rmt.load_dense(path)["fc1.weight"], torch.ones(100, 100, dtype=dtype))


def test_free_memory_is_that_of_this_machine(monkeypatch, tmp_path):
    found = free_memory.free_memory()
    assert found is not None
    assert 2**20 < found < 2**50
    (tmp_path / "meminfo").write_text("MemTotal:       3000 kB\nMemAvailable:   2000 kB\n")
    monkeypatch.setattr(free_memory, "_MEMINFO", tmp_path / "meminfo")
    assert free_memory.free_memory() == 2_048_000
    # No such file: all the memory there is.
    monkeypatch.setattr(free_memory, "_MEMINFO", tmp_path / "missing")
    assert free_memory.free_memory() >= found
