"""Batch-norm statistics after a cut that made-up inputs calibrated; the part of the samples that looks first."""

import pytest
import torch
from torch import nn

import rmt_compress as rmt
from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.data.in_memory import InMemory
from rmt_compress.networks.calibration.made_up import MadeUp
from rmt_compress.networks.calibration_settings import CalibrationSettings
from rmt_compress.networks.tasks.choosing import agreement_of
from rmt_compress.planning.budgets import BudgetSettings
from rmt_compress.pruning import asking_candidates
from rmt_compress.pruning.budgeted import Request, plan_within_budget
from rmt_compress.pruning.calibration import Calibration, Inputs


@pytest.fixture
def model():
    layers = (
        nn.Conv2d(3, 12, 3),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Conv2d(12, 12, 3),
        nn.BatchNorm2d(12),
        nn.ReLU(),
    )
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4))
    # Statistics of training that no inputs of eight steps have.
    for norm in (network[1], network[4]):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    return network.eval()


@pytest.mark.slow
@pytest.mark.parametrize(("keep", "moves"), ((1.0, False), (0.6, True)))
def test_what_is_not_cut_keeps_the_statistics_of_training(keep, moves, model):
    request = Request(
        BudgetSettings(keep=keep, search="one"), CalibrationSettings(calibration_samples=8, input_shape="3,9,9")
    )
    checkpoint = open_checkpoint(model)
    found = plan_within_budget(rmt.analyze(model, min_size=10), checkpoint, model, None, request)
    assert set(found.repaired) == {
        f"{at}.{name}" for at in (1, 4) for name in ("running_mean", "running_var", "num_batches_tracked")
    }
    same = [
        torch.allclose(value, model.get_buffer(name), rtol=1e-5, atol=1e-5)
        for name, value in found.repaired.items()
    ]
    assert all(same) is not moves


def vectors(count):
    return InMemory(torch.randn(count, 5), targets="none", name="noise", part="selection")


@pytest.mark.parametrize(("asked", "part"), ((2047, None), (2048, 512)))
def test_a_quarter_of_many_samples_looks_first(asked, part):
    network = nn.Linear(5, 3)
    tasks = [agreement_of(vectors(count), network) for count in (100, asked)]
    found = Calibration(Inputs(tasks[0]), tasks[1], "measured", (), {}).part()
    assert (found and found.selection.samples.count) == part
    assert found is None or found.inputs.task.samples.count == 25


@pytest.mark.parametrize(
    ("inputs", "verified", "asked"),
    (
        (torch.zeros(256, 5), "synthetic", 256),
        (torch.zeros(257, 5), "synthetic", 3),
        (torch.zeros(40, 5, dtype=torch.long), "synthetic", 3),
        (torch.zeros(40, 5), "measured", 3),
    ),
    ids=("few", "many", "text", "data choose"),
)
def test_few_inputs_that_a_network_made_all_choose_among_cuts_of_one_size(inputs, verified, asked):
    network = nn.Embedding(5, 3) if inputs.dtype == torch.long else nn.Linear(5, 3)
    task = agreement_of(vectors(3), network)
    made = MadeUp((inputs[:30], inputs[30:]), "noise", {})
    calibration = Calibration(Inputs(task), task, verified, (), {}, made)
    assert calibration.of_one_size(network).selection.samples.count == asked


@pytest.mark.parametrize(("budget", "all_choose"), (({"keep": 0.6}, True), ({"max_drop": 0.5}, False)))
def test_a_drop_is_asked_of_inputs_that_calibrated_nothing(budget, all_choose, model, monkeypatch):
    counts = []
    scored = asking_candidates.scored_trials

    def watched(network, inputs, task, judge, **more):
        counts.append(task.samples.count)
        return scored(network, inputs, task, judge, **more)

    monkeypatch.setattr(asking_candidates, "scored_trials", watched)
    settings = CalibrationSettings(calibration_samples=8, input_shape="3,9,9")
    request = Request(BudgetSettings(**budget), settings)
    checkpoint = open_checkpoint(model)
    plan_within_budget(rmt.analyze(model, min_size=10), checkpoint, model, None, request)
    assert counts == [8 if all_choose else 2]
