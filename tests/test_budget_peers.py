"""The published cuts of benchmarks/budget_peers.py against closed forms and every other choice there is."""

import importlib
import itertools
import math

import pytest
import torch
from torch import nn

from tests.samples.repository import REPOSITORY


@pytest.fixture
def peers(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    return importlib.import_module("budget_peers")


@pytest.fixture
def seen(peers):
    """Inputs of very unequal directions, (vectors, n), with their sums."""
    X = torch.randn(200, 12) @ torch.diag(torch.logspace(1, -1, 12)) @ torch.randn(12, 12) + 0.5
    inputs = peers.observe(network := nn.Sequential(nn.Linear(12, 9)), ["0.weight"], X.split(64), 0)["0.weight"]
    return network[0].weight.detach(), X, inputs


def tail(matrix, rank):
    """The least squared error of any matrix of this rank (Eckart and Young 1936)."""
    return float(torch.linalg.svdvals(matrix.double())[rank:].square().sum())


def error(change, weights):
    return float((change @ weights.double()).square().sum())


@pytest.mark.parametrize("rank", [1, 4, 8])
def test_whitened_cut_leaves_the_least_error_of_the_outputs(peers, seen, rank):
    W, X, inputs = seen
    change = W.double() - peers.whitened(W, inputs).truncated(rank)
    assert error(change, X.T) == pytest.approx(tail(W.double() @ X.T.double(), rank), rel=1e-4)
    # A cut that does not know the inputs leaves more.
    assert error(W.double() - peers.plain(W).truncated(rank), X.T) > 1.01 * error(change, X.T)


def test_whitening_by_eigenvectors_gives_the_same_cut(peers, seen):
    W, X, inputs = seen
    values, vectors = torch.linalg.eigh(X.T.double() @ X.double())
    root, inverse = vectors * values.sqrt(), (vectors / values.sqrt()).T
    u, s, vt = torch.linalg.svd(W.double() @ root, full_matrices=False)
    by_eigenvectors = (u[:, :4] * s[:4]) @ vt[:4] @ inverse
    torch.testing.assert_close(peers.whitened(W, inputs).truncated(4), by_eigenvectors, rtol=1e-3, atol=1e-4)


def test_scaled_cut_leaves_the_least_error_in_its_scale(peers, seen):
    W, X, inputs = seen
    scale = X.double().abs().mean(0).sqrt()
    change = W.double() - peers.scaled(W, inputs).truncated(3)
    assert error(change, torch.diag(scale)) == pytest.approx(tail(W.double() * scale, 3), rel=1e-9)
    torch.testing.assert_close(peers.scaled(W, inputs, alpha=0.0).truncated(3), peers.plain(W).truncated(3))


def test_plain_cut_is_the_nearest_matrix(peers):
    W = torch.randn(7, 10)
    change = W.double() - peers.plain(W).truncated(5)
    assert float(change.square().sum()) == pytest.approx(tail(W, 5))


SHAPES = {"a": (5, 6), "b": (6, 4), "c": (4, 9)}


def cuts_of(peers, shapes):
    return {name: peers.plain(torch.randn(shape) * 10**place) for place, (name, shape) in enumerate(shapes.items())}


@pytest.mark.parametrize("keep", [0.75, 0.9])
def test_one_price_keeps_more_relative_energy_than_any_choice_of_its_size(peers, keep):
    cuts = cuts_of(peers, SHAPES)

    def energy(ranks):
        kept = (cuts[name].energies[: ranks[name]].sum() / cuts[name].energies.sum() for name in cuts)
        return float(sum(kept))

    found = peers.one_price(cuts, SHAPES, keep)
    size = peers.size(found, SHAPES)
    assert size <= keep
    ranks = [[None, *range(1, min(shape) + 1)] for shape in SHAPES.values()]
    others = [dict(zip(SHAPES, each, strict=True)) for each in itertools.product(*ranks)]
    small = [each for each in others if peers.size(each, SHAPES) <= size + 1e-12]
    assert len(small) > 5
    assert energy(found) >= max(map(energy, small)) - 1e-9


def test_energy_share_is_one_share_for_all_layers(peers):
    cuts = cuts_of(peers, shapes := {"a": (30, 40), "b": (40, 30), "c": (35, 60)})
    ranks = peers.energy_share(cuts, shapes, 0.6)
    assert 0.5 < peers.size(ranks, shapes) <= 0.6
    kept = {name: cut.energies.cumsum(0) / cut.energies.sum() for name, cut in cuts.items()}
    # A share that every layer reaches with its rank, and none without the last of its directions.
    lowest = min(float(kept[name][rank - 1]) for name, rank in ranks.items())
    assert all(float(kept[name][rank - 2]) < lowest for name, rank in ranks.items())


def test_equal_share_is_that_of_every_layer(peers):
    ranks = peers.equal_share({"a": (30, 60), "b": (50, 50)}, 0.5)
    assert ranks == {"a": 10, "b": 12}
    assert peers.equal_share({"a": (30, 60)}, 1.0) == {"a": None}


def test_sensitivity_leaves_harmful_cuts_out(peers):
    shapes = {"a": (20, 20), "b": (20, 20)}
    losses = {("a", 0.2): 9.0, ("a", 0.6): 2.0, ("b", 0.2): 3.0, ("b", 0.6): 1.0}
    # In turn the network is cut by b to .6, a to .6, b to .2, a to .2.
    assert peers.by_sensitivity(losses, shapes, 0.85) == {"a": None, "b": 6}
    assert peers.by_sensitivity(losses, shapes, 0.79) == {"a": 6, "b": 6}
    assert peers.by_sensitivity(losses, shapes, 0.45) == {"a": 6, "b": 2}
    assert peers.by_sensitivity(losses, shapes, 0.2) == {"a": 2, "b": 2}


def test_moments_of_a_convolution_are_those_of_its_outputs(peers, monkeypatch):
    monkeypatch.setattr(peers, "PLACES", 1000)
    network = nn.Sequential(nn.Conv2d(3, 5, 3, stride=2, padding=1, bias=False))
    images = torch.randn(4, 3, 8, 8)
    inputs = peers.observe(network, ["0.weight"], [images[:3], images[3:]], 0)["0.weight"]
    W = network[0].weight.detach().flatten(1).double()
    outputs = network(images).detach().double().transpose(0, 1).flatten(1)
    assert inputs.count == outputs.shape[1] == 4 * 16
    torch.testing.assert_close(W @ inputs.second @ W.T, outputs @ outputs.T, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(W @ inputs.total, outputs.sum(1), rtol=1e-4, atol=1e-4)
    assert float(inputs.magnitude.min()) >= float(inputs.total.abs().min())


def test_a_network_that_is_cut_keeps_the_means_of_its_outputs(peers):
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 4 * 4, 12))
    images = torch.rand(50, 3, 6, 6)
    names = ["0.weight", "3.weight"]
    inputs = peers.observe(network, names, [images], 0)
    cuts = {name: peers.whitened(network.get_parameter(name).detach().flatten(1), inputs[name]) for name in names}
    with torch.no_grad():
        small = peers.carried_out(network, cuts, {"0.weight": 3, "3.weight": None}, inputs)
        before, after = (net[0](images).transpose(0, 1).flatten(1) for net in (network, small))
        torch.testing.assert_close(after.mean(1), before.mean(1), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(after, before, atol=1e-2)
        assert small[0].down.weight.shape == (3, 3, 3, 3)
        assert small[3] is not network[3]
        whole = peers.carried_out(network, cuts, {"0.weight": 8, "3.weight": 12}, inputs)
        torch.testing.assert_close(whole(images), network(images), rtol=1e-3, atol=1e-4)
    assert sum(map(torch.numel, small.parameters())) < sum(map(torch.numel, network.parameters()))


def test_size_counts_factors_and_whole_layers(peers):
    shapes = {"a": (10, 30), "b": (20, 5)}
    assert peers.size({"a": 3, "b": None}, shapes) == pytest.approx((3 * 40 + 100) / 400)
    assert math.isclose(peers.size({"a": None, "b": None}, shapes), 1.0)
