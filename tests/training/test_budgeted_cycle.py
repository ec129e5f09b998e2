"""Cuts within a budget while training, on networks small enough to check them by hand."""

from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from rmt_compress.analysis import AnalysisSettings
from rmt_compress.data.in_memory import InMemory
from rmt_compress.errors import SettingsError
from rmt_compress.networks.calibration.calibrating import calibrate
from rmt_compress.networks.measurement import count_macs
from rmt_compress.networks.tasks.classification import Classification
from rmt_compress.planning.budgets import BudgetSettings
from rmt_compress.planning.settings import PlanSettings
from rmt_compress.training import CycleSettings
from rmt_compress.training.budgeted_cycle import BudgetedCycle, of_whole_layers
from rmt_compress.training.split_network import Network
from tests.samples.split_networks import cnn, split


def mlp():
    torch.manual_seed(3)
    layers = OrderedDict(fc1=nn.Linear(60, 50), relu=nn.ReLU(), fc2=nn.Linear(50, 40), fc3=nn.Linear(40, 10))
    return nn.Sequential(layers)


def skewed(count=300, width=60):
    """Inputs of rather different scales, with a mean."""
    drawn = torch.randn(count, width, generator=torch.Generator().manual_seed(4))
    return drawn * torch.logspace(0, -2, width) + 0.3


def cycle(keep=0.3, **budget):
    settings = CycleSettings(budget=BudgetSettings(keep=keep, **budget), analysis=AnalysisSettings(gof=1.0))
    return BudgetedCycle(settings, mlp(), None, seed=0)


def left(network, of):
    return sum(each.numel() for each in network.model.parameters()) / sum(each.numel() for each in of.parameters())


@pytest.mark.parametrize("metric", ["plain", "input", "two-sided"])
def test_every_cut_keeps_its_share_and_no_layer_grows(metric):
    network, cuts = Network(mlp()), cycle(0.2, metric=metric)
    before = None
    for share in (0.6, 0.35, 0.2):
        cut = cuts.within(network, {"keep": share}, [skewed()])
        assert cut.asked["budget"] == {"keep": share}
        assert cut.asked["rule"].startswith(metric)
        cuts.apply(network, cut)
        (size,) = cuts.sizes(network).values()
        assert size == pytest.approx(left(network, mlp()), rel=1e-12)
        # Not far below: the smallest step is one rank of fc2, 90 of 5,500 weights.
        assert share - 0.02 < size <= share
        ranks = {name: pair.rank for name, pair in network.pairs.items()}
        assert before is None or all(ranks[name] <= rank for name, rank in before.items())
        before = ranks
    assert set(before) == {"fc1.weight", "fc2.weight"}
    assert [record["rank"] for record in cut.records(network) if record["rank"]] == list(before.values())


