"""save, load, load_dense: what was compressed computes the same again."""

import re
import subprocess
import sys
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import rmt_compress as rmt
from rmt_compress.compression import Compressed, compress
from rmt_compress.errors import CheckpointError, OutputError, PlanError
from rmt_compress.planning.settings import PlanSettings
from rmt_compress.pruning.road import prune
from rmt_compress.saving.writing import write
from tests.samples import compressed
from tests.samples.repository import REPOSITORY

SUFFIXES = [".safetensors", ".pt", ".pth", ".bin", ".ckpt"]
LOADING = REPOSITORY / "docs" / "loading.md"
PYTHON_BLOCK = re.compile(r"```python\n(.*?)```", re.S)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_save_and_load_a_module(tmp_path, suffix):
    original = compressed.network()
    plan = compressed.plan(original, sparsify=0.02)
    small = compress(original, plan)
    path = tmp_path / f"small{suffix}"
    written = rmt.save(small, path, plan=plan, metadata={"architecture": "tests.samples.compressed:network"})
    assert written.sparse
    # Other values at first, the file's afterwards; the original's settings, the pair's names.
    loaded = rmt.load(path, compressed.network(seed=5))
    assert loaded.state_dict().keys() == small.state_dict().keys()
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in small.state_dict().items())
    assert torch.equal(loaded(compressed.inputs()), small(compressed.inputs()))
    assert repr(loaded) == repr(small)
    assert not loaded.training
    assert type(loaded.conv) is nn.Sequential
    assert all(parameter.requires_grad for parameter in loaded.parameters())


@pytest.mark.parametrize("suffix", SUFFIXES[:2])
def test_a_file_compressed_from_a_file_is_the_same(tmp_path, suffix):
    source = tmp_path / "source.safetensors"
    save_file(compressed.network().state_dict(), source)
    small = compressed.write(tmp_path / f"small{suffix}", source=source)
    loaded = rmt.load(tmp_path / f"small{suffix}", compressed.network(seed=5))
    assert torch.allclose(loaded(compressed.inputs()), small(compressed.inputs()), atol=1e-5)


