"""Matrices whose directions are known."""

import torch


def low_rank_plus_noise(rows, columns, spikes, seed, size=5.0):
    """A matrix of noise with variance 1/columns and a few large directions."""
    random = torch.Generator().manual_seed(seed)
    noise = torch.randn(rows, columns, generator=random) / columns**0.5
    u, _ = torch.linalg.qr(torch.randn(rows, spikes, generator=random))
    v, _ = torch.linalg.qr(torch.randn(columns, spikes, generator=random))
    return noise + size * u @ v.T
