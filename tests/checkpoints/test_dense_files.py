"""Files of layout dense, which everything loads that loaded the original, by the original's own lines."""

import pytest
import torch
from torch import nn

import rmt_compress as rmt
from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.errors import CheckpointError
from rmt_compress.pruning.road import prune


def network():
    return nn.Sequential(nn.Linear(96, 128), nn.BatchNorm1d(128), nn.Linear(128, 64))


def pruned(saved, folder, **options):
    torch.save(saved, folder / "model.pt")
    result = prune(folder / "model.pt", folder / "same.pt", layout="dense", **options)
    return result, torch.load(folder / "same.pt", weights_only=True)


def assert_known(path, layout="dense"):
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.manifest is not None
        assert checkpoint.manifest.layout == layout
        assert checkpoint.manifest.source.name == "model.pt"
        assert {"0.weight", "2.bias"} <= checkpoint.tensors.keys()
        assert checkpoint.manifest.plan.by_tensor.keys() <= checkpoint.tensors.keys()


def test_a_bare_state_dict_stays_one(tmp_path):
    _, state = pruned(network().state_dict(), tmp_path)
    network().load_state_dict(state, strict=True)
    assert state.keys() == network().state_dict().keys()
    assert state._metadata["1"] == {"version": 2}
    assert torch.linalg.matrix_rank(state["0.weight"].double(), rtol=1e-5) == 1
    assert_known(tmp_path / "same.pt")
    rmt.load(tmp_path / "same.pt", network())


@pytest.mark.parametrize("trail", [("state_dict",), ("model",), ("checkpoint", "net"), ("weights.of",)])
def test_keys_lead_to_it_as_before(tmp_path, trail):
    saved = network().state_dict()
    for key in reversed(trail):
        saved = {key: saved, "epoch": 3}
    _, state = pruned(saved, tmp_path)
    for key in trail:
        state = state[key]
    network().load_state_dict(state, strict=True)
    assert_known(tmp_path / "same.pt")


def test_a_wrapped_network_loads_its_own(tmp_path):
    wrapped = nn.ModuleDict({"module": network()})
    _, state = pruned(wrapped.state_dict(), tmp_path)
    wrapped.load_state_dict(state, strict=True)
    assert state._metadata["module.1"] == {"version": 2}
    assert_known(tmp_path / "same.pt")


def test_what_is_carried_over_stands_where_it_stood(tmp_path):
    saved = {"model": {"net": network().state_dict(), "sizes": [96, 128]}, "arch": "mine", "state_dict": {"a": 1}}
    _, content = pruned(saved, tmp_path, weights="model.net", carry_over=True)
    network().load_state_dict(content["model"]["net"])
    assert (content["model"]["sizes"], content["arch"], content["state_dict"]) == ([96, 128], "mine", {"a": 1})


def test_a_damaged_record_is_refused(tmp_path):
    _, state = pruned(network().state_dict(), tmp_path)
    state._metadata["rmt_compress"]["metadata"] = "["
    torch.save(state, tmp_path / "bad.pt")
    with pytest.raises(CheckpointError, match=r"bad\.pt: what rmt-compress noted in it is damaged"):
        open_checkpoint(tmp_path / "bad.pt")


def test_smaller_is_said_of_weights_alone(tmp_path):
    net = network()
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.randn(4, 96)).sum().backward()
    optimizer.step()
    result, _ = pruned({"model": net.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path)
    weights = sum(tensor.nbytes for tensor in net.state_dict().values())
    assert result.sizes == (weights, weights)
    assert [entry.name for entry in result.left_out] == ["optimizer"]
    assert result.bytes_in > 2 * result.bytes_out
