"""Networks that are tried: two thinner layers in the place of one, and everything back afterwards."""

import pytest
import torch
from torch import nn

from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.decomposition.bases import PLAIN, directions_of
from rmt_compress.decomposition.cuts import Cuts
from rmt_compress.networks.replacing import replaced, tried
from rmt_compress.planning.searching import Trial


class Attending(nn.Module):
    """A convolution and a linear layer that are called, attention whose last weight is read by its parent."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 40, 3, padding=1)
        self.norm = nn.BatchNorm2d(40)
        self.attention = nn.MultiheadAttention(40, 4, batch_first=True)
        self.head = nn.Linear(40, 36)

    def forward(self, images):
        tokens = self.norm(self.conv(images)).flatten(2).transpose(1, 2)
        return self.head(self.attention(tokens, tokens, tokens)[0].mean(1))


@pytest.fixture
def model():
    return Attending().eval()


def trial_of(model, rank):
    """All layers cut to a rank, biases moved as well."""
    with open_checkpoint(model) as checkpoint:
        cuts = Cuts(directions_of(checkpoint.layers(), PLAIN, None), checkpoint.read)
        ranks = dict.fromkeys(("conv.weight", "attention.out_proj.weight", "head.weight"), rank)
        moved = {"head.bias": model.head.bias.detach() + 1.0}
        return Trial({**cuts.tensors(ranks), **moved}, "plain", cuts.factors(ranks))


def run(model, images):
    with torch.no_grad():
        return model(images)


def test_two_layers_answer_as_the_one_they_stand_for(model):
    images = torch.randn(3, 8, 6, 6)
    trial = trial_of(model, 4)
    with replaced(model, trial.tensors):
        expected = run(model, images)
    with tried(model, trial) as network:
        assert isinstance(network.conv, nn.Sequential)
        assert isinstance(network.head, nn.Sequential)
        # Its weight is read by the attention around it, which would not find it in two.
        assert isinstance(network.attention.out_proj, nn.Linear)
        torch.testing.assert_close(run(network, images), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(run(model, images), expected, atol=1e-2)


def test_a_layer_that_would_hardly_be_less_work_stays_one(model):
    with tried(model, trial_of(model, 18)) as network:
        # 18 × 76 is 95 % of 40 × 36, and 18 × 112 is 70 % of 40 × 72.
        assert isinstance(network.head, nn.Linear)
        assert isinstance(network.conv, nn.Sequential)


def test_modules_and_values_come_back_whatever_happens(model):
    images, modules = torch.randn(2, 8, 6, 6), dict(model.named_modules())
    before, values = run(model, images), {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ZeroDivisionError), tried(model, trial_of(model, 4)):
        raise ZeroDivisionError
    after = dict(model.named_modules())
    assert list(after) == list(modules)
    assert all(after[name] is module for name, module in modules.items())
    assert all(torch.equal(value, values[name]) for name, value in model.state_dict().items())
    assert torch.equal(run(model, images), before)


def test_replaced_values_come_back_whatever_happens(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ZeroDivisionError), replaced(model, {"head.bias": torch.zeros(36)}) as network:
        divmod(1, int(network.head.bias.any()))
    assert before["head.bias"].any()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(KeyError), replaced(model, {"none.bias": torch.zeros(36)}):
        pass


def test_a_network_that_is_one_layer_is_tried_in_two():
    model = nn.Linear(50, 40)
    with open_checkpoint(model) as checkpoint:
        cuts = Cuts(directions_of(checkpoint.layers(), PLAIN, None), checkpoint.read)
        trial = Trial(cuts.tensors({"weight": 3}), "plain", cuts.factors({"weight": 3}))
    inputs = torch.randn(5, 50)
    with replaced(model, trial.tensors):
        expected = run(model, inputs)
    with tried(model, trial) as network:
        assert network is not model
        torch.testing.assert_close(run(network, inputs), expected, rtol=1e-4, atol=1e-5)


def test_shared_modules_are_one_again_afterwards():
    shared = nn.Linear(40, 40)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    with open_checkpoint(model) as checkpoint:
        layer = checkpoint.layers()[0].tensor
        cuts = Cuts(directions_of(checkpoint.layers(), PLAIN, None), checkpoint.read)
        trial = Trial(cuts.tensors({layer: 3}), "plain", cuts.factors({layer: 3}))
    inputs = torch.randn(5, 40)
    with replaced(model, trial.tensors):
        expected = run(model, inputs)
    with tried(model, trial) as network:
        torch.testing.assert_close(run(network, inputs), expected, rtol=1e-4, atol=1e-5)
    assert model[0] is shared
    assert model[2] is shared


def test_a_plain_trial_is_only_other_values(model):
    images = torch.randn(2, 8, 6, 6)
    with tried(model, Trial({"head.bias": torch.full((36,), 7.0)})) as network:
        assert network is model
        moved = run(network, images)
    torch.testing.assert_close(moved - run(model, images), (7.0 - model.head.bias.detach()).expand(2, -1))
