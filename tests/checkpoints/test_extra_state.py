"""State that modules keep beside their tensors (`get_extra_state`) on its way into smaller files and back."""

import pytest
import torch
from torch import nn

import rmt_compress as rmt
from rmt_compress.errors import CheckpointError, OutputError
from rmt_compress.networks.exporting import export
from rmt_compress.pruning.road import prune


class Scaled(nn.Linear):
    """A layer whose output is scaled by a number that no tensor holds."""

    scale = 1.0
    table = torch.zeros(2)

    def get_extra_state(self):
        return {"scale": self.scale, "table": self.table}

    def set_extra_state(self, state):
        self.scale, self.table = state["scale"], state["table"]


class Counted(nn.Linear):
    """A layer that keeps a tensor in the place of extra state."""

    seen = torch.zeros(3)

    def get_extra_state(self):
        return self.seen

    def set_extra_state(self, state):
        self.seen = state


def network(kind=Scaled):
    return nn.Sequential(kind(96, 128), nn.Linear(128, 64))


@pytest.fixture
def source(tmp_path):
    net = network()
    net[0].scale, net[0].table = 7.5, torch.tensor([3.0, 4.0])
    torch.save(net.state_dict(), tmp_path / "extra.pt")
    return tmp_path / "extra.pt"


@pytest.mark.parametrize("layout", ["factorized", "dense"])
def test_it_is_loaded_from_what_was_pruned(source, tmp_path, layout):
    result = prune(source, tmp_path / "small.pt", layout=layout)
    actions = {decision.name: decision.action for decision in result.plan.layers if decision.kind == "linear"}
    # A module with state of its own is no stock layer, so that no two stock layers can stand for it.
    assert actions == {"0": "kept", "1": "factorized"}
    loaded = rmt.load(tmp_path / "small.pt", network())
    assert loaded[0].scale == 7.5
    assert loaded[0].table.tolist() == [3.0, 4.0]
    other = network()
    other.load_state_dict(rmt.load_dense(tmp_path / "small.pt"))
    assert other[0].scale == 7.5


def test_it_is_exported_and_saved(source, tmp_path):
    export(source, tmp_path / "plain.pt")
    net = network()
    net.load_state_dict(torch.load(tmp_path / "plain.pt"))
    assert net[0].scale == 7.5
    rmt.save(net, tmp_path / "saved.pt")
    assert rmt.load(tmp_path / "saved.pt", network())[0].scale == 7.5
    plan = rmt.make_plan(rmt.analyze(source))
    assert rmt.compress(torch.load(source), plan)["0._extra_state"]["scale"] == 7.5


def test_what_cannot_hold_it_is_refused_before_any_work(source, tmp_path):
    for call in (prune, export):
        with pytest.raises(OutputError, match=r"0\._extra_state \(dict\); give the output a name in \.pt"):
            call(source, tmp_path / "small.safetensors")
    with pytest.raises(OutputError, match="_extra_state"):
        rmt.save(network(), tmp_path / "small.safetensors")


def test_a_file_without_it_does_not_pass_for_one_with(tmp_path):
    torch.save(
        {name: t for name, t in network().state_dict().items() if "_extra" not in name}, tmp_path / "bare.pt"
    )
    with pytest.raises(CheckpointError, match=r"lacks 0\._extra_state"):
        rmt.load(tmp_path / "bare.pt", network())


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_tensor_goes_into_every_format(tmp_path, suffix):
    net = network(Counted)
    net[0].seen = torch.tensor([1.0, 2.0, 3.0, 4.0])
    torch.save(net.state_dict(), tmp_path / "counted.pt")
    prune(tmp_path / "counted.pt", tmp_path / f"small{suffix}")
    assert rmt.load(tmp_path / f"small{suffix}", network(Counted))[0].seen.tolist() == [1.0, 2.0, 3.0, 4.0]


def test_objects_of_code_are_refused_in_one_line(tmp_path):
    state = network().state_dict() | {"0._extra_state": pytest.fail}
    with pytest.raises(OutputError, match=r"0\._extra_state.*without running code; let its get_extra_state"):
        rmt.save(state, tmp_path / "small.pt")
