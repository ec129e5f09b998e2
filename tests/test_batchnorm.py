"""Folded networks against the networks they were."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import rmt_compress as rmt
from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.errors import CheckpointError, CompressionError
from rmt_compress.networks.architectures import parse
from rmt_compress.planning.settings import PlanSettings
from rmt_compress.pruning.road import prune
from tests.samples import convolutional

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def unsettled(model, shape):
    """In evaluation mode, with norms whose statistics, scales and shifts are far from 0 and 1."""
    for module in model.modules():
        if isinstance(module, NORMS):
            nn.init.uniform_(module.running_mean, -1, 1)
            nn.init.uniform_(module.running_var, 0.2, 3)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return model.eval(), torch.randn(3, *shape)


@pytest.mark.parametrize(
    ("build", "shape"),
    (
        (convolutional.resnet18, (3, 16, 16)),
        (convolutional.bottleneck_resnet, (3, 16, 16)),
        (convolutional.mobilenet, (3, 16, 16)),
        (convolutional.UNet, (3, 16, 16)),
        (convolutional.audio_cnn, (1, 4000)),
        (lambda: nn.Sequential(nn.ConvTranspose2d(3, 8, 3, stride=2), nn.BatchNorm2d(8)), (3, 5, 5)),
        (lambda: nn.Sequential(nn.Conv3d(2, 6, 3, padding=1, groups=2), nn.BatchNorm3d(6)), (2, 4, 4, 4)),
    ),
)
def test_nothing_changes_in_evaluation_and_every_norm_has_scale_one(build, shape):
    model, inputs = unsettled(build(), shape)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    folded = rmt.fold_batchnorm(model)
    with torch.no_grad():
        expected = model(inputs)
        torch.testing.assert_close(folded(inputs), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    norms = [module for module in folded.modules() if isinstance(module, NORMS)]
    assert norms
    for norm in norms:
        factor = norm.weight / (norm.running_var + norm.eps).sqrt()
        torch.testing.assert_close(factor.detach(), torch.ones_like(factor), rtol=1e-6, atol=0)
    state = folded.state_dict()
    assert {name: tensor.shape for name, tensor in state.items()} == {n: t.shape for n, t in before.items()}
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


class Branching(nn.Module):
    """A convolution whose output is used twice, one that is used twice itself, and one with a norm of its own."""

    def __init__(self):
        super().__init__()
        self.twice, self.both, self.plain = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))
        self.norm1, self.norm2, self.norm3, self.norm4 = (nn.BatchNorm2d(4) for _ in range(4))

    def forward(self, x):
        first = self.twice(x)
        x = self.norm1(first) + first
        x = self.norm2(self.both(x)) + self.norm3(self.both(x))
        return self.norm4(self.plain(x))


def test_only_what_belongs_together_alone_is_folded():
    model, inputs = unsettled(Branching(), (4, 6, 6))
    folded = rmt.fold_batchnorm(model)
    with torch.no_grad():
        torch.testing.assert_close(folded(inputs), model(inputs), rtol=1e-4, atol=1e-4)
    changed = {
        name for name, value in folded.state_dict().items() if not torch.equal(value, model.state_dict()[name])
    }
    assert {name.split(".")[0] for name in changed} == {"plain", "norm4"}


class Untraceable(nn.Module):
    def forward(self, x):
        return x if float(x.sum()) > 0 else -x


@pytest.mark.parametrize(
    ("model", "message"),
    (
        (Untraceable(), "Untraceable: torch.fx cannot trace it"),
        (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), "nothing to fold"),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False)), "nothing to fold"),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)), "nothing to fold"),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)), "nothing to fold"),
        (nn.Sequential(parametrizations.weight_norm(nn.Conv2d(3, 4, 1)), nn.BatchNorm2d(4)), "nothing to fold"),
    ),
)
def test_what_cannot_be_folded_is_said(model, message):
    with pytest.raises(CompressionError, match=message):
        rmt.fold_batchnorm(model)


SPEC = "cnn:3x16x16/32,32,p,48/64,10"


@pytest.fixture
def checkpoint(tmp_path):
    model, inputs = unsettled(parse(SPEC).build(), (3, 16, 16))
    path = tmp_path / "cnn.pt"
    torch.save({"state_dict": model.state_dict(), "architecture": SPEC}, path)
    return path, model, inputs


def test_prune_cuts_the_folded_weights_and_the_file_loads_as_ever(checkpoint, tmp_path):
    path, model, inputs = checkpoint
    result = prune(path, tmp_path / "small.pt", plan=PlanSettings(rule="rank:12"), fold_batchnorm=True)
    # The fourth norm follows a Linear.
    assert "Folded 3 batch norms into the convolutions before." in result.notes
    small = rmt.load(tmp_path / "small.pt", model=parse(SPEC).build().eval())
    expected = rmt.compress(rmt.fold_batchnorm(model), result.plan)
    with torch.no_grad():
        torch.testing.assert_close(small(inputs), expected(inputs), rtol=1e-4, atol=1e-4)
        plain = rmt.compress(model, result.plan)
        assert not torch.allclose(small(inputs), plain(inputs), rtol=1e-2, atol=1e-2)
    with open_checkpoint(tmp_path / "small.pt") as opened:
        assert opened.manifest.source.name == "cnn.pt"
    with pytest.raises(CheckpointError, match="is compressed already"):
        prune(tmp_path / "small.pt", tmp_path / "again.pt", fold_batchnorm=True)


def test_without_the_network_there_is_nothing_to_trace(checkpoint, tmp_path):
    _, model, _ = checkpoint
    torch.save(model.state_dict(), tmp_path / "bare.pt")
    with pytest.raises(CheckpointError, match="does not say which network it belongs to; add --arch"):
        prune(tmp_path / "bare.pt", fold_batchnorm=True)
