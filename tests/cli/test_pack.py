"""`prune --pack pivots`: what is in such a file, and that every reader sees the same network in it."""

import json

import pytest
import torch
from onnx import helper
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import rmt_compress as rmt
from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.checkpoints.manifest import Manifest
from rmt_compress.checkpoints.pivot_factors import PivotFactors
from rmt_compress.errors import CheckpointError
from rmt_compress.saving.description import describe
from tests.samples import compressed, onnx_models
from tests.samples.command_line import one_error_line


def network():
    return nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Conv2d(96, 48, 3), nn.ConvTranspose2d(48, 40, 3))


RANKS = {"0.weight": 20, "2.weight": 16, "3.weight": 10}


@pytest.fixture
def files(tmp_path):
    """The same compressed network twice: stock, and by pivots."""
    model = network()
    for name, pack in (("stock", "none"), ("packed", "pivots")):
        for suffix in (".safetensors", ".pt"):
            compressed.write(tmp_path / f"{name}{suffix}", model, ranks=RANKS, pack=pack)
    return tmp_path


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_every_reader_sees_the_same_network(files, suffix):
    stock, packed = files / f"stock{suffix}", files / f"packed{suffix}"
    saved = 4 * (20 * 20 + 16 * 16 - 20 - 16)
    assert stock.stat().st_size - packed.stat().st_size > saved - 2 * 640
    dense, again = rmt.load_dense(stock), rmt.load_dense(packed)
    assert list(again) == list(dense)
    for name, tensor in dense.items():
        torch.testing.assert_close(again[name], tensor, rtol=1e-5, atol=1e-6)
    loaded, other = rmt.load(packed, network()), rmt.load(stock, network())
    assert repr(loaded) == repr(other)
    with open_checkpoint(packed) as checkpoint, open_checkpoint(stock) as plain:
        assert checkpoint.tensors == plain.tensors
        assert checkpoint.manifest is not None
        # A transposed convolution's second factor has no row for each row of the product.
        assert checkpoint.manifest.pivots == ("0.up.weight", "2.up.weight")
        assert torch.equal(checkpoint.read("3.up.weight"), plain.read("3.up.weight"))
    assert [layer.packed for layer in describe(packed).layers if len(layer.shape) > 1] == [True, True, False]
    assert len(rmt.analyze(packed).layers) == len(rmt.analyze(stock).layers)
    # What is saved once more has the same factors, packed or not.
    rmt.save(loaded, files / f"again{suffix}", plan=compressed.plan(network(), ranks=RANKS), pack="pivots")
    assert (files / f"again{suffix}").stat().st_size < stock.stat().st_size


def test_commands(run, files):
    shown = run("show", "packed.safetensors")
    assert "20×64 + 96×20 (pivots)" in shown.stdout
    assert json.loads(run("show", "packed.safetensors", "--json").stdout)["layers"][0]["packed"] is True
    assert run("analyze", "packed.safetensors", "--min-size", "8").returncode == 0
    assert run("export", "packed.safetensors", "-o", "dense.safetensors").returncode == 0
    torch.testing.assert_close(
        load_file(files / "dense.safetensors")["0.weight"],
        rmt.load_dense(files / "stock.safetensors")["0.weight"],
        rtol=1e-5,
        atol=1e-6,
    )


def test_prune_says_what_is_packed_and_refuses_what_cannot_be(run, tmp_path):
    save_file(dict(network().state_dict()), tmp_path / "m.safetensors")
    rule = ("--rule", "rank:16", "--gof", "1")
    done = run("prune", "m.safetensors", "--pack", "pivots", "-o", "s.safetensors", *rule)
    assert done.returncode == 0, done.stderr
    assert "2 of 3 layers in two are stored as pivots and coefficients" in done.stderr
    thin = run(
        "prune", "m.safetensors", "--pack", "pivots", "-o", "t.safetensors", "--rule", "rank:2", "--gof", "1"
    )
    assert "none of the layers in two is smaller as pivots and coefficients" in thin.stderr
    line = one_error_line(run("prune", "m.safetensors", "--pack", "pivots", "--layout", "dense", "-o", "u.pt"))
    assert line == "error: --pack pivots stores two factors otherwise, and --layout dense has none"


