"""Checkpoints that people get with a Python package, from analysis to a smaller file that loads and runs."""

import warnings

import pytest
import torch
from torch import nn

from rmt_compress.analysis import analyze
from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.networks.loading import load_model
from rmt_compress.planning.settings import PlanSettings
from rmt_compress.pruning.road import prune
from rmt_compress.saving.reloading import load, load_dense
from tests.samples.packages import member

pytestmark = [
    pytest.mark.realdata,
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
]
RATIO = PlanSettings(rule="ratio:0.3", gof=1.0)


def facenet(name):
    return member("facenet-pytorch", "2.6.0", f"facenet_pytorch/data/{name}.pt")


def silero(name):
    return member("silero-vad", "6.2.3", f"silero_vad/data/{name}")


class RNet(nn.Module):
    """The refining network of MTCNN, as facenet-pytorch defines it (its first output)."""

    def __init__(self):
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 28, 3), nn.PReLU(28)
        self.conv2, self.prelu2 = nn.Conv2d(28, 48, 3), nn.PReLU(48)
        self.conv3, self.prelu3 = nn.Conv2d(48, 64, 2), nn.PReLU(64)
        self.dense4, self.prelu4 = nn.Linear(576, 128), nn.PReLU(128)
        self.dense5_1, self.dense5_2 = nn.Linear(128, 2), nn.Linear(128, 4)
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.last_pool = nn.MaxPool2d(2, 2, ceil_mode=True)

    def forward(self, x):
        x = self.pool(self.prelu1(self.conv1(x)))
        x = self.pool(self.prelu2(self.conv2(x)))
        x = self.prelu3(self.conv3(x)).permute(0, 3, 2, 1).flatten(1)
        return self.dense5_1(self.prelu4(self.dense4(x)))


@pytest.mark.parametrize(("name", "analyzed"), [("pnet", 1), ("rnet", 3), ("onet", 4)])
def test_facenet_files_are_analysed_and_pruned(name, analyzed, tmp_path):
    source, target = facenet(name), tmp_path / "small.pt"
    with open_checkpoint(source) as checkpoint:
        assert checkpoint.format == "PyTorch (legacy)"
    assert len(analyze(source).analyzed) == analyzed
    result = prune(source, target, plan=RATIO)
    expected = torch.load(source, weights_only=True)
    dense = load_dense(target)
    assert {key: tensor.shape for key, tensor in dense.items()} == {
        key: tensor.shape for key, tensor in expected.items()
    }
    kept = [layer.tensor for layer in result.plan.layers if not layer.changes]
    assert all(torch.equal(dense[key], expected[key]) for key in kept)
    # The energy that is left is that of the singular values kept.
    for layer in (layer for layer in result.plan.layers if layer.action == "factorized"):
        values = torch.linalg.svdvals(expected[layer.tensor].flatten(1).double())
        error = (dense[layer.tensor] - expected[layer.tensor]).norm().double()
        torch.testing.assert_close(error, values[layer.rank :].norm(), rtol=1e-3, atol=1e-4)


def test_a_pruned_facenet_network_runs(tmp_path):
    source, target = facenet("rnet"), tmp_path / "small.safetensors"
    prune(source, target, plan=PlanSettings(rule="energy:0.95", gof=1.0))
    small, dense = load(target, RNet()).eval(), RNet().eval()
    assert isinstance(small.dense4, nn.Sequential)
    dense.load_state_dict(load_dense(target))
    x = torch.randn(4, 3, 24, 24)
    torch.testing.assert_close(small(x), dense(x), rtol=1e-3, atol=1e-4)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in dense.parameters())


def jit_load(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.load(path)


def test_sileros_program_is_listed_as_torch_loads_it():
    path = silero("silero_vad.jit")
    expected = jit_load(path).state_dict()
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.format == "TorchScript"
        assert set(checkpoint.tensors) == set(expected)
        assert all(torch.equal(checkpoint.read(name), tensor) for name, tensor in expected.items())
        kinds = {layer.tensor: layer.kind for layer in checkpoint.layers()}
    assert all(kinds[f"_model.decoder.rnn.weight_hh[{gate}]"] == "recurrent" for gate in "ifgo")
    assert kinds["_model.encoder.0.reparam_conv.weight"] == "conv1d"
    # Two networks of four convolutions and two tensors of four gates.
    assert len(analyze(path).analyzed) == 2 * (4 + 2 * 4)


def test_sileros_program_runs_with_weights_of_lower_rank(tmp_path):
    source, target = silero("silero_vad.jit"), tmp_path / "small.jit"
    settings = PlanSettings(rule="energy:0.999", gof=1.0, when_not_smaller="truncate")
    result = prune(source, target, layout="dense", plan=settings)
    assert sum(layer.action == "truncated" for layer in result.outcomes) == 2 * (4 + 2 * 4)
    before, after = jit_load(source), jit_load(target)
    x = torch.randn(1, 512) * 0.1
    first, second = before(x, 16000), after(x, 16000)
    assert not torch.equal(first, second)
    torch.testing.assert_close(second, first, rtol=0, atol=0.02)
    expected = before.state_dict()
    for name, tensor in load_dense(target).items():
        changed = not torch.equal(tensor, expected[name])
        assert changed == any(
            layer.tensor.partition("[")[0] == name and layer.changes for layer in result.plan.layers
        )


@pytest.mark.parametrize("name", ["silero_vad.jit", "silero_vad_16k.safetensors"])
def test_silero_files_become_smaller_state_dicts(name, tmp_path):
    source, target = silero(name), tmp_path / "small.safetensors"
    result = prune(source, target, plan=RATIO)
    assert sum(layer.action == "factorized" for layer in result.outcomes) >= 4
    assert target.stat().st_size < source.stat().st_size
    original = load_dense(source)
    dense = load_dense(target)
    assert {key: tensor.shape for key, tensor in dense.items()} == {
        key: tensor.shape for key, tensor in original.items()
    }


def test_silero_runs_for_those_who_trust_it():
    model = load_model(open_checkpoint(silero("silero_vad.jit"), trust=True))
    assert "_model.decoder.rnn.weight_hh" in dict(model.named_parameters())
