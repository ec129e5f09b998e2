"""Matrices whose directions are known."""

import torch

from tests.samples.seeds import repeatable


@repeatable
def low_rank_plus_noise(rows, columns, spikes, size=5.0):
    """A matrix of noise with variance 1/columns and a few large directions; the same at every call."""
    noise = torch.randn(rows, columns) / columns**0.5
    u, _ = torch.linalg.qr(torch.randn(rows, spikes))
    v, _ = torch.linalg.qr(torch.randn(columns, spikes))
    return noise + size * u @ v.T