def test_a_second_cut_is_that_of_the_product_in_the_metric_of_the_inputs(monkeypatch):
    # All inputs count alike, as in the formula below.
    monkeypatch.setattr("rmt_compress.networks.calibration.watchers._FEW", 2.0)
    network, cuts, x = Network(mlp()), cycle(0.2, metric="input", shrink_inputs=0.0), skewed()
    cuts.apply(network, cuts.within(network, {"keep": 0.5}, [x]))
    fc1 = network.model.fc1
    whole, bias = (fc1.up.weight @ fc1.down.weight).detach().double(), fc1.up.bias.detach().clone()
    old = network.pairs["fc1.weight"].rank
    outputs = x @ whole.float().T + bias
    cuts.apply(network, cuts.within(network, {"keep": 0.2}, [x]))
    fc1, rank = network.model.fc1, network.pairs["fc1.weight"].rank
    assert rank < old
    # With a bias of its own, of all matrices of this rank the nearest on the centred inputs.
    centred = (x - x.mean(0)).double()
    u, _, _ = torch.linalg.svd(whole @ centred.T, full_matrices=False)
    wanted = u[:, :rank] @ u[:, :rank].T @ whole
    torch.testing.assert_close((fc1.up.weight @ fc1.down.weight).double(), wanted, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(fc1(x).mean(0), outputs.mean(0), atol=1e-5, rtol=1e-4)


def test_two_that_stand_for_one_have_its_moments():
    dense, network = cnn(), Network(cnn())
    for tensor in ("conv.weight", "up.weight"):
        split(network, tensor, 6)
    view = network.view()
    dense.load_state_dict({name: view.read(name) for name in view.tensors})
    x = torch.randn(3, 24, 7, 7)
    wanted = calibrate(dense, [x], positions=None)
    found = of_whole_layers(network, calibrate(network.model, [x], positions=None))
    assert found.layers.keys() == wanted.layers.keys() == {"conv.weight", "up.weight"}
    for name, own in wanted.layers.items():
        torch.testing.assert_close(found.layers[name].inputs, own.inputs, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(found.layers[name].mean, own.mean, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(found.layers[name].outputs, own.outputs, rtol=1e-4, atol=1e-6)


def test_a_layer_that_calibration_does_not_see_is_cut_plain():
    network, cuts = Network(mlp()), cycle(0.3)
    split(network, "fc1.weight", 20)
    moments = calibrate(network.model, [skewed()])
    del moments.layers["fc1.up.weight"]
    whole = of_whole_layers(network, moments)
    assert "fc1.weight" not in whole.layers
    assert whole.left_out["fc1.weight"] == "calibration knows nothing of it"
    assert cuts.sizes(network)["keep"] < 1


@pytest.mark.parametrize("edge", ["ignore", "floor", "ceiling"])
def test_a_layer_split_before_the_run_is_cut_further_whatever_its_edge(edge):
    network, cuts = Network(mlp()), cycle(0.25, edge=edge, metric="plain")
    split(network, "fc1.weight", 20)
    cuts.apply(network, cuts.within(network, {"keep": 0.25}, []))
    assert network.pairs["fc1.weight"].rank < 20
    assert left(network, mlp()) <= 0.25


def test_multiply_adds_are_those_of_the_dense_network():
    model = cnn()
    x = torch.randn(4, 24, 9, 9)
    task = Classification(InMemory(x, torch.zeros(4, dtype=torch.int64)))
    settings = CycleSettings(
        budget=BudgetSettings(macs=0.3, metric="plain"), analysis=AnalysisSettings(gof=1.0, min_size=16)
    )
    network, cuts = Network(cnn()), BudgetedCycle(settings, model, task, seed=0)
    cuts.apply(network, cuts.within(network, {"macs": 0.3}, []))
    counted = [count_macs(each, x[:1]) for each in (network.model, model)]
    assert cuts.sizes(network)["macs"] == pytest.approx(counted[0] / counted[1], rel=0.02)
    assert 0.25 < cuts.sizes(network)["macs"] <= 0.3


def test_a_budget_out_of_reach_or_kept_already_is_told_before_training():
    network = Network(mlp())
    with pytest.raises(SettingsError, match=r"keep 0\.01 cannot be reached: 0\.1\d+ is the least"):
        cycle(0.01).check(network)
    cycle(0.3).check(network)
    split(network, "fc1.weight", 5)
    with pytest.raises(SettingsError, match=r"nothing is to be cut: .* keep 0\.\d+ already"):
        cycle(0.9).check(network)


def test_ranks_are_multiples_where_that_is_asked():
    settings = CycleSettings(budget=BudgetSettings(keep=0.4), plan=PlanSettings(rank_multiple=4))
    network, cuts = Network(mlp()), BudgetedCycle(settings, mlp(), None, seed=0)
    cuts.apply(network, cuts.within(network, {"keep": 0.4}, [skewed()]))
    assert network.pairs
    assert all(pair.rank % 4 == 0 for pair in network.pairs.values())


def test_the_same_inputs_give_the_same_cut():
    networks = [Network(mlp()) for _ in range(2)]
    for network in networks:
        cuts = cycle(0.2)
        for share in (0.5, 0.2):
            cuts.apply(network, cuts.within(network, {"keep": share}, [skewed()]))
    for one, other in zip(*(network.model.parameters() for network in networks), strict=True):
        np.testing.assert_array_equal(one.detach(), other.detach())


def test_settings_that_do_not_go_together_are_named():
    budget = BudgetSettings(keep=0.1)
    with pytest.raises(SettingsError) as raised:
        CycleSettings(budget=budget, keep_bulk="0.2", mode="recursive", plan=PlanSettings(gof_conv=0.1))
    assert raised.value.problems == (
        "keep-bulk, gof-conv is of cuts at the edge: a budget finds the ranks itself",
        "mode recursive cuts factors as layers of their own, and a budget whole layers",
    )
    with pytest.raises(SettingsError, match="metric, caps, way needs a budget: add --keep or --macs"):
        CycleSettings(budget=BudgetSettings(metric="plain", caps=("a:0.5",)), way="once")
    with pytest.raises(SettingsError, match="latency of the cycle's budget is not asked"):
        CycleSettings(budget=replace(budget, latency=0.5))


def test_what_is_kept_of_a_cycle_at_the_edge_is_as_it_was():
    assert not {"keep", "metric", "way", "repair", "calibration_samples"} & CycleSettings().plain().keys()
    kept = CycleSettings(budget=BudgetSettings(keep=0.1, metric="input"), way="linear").plain()
    assert (kept["keep"], kept["metric"], kept["way"]) == (0.1, "input", "linear")


@pytest.mark.parametrize(("keep", "repair", "is_repaired"), [(0.1, None, True), (None, None, False)])
def test_statistics_are_renewed_by_default_where_there_is_a_budget(keep, repair, is_repaired):
    settings = CycleSettings(budget=BudgetSettings(keep=keep))
    assert (settings.repair == "statistics") is is_repaired


def test_noise_of_other_scales_is_not_for_a_cycle() -> None:
    with pytest.raises(SettingsError, match="noise equalized is not for finetune"):
        CycleSettings(analysis=AnalysisSettings(noise="equalized"))
