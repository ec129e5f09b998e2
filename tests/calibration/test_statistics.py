"""Running statistics of batch norms, estimated anew."""

import pytest
import torch
from torch import nn

from rmt_compress.errors import DataError
from rmt_compress.networks.calibration.statistics import renew_statistics, seen_statistics
from tests.samples.convolutional import mobilenet


def network():
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5)),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 6), nn.BatchNorm1d(6)),
    ).train()


def test_the_first_norm_gets_mean_and_variance_of_all_that_it_sees():
    model = network()
    batches = [torch.randn(8, 3, 7, 7) + 1, torch.randn(5, 3, 7, 7) * 2]

    renewed = renew_statistics(model, batches)

    seen = model[0](torch.cat(batches)).detach().transpose(0, 1).flatten(1).double()
    torch.testing.assert_close(model[1].running_mean.double(), seen.mean(1), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model[1].running_var.double(), seen.var(1), rtol=1e-5, atol=1e-6)
    assert renewed.norms == ("1", "7")
    assert renewed.values == 13 * 25


def test_one_batch_gives_what_torch_estimates_with_momentum_one():
    model, reference = network(), network()
    reference.load_state_dict(model.state_dict())
    batch = torch.randn(16, 3, 7, 7)
    renew_statistics(model, [batch])
    reference[3].eval()
    for norm in (reference[1], reference[7]):
        norm.momentum = 1.0
    reference(batch)
    for at in (1, 7):
        torch.testing.assert_close(model[at].running_mean, reference[at].running_mean, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(model[at].running_var, reference[at].running_var, rtol=1e-5, atol=1e-6)
        assert model[at].num_batches_tracked == 0


def test_it_can_be_undone_and_leaves_all_else_alone():
    model = network()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]

    renewed = renew_statistics(model, [torch.randn(16, 3, 7, 7)])

    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_pre_hooks for module in model.modules())
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {f"{at}.{name}" for at in (1, 7) for name in ("running_mean", "running_var")}
    renewed.undo()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_pass_that_fails_changes_nothing():
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(DataError, match="cannot be run on calibration inputs"):
        renew_statistics(model, [torch.randn(16, 3, 7, 7), torch.randn(16, 2, 7, 7)])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_network_without_norms_is_not_run():
    class Untouched(nn.Module):
        def forward(self, x):
            raise AssertionError

    assert renew_statistics(Untouched(), [torch.ones(1)]).norms == ()


def test_statistics_that_were_spoilt_are_found_again():
    model = mobilenet().train()
    data = torch.randn(64, 3, 16, 16)
    renew_statistics(model, [data])
    good = model.eval()(data).detach()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean += 1
            module.running_var *= 3
    renew_statistics(model, data.split(32))
    assert (model(data) - good).norm() < 0.1 * good.norm()


def test_inputs_of_another_kind_move_nothing_where_nothing_was_cut():
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    strange = [torch.randn(16, 3, 7, 7) * 3 + 1]

    renewed = renew_statistics(model, strange, uncut=seen_statistics(model, strange))

    assert renewed.norms == ("1", "7")
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=1e-6, atol=1e-6)


def test_means_move_by_the_difference_and_variances_by_the_ratio():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    model[1].running_mean.fill_(5)
    model[1].running_var.fill_(7)
    inputs = [torch.randn(32, 3) * 2 - 1]
    uncut = seen_statistics(model, inputs)
    with torch.no_grad():
        model[0].weight *= torch.tensor([[3.0], [1.0]])
        model[0].bias[1] += 4

    renew_statistics(model, inputs, uncut=uncut)

    now = model[0](inputs[0]).double()
    torch.testing.assert_close(model[1].running_mean.double(), 5 + now.mean(0) - uncut["1"].mean)
    assert model[1].running_mean[1] == pytest.approx(9, abs=1e-5)
    assert model[1].running_var.tolist() == pytest.approx([63, 7], rel=1e-4)


def test_a_channel_that_the_inputs_leave_constant_keeps_its_variance():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    with torch.no_grad():
        model[0].weight[0] = 0
    model[1].running_var.fill_(7)
    inputs = [torch.randn(32, 3)]
    uncut = seen_statistics(model, inputs)

    renew_statistics(model, inputs, uncut=uncut)

    assert model[1].running_var.tolist() == pytest.approx([7, 7], rel=1e-5)
