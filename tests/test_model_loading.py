"""From a file to a network: architectures by name, and what is said when they do not fit."""

import pytest
import torch
from safetensors.torch import save_file

import rmt_compress as rmt
from rmt_compress.compression import compress
from rmt_compress.errors import CheckpointError, SettingsError
from rmt_compress.networks.architectures import build
from rmt_compress.networks.loading import architecture_of, load_model
from rmt_compress.planning.making import make_plan
from rmt_compress.saving.writing import save
from tests.samples.repository import DIGITS


def written(path, spec, metadata=None):
    model = build(spec, seed=3)
    save_file(model.state_dict(), path, metadata=metadata)
    return model


def test_the_file_names_its_architecture():
    assert architecture_of(DIGITS) == "mlp:64,512,512,10"
    model = load_model(DIGITS)
    assert not model.training
    assert isinstance(model.get_submodule("fc2"), torch.nn.Linear)


def test_arch_wins_over_nothing_and_values_arrive(tmp_path):
    original = written(tmp_path / "a.safetensors", "mlp:6,5,4")
    with pytest.raises(CheckpointError, match=r"a\.safetensors: does not say which network.*--arch mlp:"):
        load_model(tmp_path / "a.safetensors")
    model = load_model(tmp_path / "a.safetensors", arch="mlp:6,5,4")
    for name, tensor in original.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)


def test_half_precision_is_run_in_the_network_s_own_type(tmp_path):
    model = build("mlp:6,5,4", seed=3)
    torch.save({name: tensor.half() for name, tensor in model.state_dict().items()}, tmp_path / "half.pt")
    loaded = load_model(tmp_path / "half.pt", arch="mlp:6,5,4")
    assert loaded.get_parameter("fc1.weight").dtype == torch.float32
    torch.testing.assert_close(
        loaded.get_parameter("fc1.weight"), model.get_parameter("fc1.weight"), atol=1e-3, rtol=0
    )


def test_wrong_arch_names_every_difference_and_the_one_that_fits(tmp_path):
    written(tmp_path / "a.safetensors", "mlp:6,5,4")
    with pytest.raises(CheckpointError) as caught:
        load_model(tmp_path / "a.safetensors", arch="mlp:6,7,4,3")
    message = str(caught.value)
    assert "is no mlp:6,7,4,3" in message
    assert "fc1.weight is 5×6, not 7×6" in message
    assert "fc2.weight is 4×5, not 4×7" in message
    assert "the file lacks fc3.weight, fc3.bias" in message
    assert message.endswith("--arch mlp:6,5,4 would fit")


def test_tensors_the_network_does_not_have(tmp_path):
    save_file({**build("mlp:6,4").state_dict(), "extra": torch.ones(2)}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="the network has no extra; add the network it was trained as"):
        load_model(tmp_path / "a.safetensors", arch="mlp:6,4")


def test_integers_are_no_weights(tmp_path):
    state = {name: tensor.to(torch.int8) for name, tensor in build("mlp:6,4").state_dict().items()}
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"fc1\.weight is 4×6 int8, not 4×6"):
        load_model(tmp_path / "a.safetensors", arch="mlp:6,4")


def test_a_file_cannot_make_us_import(tmp_path, monkeypatch):
    (tmp_path / "trap.py").write_text("raise SystemExit('ran')\n")
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "a.safetensors", "mlp:6,4", {"architecture": "trap:Net"})
    with pytest.raises(CheckpointError, match=r"code that is not run because a file names it.*--arch trap:Net"):
        load_model(tmp_path / "a.safetensors")


@pytest.mark.parametrize("spec", ["mlp:6,4000000000,4000000000,4", "mlp:6,9999999999999999999,4"])
def test_a_file_cannot_make_us_allocate(tmp_path, spec):
    written(tmp_path / "a.safetensors", "mlp:6,4", {"architecture": spec})
    with pytest.raises(CheckpointError, match=r"a\.safetensors: (is no|no network can be)"):
        load_model(tmp_path / "a.safetensors")


def test_a_file_with_an_unknown_architecture(tmp_path):
    written(tmp_path / "a.safetensors", "mlp:6,4", {"architecture": "resnet 50"})
    with pytest.raises(CheckpointError, match=r"names an unknown architecture.*add --arch"):
        load_model(tmp_path / "a.safetensors")
    with pytest.raises(SettingsError, match="resnet"):
        load_model(tmp_path / "a.safetensors", arch="resnet 50")


def test_one_name_of_a_tied_tensor_is_enough(tmp_path, monkeypatch):
    (tmp_path / "tied_network.py").write_text(
        "from torch import nn\n"
        "def net():\n"
        "    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))\n"
        "    net[2].weight = net[0].weight\n"
        "    return net\n"
    )
    monkeypatch.chdir(tmp_path)
    state = {"0.weight": torch.randn(4, 4), "0.bias": torch.zeros(4), "2.bias": torch.ones(4)}
    save_file(state, tmp_path / "a.safetensors")
    model = load_model(tmp_path / "a.safetensors", arch="tied_network:net")
    assert torch.equal(model.get_parameter("2.weight"), state["0.weight"])


def test_a_compressed_file(tmp_path):
    model = load_model(DIGITS)
    plan = make_plan(rmt.analyze(model))
    small = compress(model, plan)
    save(small, tmp_path / "small.safetensors", plan=plan, source=DIGITS)
    loaded = load_model(tmp_path / "small.safetensors")
    inputs = torch.rand(5, 64)
    assert torch.equal(loaded(inputs), small(inputs))
    assert isinstance(loaded.get_submodule("fc1"), torch.nn.Sequential)
    with pytest.raises(
        CheckpointError, match=r"fc1\.weight is 512×64, not 500×64.*--arch mlp:64,512,512,10 would fit"
    ):
        load_model(tmp_path / "small.safetensors", arch="mlp:64,500,512,10")
