"""How far moments are shrunk, chosen on other inputs."""

import json

import pytest
import torch
from torch import nn

from rmt_compress.decomposition.moments import Moments
from rmt_compress.errors import DataError
from rmt_compress.networks.calibration.measuring import calibrate
from rmt_compress.networks.calibration.shrinkage import choose_shrinkage


def network():
    return nn.Sequential(nn.Linear(40, 32), nn.Tanh(), nn.Linear(32, 24))


def inputs(count):
    """Normal ones, some directions much wider than others."""
    return torch.randn(count, 40) * torch.linspace(0.1, 2, 40)


def test_few_inputs_are_shrunk_more_than_many():
    model = network()
    few = choose_shrinkage(model, [inputs(12), inputs(12)], of_inputs=(0.001, 0.5), of_outputs=(0.01, 0.6))
    many = choose_shrinkage(model, [inputs(4000), inputs(4000)], of_inputs=(0.001, 0.5), of_outputs=(0.01, 0.6))
    assert few.shrinkage.inputs == 0.5
    assert many.shrinkage == (0.001, 0.01)
    assert few.layers == many.layers == ("0.weight", "2.weight")


def test_what_a_cut_loses_is_what_it_loses_of_the_outputs():
    """By hand: outputs of a Linear cut by the leading eigenvectors of W C Wᵀ, on the other half."""
    model = nn.Sequential(nn.Linear(40, 32, bias=False))
    halves = [inputs(300), inputs(200)]
    found = choose_shrinkage(model, halves, of_inputs=(0.1,))

    W = model[0].weight.detach().double()
    C = halves[0].double().T @ halves[0].double() / 300
    C = 0.9 * C + 0.1 * C.trace() / 40 * torch.eye(40)
    U = torch.linalg.eigh(W @ C @ W.T).eigenvectors[:, -8:]
    y = halves[1].double() @ W.T
    assert found.inputs[0.1] == pytest.approx(float((y - y @ U @ U.T).square().sum() / y.square().sum()), rel=1e-5)


def test_the_choice_is_kept_with_the_moments():
    model, batches = network(), [inputs(20), inputs(20)]
    chosen = choose_shrinkage(model, batches)
    moments = chosen.recorded(calibrate(model, batches))
    assert isinstance(moments, Moments)
    kept = json.loads(json.dumps(moments.record))["shrinkage"]
    assert (kept["inputs"], kept["outputs"]) == chosen.shrinkage
    assert [share for share, _ in kept["lost"]["outputs"]] == [0.1, 0.3, 0.5, 0.7]
    assert moments.record["batches"] == 2


def test_one_batch_can_judge_nothing():
    with pytest.raises(DataError, match="two batches or more"):
        choose_shrinkage(network(), [inputs(20)])
    with pytest.raises(DataError, match="in a list"):
        choose_shrinkage(network(), iter([inputs(20), inputs(20), inputs(20)]))
