"""What a forward pass costs, by hand: bytes moved, bytes alive, positions of layers."""

import sys

import pytest
import torch
from torch import nn

from rmt_compress.networks.measurement import bytes_moved, peak_memory
from rmt_compress.networks.positions import layer_positions


def test_bytes_moved_are_weights_inputs_and_outputs():
    model = nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3, bias=False))
    inputs = torch.ones(2, 7)
    assert bytes_moved(model, inputs) == 4 * ((35 + 5 + 14 + 10) + (15 + 10 + 6))
    # Half the bytes in half precision.
    assert bytes_moved(model.bfloat16(), inputs.bfloat16()) == 2 * ((35 + 5 + 14 + 10) + (15 + 10 + 6))


def test_peak_memory_is_what_is_alive_at_once():
    class Chain(nn.Module):
        def forward(self, x):
            wide = torch.cat([x, x, x, x])  # 4 n
            narrow = wide[:1] * 2.0  # n / N beside it
            del wide
            return narrow

    inputs = torch.ones(8, 100)
    assert peak_memory(Chain(), inputs) == 4 * (4 * 800 + 100)
    # A view takes no memory of its own.
    assert peak_memory(nn.Flatten(), inputs) == 0


def test_memory_is_counted_without_torch_s_compiler(monkeypatch):
    """Importing it takes a second, of every `evaluate`."""
    monkeypatch.setitem(sys.modules, "torch._dynamo", None)  # importing it fails
    assert peak_memory(nn.Linear(3, 5), torch.ones(2, 3)) == 40


@pytest.mark.parametrize(
    ("layer", "shape", "positions"),
    [
        (nn.Linear(6, 4), (6,), 1),
        (nn.Linear(6, 4), (9, 6), 9),
        (nn.Conv2d(3, 4, 3, stride=2), (3, 9, 9), 16),
        (nn.ConvTranspose2d(3, 4, 3, stride=2), (3, 5, 4), 20),
        (nn.Conv1d(3, 4, 3, padding=1), (3, 11), 11),
    ],
)
def test_positions_of_layers(layer, shape, positions):
    assert layer_positions(layer, torch.ones(2, *shape)) == {"weight": positions}
    twice = nn.Sequential(layer, nn.Identity())
    assert layer_positions(twice, torch.ones(2, *shape)) == {"0.weight": positions}
