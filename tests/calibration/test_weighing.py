"""Vectors that count as much as the loss feels errors at them, against a loop of its own."""

import pytest
import torch
from torch import nn

from rmt_compress.networks.calibration.calibrating import calibrate


def squares(outputs, generator):
    """A scalar without anything random: the gradient at an output is the output."""
    return outputs.square().sum() / 2


class Shared(nn.Module):
    """Two products of one tensor."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 3, bias=False), nn.Linear(4, 2, bias=False)

    def forward(self, x):
        return torch.cat([self.a(x), 2 * self.b(x)], dim=1)


def test_each_vector_counts_by_the_gradients_that_it_leads_to():
    model, batches = Shared(), [torch.randn(40, 4), torch.randn(30, 4)]

    found = calibrate(model, batches, scalar=squares).layers

    C, mean = torch.zeros(4, 4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    for x in (batch.double() for batch in batches):
        first = x @ model.a.weight.detach().double().T
        second = 4 * x @ model.b.weight.detach().double().T
        felt = first.square().sum(1) + second.square().sum(1)
        weights = felt / felt.mean()
        C += x.T @ (weights[:, None] * x) / 70
        mean += weights @ x / 70
    torch.testing.assert_close(found["a.weight"].inputs, C, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found["a.weight"].mean, mean, rtol=1e-6, atol=1e-6)
    assert found["b.weight"].inputs is found["a.weight"].inputs
    assert found["a.weight"].count == 70


def test_where_few_would_count_for_all_every_vector_counts_alike():
    model, data = nn.Sequential(nn.Linear(4, 3, bias=False)), torch.randn(100, 4)

    def of_one(outputs, generator):
        return outputs[0].square().sum()

    found = calibrate(model, [data], scalar=of_one).layers["0.weight"]

    torch.testing.assert_close(found.inputs, data.double().T @ data.double() / 100, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("model", [nn.Conv1d(4, 3, 1), nn.Linear(4, 3)])
def test_convolutions_are_not_weighed(model):
    convolution = isinstance(model, nn.Conv1d)
    data = torch.randn(50, 4, 6) if convolution else torch.randn(50, 6, 4)

    weighed, alike = (
        calibrate(nn.Sequential(model), [data], scalar=squares, weighted=weighted).layers["0.weight"].inputs
        for weighted in (True, False)
    )

    assert torch.equal(weighed, alike) is convolution
