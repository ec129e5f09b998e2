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


def spiked_weight(strength, seed=0):
    """Noise, 64 × 96, and one direction of this strength on top of it."""
    generator = torch.Generator().manual_seed(seed)
    u, v = (torch.nn.functional.normalize(torch.randn(64, generator=generator), dim=0) for _ in range(2))
    return torch.randn(64, 96, generator=generator) + strength * torch.outer(u, torch.cat([v, 0 * v[:32]]))
