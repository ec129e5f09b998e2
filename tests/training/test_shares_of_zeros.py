"""Zeros of an exact share while training, divided by a budget."""

import pytest
import torch
from torch import nn

from rmt_compress.training.held_masks import HeldMasks, sparsify_to_share


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
