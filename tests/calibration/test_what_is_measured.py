"""Which layers have moments, which are left out and why, and what a measurement leaves as it was."""

import pytest
import torch
from torch import nn

from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.errors import DataError
from rmt_compress.networks.calibration.calibrating import calibrate
from tests.samples.convolutional import UNet, audio_cnn, mobilenet
from tests.samples.sequential import Tagger, ViT, gpt2


def close(found, expected, tolerance=1e-6):
    error = (found - expected).norm() / expected.norm()
    assert error < tolerance, float(error)


def mlp():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, 5))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "inputs", "missing"),
    [
        (ViT, (2, 3, 32, 32), {"class_token", "pos_embedding"}),
        (UNet, (2, 3, 16, 16), set()),
        (audio_cnn, (2, 1, 4000), set()),
        (gpt2, None, {"model.transformer.wte.weight", "model.transformer.wpe.weight"}),
    ],
)
def test_every_layer_is_measured_or_left_out_with_the_reason(model, inputs, missing):
    network = model().eval()
    given = torch.randint(0, 100, (2, 9)) if inputs is None else torch.randn(inputs)

    moments = calibrate(network, [given], weighted=False)

    layers = {layer.tensor: layer for layer in open_checkpoint(network).layers() if layer.kind != "vector"}
    assert moments.layers.keys() | moments.left_out.keys() == layers.keys()
    assert moments.left_out.keys() == missing
    for name, found in moments.layers.items():
        rows, columns = layers[name].matrix
        sides = (columns, rows) if layers[name].kind.startswith("linear") else None
        if layers[name].kind.startswith("conv"):
            sides = (rows, columns) if "transpose" in layers[name].kind else (columns, rows)
        assert (len(found.inputs), len(found.outputs)) == sides
        assert torch.linalg.eigvalsh(found.inputs)[0] > -1e-6 * found.inputs.trace()


def test_groups_recurrence_and_tables_are_left_out_with_the_reason():
    left_out = calibrate(Tagger().eval(), [torch.randint(0, 100, (2, 9))]).left_out
    assert "looked up" in left_out["embedding.weight"]
    assert "recurrent" in left_out["lstm.weight_ih_l0[i]"]
    left_out = calibrate(mobilenet().eval(), [torch.randn(2, 3, 32, 32)]).left_out
    assert "groups" in left_out["3.conv.3.weight"]


def test_the_network_and_random_numbers_stay_as_they_are():
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 3)).train()
    model[2].eval()
    model[0].bias.requires_grad_(False)
    model[3].weight.grad = torch.ones(3, 8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()

    calibrate(model, [torch.randn(5, 6, generator=torch.Generator().manual_seed(0))])

    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in model.modules()] == [True, True, True, False, True]
    assert [parameter.requires_grad for parameter in model.parameters()] == [True, False, True, True, True, True]
    assert model[0].weight.grad is None
    assert torch.equal(model[3].weight.grad, torch.ones(3, 8))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_the_same_seed_gives_the_same_and_another_another():
    model, batches = mlp(), [torch.randn(9, 6)]
    first, second, other = (calibrate(model, batches, seed=seed).layers["0.weight"].outputs for seed in (3, 3, 4))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_only_the_layers_asked_for_are_measured():
    assert calibrate(mlp(), [torch.randn(9, 6)], layers=["2.weight"]).layers.keys() == {"2.weight"}
    with pytest.raises(DataError, match="no layer of this name"):
        calibrate(mlp(), [torch.randn(9, 6)], layers=["fc.weight"])


def test_a_network_without_gradients_still_has_inputs():
    class Frozen(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = mlp()

        @torch.no_grad()
        def forward(self, x):
            return self.inner(x)

    moments = calibrate(Frozen(), [torch.randn(9, 6)])
    assert moments.layers["inner.0.weight"].outputs is None
    assert moments.record["gradient"] is None


def test_an_iterator_is_gone_over_once():
    data = [torch.randn(3, 6) for _ in range(4)]
    told = []
    found = calibrate(mlp(), iter(data), progress=lambda *event: told.append(event))
    assert found.layers["0.weight"].count == 12
    assert len(told) == 4


def test_inputs_that_do_not_fit_are_one_clear_error():
    with pytest.raises(DataError, match="cannot be run on calibration inputs 3×7 float32"):
        calibrate(mlp(), [torch.randn(3, 7)])
    with pytest.raises(DataError, match="the batches are empty"):
        calibrate(mlp(), [])


def test_what_is_applied_the_other_way_round_is_left_out():
    class Backwards(nn.Module):
        num_experts = 2

        def __init__(self):
            super().__init__()
            self.there = nn.Linear(4, 5, bias=False)
            self.experts = nn.Parameter(torch.randn(2, 4, 6))

        def forward(self, x):
            back = self.there(x) @ self.there.weight
            return torch.bmm(back.expand(2, -1, -1), self.experts)

    moments = calibrate(Backwards(), [torch.randn(3, 4)])
    assert moments.left_out.keys() == {"there.weight", "experts"}
    assert set(moments.left_out.values()) == {"applied in another way than its layer is read"}


def test_an_expert_that_the_first_batch_does_not_reach_is_measured():
    class Mixture(nn.Module):
        def __init__(self):
            super().__init__()
            self.experts = nn.ModuleList(nn.Linear(4, 3) for _ in range(3))

        def forward(self, x):
            return self.experts[int(x[0, 0] > 0)](x)

    first, second = torch.ones(5, 4) * -1, torch.randn(6, 4).abs()
    moments = calibrate(Mixture(), [first, second], weighted=False)
    assert moments.layers["experts.0.weight"].count == 5
    close(moments.layers["experts.1.weight"].inputs, second.double().T @ second.double() / 6)
    assert moments.left_out == {"experts.2.weight": "did not run on the calibration inputs"}
