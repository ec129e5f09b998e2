"""Zeros of an exact share while training, divided by a budget."""

import pytest
import torch
from torch import nn

from rmt_compress.compression.layer_strengths import edge_weights
from rmt_compress.training.held_masks import HeldMasks, sparsify_to_share
from rmt_compress.training.reallocation import FreeEntries, way_at, zeros_of_share


def network():
    return nn.Sequential(nn.Linear(40, 60), nn.ReLU(), nn.Linear(60, 50), nn.ReLU(), nn.Linear(50, 7))


@pytest.mark.parametrize("budget", ["uniform", "magnitude", "edge", "alpha"])
def test_the_share_is_exact_and_only_rises(budget):
    model, before = network(), None
    weights = [each for each in model.parameters() if each.dim() == 2]
    entries = sum(each.numel() for each in weights)
    for share in (0.3, 0.8):
        masks = sparsify_to_share(model, share, budget)
        assert sum(int((each == 0).sum()) for each in weights) == int(share * entries + 1e-9)
        assert set(masks) == {"0.weight", "2.weight", "4.weight"}
        if before is not None and budget == "magnitude":
            assert all(bool((before[name] | ~masks[name]).all()) for name in masks)
        before = masks
    with torch.no_grad():
        for each in weights:
            each.add_(1.0)
    HeldMasks(model, masks).enforce()
    assert sum(int((each == 0).sum()) for each in weights) == int(0.8 * entries + 1e-9)


def moving(by):
    """A training that moves every removed entry of a layer by so much times 1, 2, 3, …, and everything else too."""

    def train(free):
        with torch.no_grad():
            for name, (weight, gone) in free.removed.items():
                weight.add_(1.0)
                weight[gone] = by[name] * torch.arange(1.0, int(gone.sum()) + 1)
        free.enforce()

    return train


def test_of_what_was_removed_comes_back_what_moved_most():
    model = network()
    weights = [each for each in model.parameters() if each.dim() == 2]
    entries, before = sum(each.numel() for each in weights), [each.detach().clone() for each in weights]
    moved = {"0.weight": 1.0, "2.weight": 1e-6, "4.weight": 1e-6}
    masks = zeros_of_share(model, 0.5, "reallocation", moving(moved))
    assert sum(int((each == 0).sum()) for each in weights) == int(0.5 * entries)
    assert sum(int((~mask).sum()) for mask in masks.values()) == int(0.5 * entries)
    # Only of the first layer anything came back: with what it had become, the last ones of those that were removed.
    for mask, weight, old in zip(masks.values(), weights, before, strict=True):
        back = weight.detach() >= 1
        assert bool(back.any()) == (weight is weights[0])
        stayed = mask & ~back
        assert torch.equal(weight.detach()[stayed], old[stayed])
    restored = weights[0].detach()[weights[0].detach() >= 1]
    assert int(restored.numel()) == int(0.6 * entries) - int(0.5 * entries)
    assert restored.min() > 1


def test_movements_are_weighed_by_the_edges(monkeypatch):
    """The weight by which the edge budget divides what it removes."""
    from rmt_compress.training import reallocation

    def weighed(analysis, share):
        assert share == pytest.approx(0.6)
        return {**edge_weights(analysis, share), "0.weight": 1e-9, "2.weight": 1.0, "4.weight": 1e-9}

    monkeypatch.setattr(reallocation, "edge_weights", weighed)
    model = network()
    weights = [each for each in model.parameters() if each.dim() == 2]
    zeros_of_share(model, 0.5, "reallocation", moving(dict.fromkeys(("0.weight", "2.weight", "4.weight"), 2.0)))
    assert [bool((each >= 1).any()) for each in weights] == [False, True, False]


def test_everything_else_stands_still_while_removed_entries_are_trained():
    model = nn.Sequential(nn.Linear(40, 40), nn.BatchNorm1d(40), nn.Linear(40, 40))
    kept = sparsify_to_share(model, 0.5, "uniform")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    free = FreeEntries(model, kept)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(16, 40)).square().mean().backward()
        optimizer.step()
        free.enforce()
    for name, value in model.state_dict().items():
        mask = kept.get(name, torch.ones_like(value, dtype=torch.bool))
        assert torch.equal(value[mask], before[name][mask])
    assert all(bool((weight[gone] != 0).all()) for weight, gone in free.removed.values())


def test_a_hybrid_reallocates_above_a_fifth_and_freezes_what_does_not_rise():
    assert way_at("hybrid", 0.2, rises=True) == "magnitude"
    assert way_at("hybrid", 0.21, rises=True) == "reallocation"
    assert way_at("reallocation", 0.1, rises=True) == "reallocation"
    assert way_at("reallocation", 0.5, rises=False) == way_at("hybrid", 0.5, rises=False) == "edge"
    assert way_at("alpha", 0.5, rises=False) == "alpha"
    model = network()
    zeros_of_share(model, 0.5, "reallocation", moving({"0.weight": 1.0, "2.weight": 1.0, "4.weight": 1.0}))
    before = {name: each == 0 for name, each in model.named_parameters()}
    zeros_of_share(model, 0.5, way_at("hybrid", 0.5, rises=False), lambda free: None)
    assert all(torch.equal(each == 0, before[name]) for name, each in model.named_parameters())
