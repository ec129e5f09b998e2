"""Vectors as a network seems to have been trained on, told by the spikes of its first layer.

Gradient descent moves the first weight by sums of g xᵀ, so that what stands above the edge of its noise has right
singular vectors in the span of the inputs. Noise with their covariance, W_sᵀW_s with W_s the spikes alone, is
nearer to inputs than white noise is: in experiments/data/self_calibration.md cuts calibrated with it cost less. A
little white noise is added, without which no cut that keeps the spikes of the first layer would be seen at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rmt_compress.analysis import analyze

if TYPE_CHECKING:
    import torch

COUNT = 1024
"""Vectors are cheap, and of a few no small change of answers is seen."""
SIZE = 0.35
"""Root mean square of an entry: about that of pixels in [0, 1]."""
WHITE = 0.3
"""Of it that of the white noise."""


def spiked_noise(weight: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor | None:
    """Noise (count, columns) along the spikes of a weight (rows, columns); None where it has fewer than two.

    Args:
        weight: of the layer that reads the inputs.
        count: how many vectors.
        generator: on the CPU.
    """
    import torch

    W = weight.detach().float().cpu()
    found = analyze({"first.weight": W}).analyzed
    spikes = found[0].matrices[0].fit.spikes if found else 0
    if spikes < 2:
        return None
    _, s, V = torch.linalg.svd(W, full_matrices=False)
    noise: torch.Tensor = torch.randn(count, spikes, generator=generator) * s[:spikes] @ V[:spikes]
    noise *= (1 - WHITE**2) ** 0.5 / noise.square().mean().sqrt()
    noise += WHITE * torch.randn(noise.shape, generator=generator)
    return noise.mul(SIZE)
