"""Channels in another order: the same function, more of the weights kept, nothing else touched."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import rmt_compress as rmt
from rmt_compress.decomposition.group_choice import kept_by_magnitude
from rmt_compress.decomposition.group_order import better_order
from rmt_compress.errors import CompressionError
from rmt_compress.layers.group_patterns import pattern_called


def kept(matrix, pattern="2:4"):
    return float(kept_by_magnitude(matrix, pattern_called(pattern)).abs().sum())


@pytest.mark.parametrize("pattern", ["2:4", "1:4", "3:8"])
def test_an_order_keeps_more_and_holds_every_column_once(pattern):
    matrix = torch.randn(30, 96) * torch.rand(96).exp() ** 2
    order = better_order(matrix, pattern_called(pattern))
    assert torch.equal(order.sort().values, torch.arange(96))
    assert kept(matrix[:, order], pattern) > 1.01 * kept(matrix, pattern)


def test_an_order_that_is_there_to_be_found_is_found():
    """Every group of the shuffled matrix' own order can keep all that is in it."""
    matrix = torch.zeros(40, 32)
    for group in range(8):
        for row in range(40):
            chosen = torch.randperm(4)[:2] + 4 * group
            matrix[row, chosen] = torch.rand(2) + 1
    shuffled = matrix[:, torch.randperm(32)]
    whole = float(matrix.sum())
    found = kept(shuffled[:, better_order(shuffled, pattern_called("2:4"))])
    assert kept(shuffled) < 0.88 * whole
    assert found > kept(shuffled) + 0.5 * (whole - kept(shuffled))


class Branches(nn.Module):
    """Of its layers only `after` has inputs that one layer alone makes."""

    def __init__(self):
        super().__init__()
        self.before, self.after = nn.Linear(8, 16), nn.Linear(16, 16)
        self.used_twice, self.summed = nn.Linear(16, 16), nn.Linear(16, 16)
        self.shared = nn.Linear(16, 16)

    def forward(self, x):
        x = self.after(functional.gelu(self.before(x)))
        y = self.shared(self.shared(x))
        z = self.used_twice(x)
        return self.summed(y + z)


@pytest.mark.parametrize(
    ("build", "shape", "changed"),
    (
        (
            lambda: nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Dropout(), nn.Linear(32, 24), nn.Linear(24, 5)),
            (12,),
            {"0.weight", "0.bias", "3.weight", "3.bias", "4.weight"},
        ),
        (
            lambda: nn.Sequential(
                nn.Conv2d(3, 16, 3),
                nn.BatchNorm2d(16),
                nn.ReLU(),
                nn.MaxPool2d(2),
                nn.Conv2d(16, 8, 1),
                nn.Flatten(),
            ),
            (3, 12, 12),
            {
                "0.weight",
                "0.bias",
                "4.weight",
                *(f"1.{name}" for name in ("weight", "bias", "running_mean", "running_var")),
            },
        ),
        (Branches, (8,), {"before.weight", "before.bias", "after.weight"}),
    ),
)
def test_the_network_computes_what_it_did(build, shape, changed):
    model = build().eval()
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape) + 0.5 if name.endswith("var") else torch.randn(tensor.shape))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    permuted = rmt.permute_for_pattern(model, "2:4")
    inputs = torch.randn(4, *shape)
    with torch.no_grad():
        torch.testing.assert_close(permuted(inputs), model(inputs), rtol=1e-4, atol=1e-4)
    after = permuted.state_dict()
    assert {name for name, tensor in after.items() if not torch.equal(tensor, before[name])} == changed
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    last = "after.weight" if "after.weight" in changed else max(name for name in changed if name[0] in "4")
    assert kept(after[last].flatten(1)) > kept(before[last].flatten(1))


def test_where_nothing_can_be_permuted_it_says_so():
    with pytest.raises(CompressionError, match="in no layer are the inputs"):
        rmt.permute_for_pattern(nn.Sequential(nn.Linear(8, 8)), "2:4")
    with pytest.raises(CompressionError, match="in groups of 16"):
        rmt.permute_for_pattern(nn.Sequential(nn.Linear(8, 24), nn.Linear(24, 3)), "4:16")
    tied = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    tied[1].weight = tied[0].weight
    with pytest.raises(CompressionError, match="in no layer"):
        rmt.permute_for_pattern(tied, "2:4")
    with pytest.raises(ValueError, match="a pattern is K:N"):
        rmt.permute_for_pattern(nn.Linear(4, 4), "5:4")

    class Untraceable(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(CompressionError, match=r"torch.fx cannot trace"):
        rmt.permute_for_pattern(Untraceable(), "2:4")