def test_a_graph_has_no_place_for_it(run, tmp_path):
    product = helper.make_node("MatMul", ["x", "w"], ["y"])
    built = onnx_models.model([product], {"w": torch.randn(64, 96).numpy()}, {"x": (1, 64)})
    onnx_models.saved(built, tmp_path / "m.onnx")
    line = one_error_line(run("prune", "m.onnx", "--pack", "pivots", "-o", "s.onnx"))
    assert line == "error: s.onnx: a graph has no place for --pack pivots: leave it out"
    assert not (tmp_path / "s.onnx").exists()


def manifest_of(path):
    with safe_open(path, "pt") as file:
        return file.metadata()["rmt_compress"]


def test_a_version_that_knows_of_no_pivots_reads_all_other_files_and_refuses_these(files):
    """Every version has refused a manifest with a key that it does not know."""
    assert "pivots" not in json.loads(manifest_of(files / "stock.safetensors"))
    told = json.loads(manifest_of(files / "packed.safetensors"))
    assert told["pivots"] == ["0.up.weight", "2.up.weight"]
    told["of_a_later_version"] = told.pop("pivots")
    with pytest.raises(CheckpointError, match="damaged or newer than this version: of_a_later_version: Extra"):
        Manifest.from_json(json.dumps(told), origin="file")


def test_zeros_that_a_bitmask_stores_in_fewer_bytes_stay(tmp_path):
    model = network()[:1]
    compressed.write(tmp_path / "s.safetensors", model, ranks={"0.weight": 20}, sparsify=0.3, pack="pivots")
    with open_checkpoint(tmp_path / "s.safetensors") as checkpoint:
        assert checkpoint.manifest is not None
        assert checkpoint.manifest.pivots == ()
        assert checkpoint.manifest.sparse


@pytest.mark.parametrize(
    "tamper",
    [
        lambda state: state.pop("0.up.weight.pivots"),
        lambda state: state.update({"0.up.weight.pivots": state["0.up.weight.pivots"].long()}),
        lambda state: state.update({"0.up.weight.pivots": state["0.up.weight.pivots"][:-1]}),
        lambda state: state.update({"0.up.weight.coefficients": state["0.up.weight.coefficients"].long()}),
        lambda state: state.update({"0.up.weight": torch.zeros(96, 20)}),
    ],
)
def test_parts_that_another_program_changed_stay_what_they_are(files, tamper):
    state = load_file(files / "packed.safetensors")
    tamper(state)
    text = manifest_of(files / "packed.safetensors")
    save_file(state, files / "changed.safetensors", {"rmt_compress": text})
    with open_checkpoint(files / "changed.safetensors") as checkpoint:
        assert checkpoint.manifest is None
        assert "Another program has changed the file" in checkpoint.notes[-1]
        assert "2.up.weight" in checkpoint.tensors
        for name, info in checkpoint.tensors.items():
            assert tuple(checkpoint.read(name).shape) == info.shape


def test_pivots_out_of_order_are_damage(files):
    state = load_file(files / "packed.safetensors")
    state["0.up.weight.pivots"] = state["0.up.weight.pivots"].flip(0).contiguous()
    text = manifest_of(files / "packed.safetensors")
    save_file(state, files / "changed.safetensors", {"rmt_compress": text})
    with (
        open_checkpoint(files / "changed.safetensors") as checkpoint,
        pytest.raises(CheckpointError, match=r"the packed tensor 0\.up\.weight is damaged: its pivots are not asc"),
    ):
        checkpoint.read("0.up.weight")


def test_read_in_any_order_and_twice(files):
    with open_checkpoint(files / "stock.pt") as checkpoint:
        view = PivotFactors(checkpoint)
        up, down = view.read("0.up.weight"), view.read("0.down.weight")
        assert torch.equal(view.read("0.up.weight"), up)
        assert torch.allclose(
            up @ down, checkpoint.read("0.up.weight") @ checkpoint.read("0.down.weight"), atol=1e-6
        )
        assert view.tensors == checkpoint.tensors