@pytest.mark.parametrize("layout", ["factorized", "dense"])
@pytest.mark.parametrize("suffix", SUFFIXES[:2])
def test_load_dense_gives_original_names_and_shapes(tmp_path, suffix, layout):
    original = compressed.network()
    path = tmp_path / f"small{suffix}"
    small = compressed.write(path, layout=layout)
    state = rmt.load_dense(path)
    assert list(state) == list(original.state_dict())
    original.load_state_dict(state, strict=True)
    assert torch.allclose(original(compressed.inputs()), small(compressed.inputs()), atol=1e-4)
    for name, rank in compressed.RANKS.items():
        assert torch.linalg.matrix_rank(state[name].flatten(1).double(), rtol=1e-5) == rank
    if layout == "dense":
        plain = load_file(path) if suffix == ".safetensors" else torch.load(path, weights_only=True)
        assert all(torch.equal(plain[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_types_are_kept_and_products_taken_in_float32_or_more(tmp_path, dtype):
    model = compressed.network().to(dtype)
    small = compressed.write(tmp_path / "small.safetensors", model)
    state = rmt.load_dense(tmp_path / "small.safetensors")
    assert all(state[name].dtype == tensor.dtype for name, tensor in model.state_dict().items())
    weights = small.state_dict()
    down, up = weights["fc.down.weight"], weights["fc.up.weight"]
    exact = up.double() @ down.double()
    assert torch.allclose(state["fc.weight"].double(), exact, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)
    # Values take the types of the model they are loaded into.
    loaded = rmt.load(tmp_path / "small.safetensors", compressed.network())
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}


class Shared(nn.Module):
    """One Linear in two places, and a tied pair beside it."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(40, 40)
        self.second = nn.Sequential(nn.ReLU(), self.first)
        self.table = nn.Embedding(30, 40)
        self.head = nn.Linear(40, 30, bias=False)
        self.head.weight = self.table.weight

    def forward(self, x):
        return self.head(self.second(self.first(x)))


@pytest.mark.parametrize("suffix", SUFFIXES[:2])
def test_shared_modules_stay_shared(tmp_path, suffix):
    original = Shared()
    plan = compressed.plan(original, ranks={"first.weight": 3})
    small: Any = compress(original, plan)
    assert small.second[1] is small.first
    path = tmp_path / f"shared{suffix}"
    rmt.save(small, path, plan=plan)
    loaded: Any = rmt.load(path, Shared())
    assert loaded.second[1] is loaded.first
    assert loaded.head.weight is loaded.table.weight
    x = torch.randn(2, 40)
    assert torch.equal(loaded(x), small(x))
    assert set(rmt.load_dense(path)) == set(original.state_dict())
    dense = Shared()
    dense.load_state_dict(rmt.load_dense(path), strict=True)
    assert torch.allclose(dense(x), small(x), atol=1e-5)


def test_a_model_that_is_one_layer(tmp_path):
    layer = nn.Linear(50, 40)
    plan = compressed.plan(layer, ranks={"weight": 2})
    small = compress(layer, plan)
    rmt.save(small, tmp_path / "one.safetensors", plan=plan)
    assert set(load_file(tmp_path / "one.safetensors")) == {"down.weight", "up.weight", "up.bias"}
    loaded = rmt.load(tmp_path / "one.safetensors", nn.Linear(50, 40))
    x = torch.randn(3, 50)
    assert torch.equal(loaded(x), small(x))
    assert {name: t.shape for name, t in rmt.load_dense(tmp_path / "one.safetensors").items()} == {
        name: t.shape for name, t in layer.state_dict().items()
    }


@pytest.mark.parametrize("channels", [(20, 20), (30, 10)])
def test_a_transposed_convolution_that_a_file_cannot_tell_from_a_plain_one(tmp_path, channels):
    """Square, or without bias: the plan made from the file says conv2d, the model knows better."""
    first, second = channels

    def build():
        return nn.Sequential(nn.ConvTranspose2d(first, second, 3, stride=2, bias=first == second))

    model = build()
    save_file(model.state_dict(), tmp_path / "source.safetensors")
    with rmt.open_checkpoint(tmp_path / "source.safetensors") as checkpoint:
        plan = compressed.plan(checkpoint, ranks={"0.weight": 4})
        assert "conv2d" in {decision.kind for decision in plan.layers}
        write(Compressed(checkpoint, plan), tmp_path / "small.safetensors")
    x = torch.randn(2, first, 5, 5)
    loaded: Any = rmt.load(tmp_path / "small.safetensors", build())
    assert isinstance(loaded[0].up, nn.ConvTranspose2d)
    model.load_state_dict(rmt.load_dense(tmp_path / "small.safetensors"))
    assert torch.allclose(loaded(x), model(x), atol=1e-5)


def test_without_a_plan_the_tensors_are_taken_as_they_are(tmp_path):
    small = compress(compressed.network(), compressed.plan(compressed.network()))
    rmt.save(small, tmp_path / "small.pt")
    manifest = rmt.open_checkpoint(tmp_path / "small.pt").manifest
    assert manifest is not None
    assert manifest.factorized == ()
    assert set(rmt.load_dense(tmp_path / "small.pt")) == set(small.state_dict())


def test_an_ordinary_checkpoint_loads_too(tmp_path):
    original = compressed.network()
    torch.save(original.state_dict(), tmp_path / "plain.pt")
    loaded = rmt.load(tmp_path / "plain.pt", compressed.network(seed=5))
    assert torch.equal(loaded(compressed.inputs()), original(compressed.inputs()))
    assert list(rmt.load_dense(tmp_path / "plain.pt")) == list(original.state_dict())


class Wider(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 17, 3)
        self.fc = nn.Linear(1200, 40)
        self.other = nn.Linear(2, 2)


def test_another_model_is_refused_and_left_as_it_was(tmp_path):
    compressed.write(tmp_path / "small.safetensors")
    model = Wider()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        rmt.load(tmp_path / "small.safetensors", model)
    message = str(caught.value)
    assert "the file lacks fc.bias, other.weight, other.bias" in message
    assert "the model lacks norm.weight" in message
    assert "conv.weight is 16×3×3×3 in the file, 17×3×3×3 in the model" in message
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_file_that_could_not_tell_the_groups_says_how_to_prune_it_again(tmp_path):
    model = nn.Sequential(nn.Conv2d(128, 64, 3, groups=2))
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    prune(tmp_path / "model.safetensors", tmp_path / "s.safetensors", plan=PlanSettings(rule="rank:2", gof=1.0))
    with pytest.raises(CheckpointError, match=r"conv2d of 2 groups; prune it again with --exclude 0\. "):
        rmt.load(tmp_path / "s.safetensors", model=model)


def test_a_layer_that_cannot_be_replaced_is_refused(tmp_path):
    compressed.write(tmp_path / "small.safetensors")
    model = compressed.network()
    model.fc.register_forward_hook(lambda *_: None)
    with pytest.raises(CheckpointError, match="fc carries hooks"):
        rmt.load(tmp_path / "small.safetensors", model)
    assert isinstance(model.conv, nn.Conv2d)


def test_the_compressed_model_itself_is_not_what_load_wants(tmp_path):
    small = compressed.write(tmp_path / "small.safetensors")
    with pytest.raises(CheckpointError, match=r"the model lacks .*conv\.weight.*as it was before compression"):
        rmt.load(tmp_path / "small.safetensors", small)


def test_saving_refuses_early(tmp_path):
    model = compressed.network()
    with pytest.raises(OutputError, match="must end in"):
        rmt.save(model, tmp_path / "small.h5")
    with pytest.raises(PlanError, match="compress the model by this plan first"):
        rmt.save(model, tmp_path / "small.pt", plan=compressed.plan(model))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_recipe_needs_torch_and_safetensors_alone(tmp_path):
    """As printed, in a fresh process that cannot see this package."""
    (code,) = (block for block in PYTHON_BLOCK.findall(LOADING.read_text()) if "load_file" in block)
    original = nn.Sequential()
    original.add_module("flatten", nn.Flatten())
    original.add_module("fc1", nn.Linear(784, 1000))
    original.add_module("relu", nn.ReLU())
    original.add_module("fc2", nn.Linear(1000, 10))
    x = torch.rand(5, 1, 28, 28)
    wanted = {}
    for sparsify, pack in ((None, "none"), (0.02, "none"), (None, "pivots")):
        folder = tmp_path / f"sparsify {sparsify}, pack {pack}"
        folder.mkdir()
        torch.save(x, folder / "x.pt")
        plan = compressed.plan(original, ranks={"fc1.weight": 30}, sparsify=sparsify)
        small = compress(original, plan)
        written = rmt.save(small, folder / "small.safetensors", plan=plan, pack=pack)
        assert bool(written.sparse) is bool(sparsify)
        assert bool(written.packed) is (pack == "pivots")
        wanted[folder] = small(x)
    program = (
        "import os, sys\n"
        "for folder in sys.argv[2:]:\n"
        "    os.chdir(folder)\n"
        "    exec(sys.argv[1])\n"
        "    torch.save(model(torch.load('x.pt')), 'y.pt')\n"
        "assert not [name for name in sys.modules if name.startswith('rmt')]\n"
    )
    command = [sys.executable, "-I", "-W", "error", "-c", program, code, *wanted]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    for folder, expected in wanted.items():
        assert torch.allclose(torch.load(folder / "y.pt"), expected, atol=1e-6)
