"""Training images that are mirrored and shifted a little."""

from __future__ import annotations

import torch
from torch.nn import functional


def flip_and_shift(images: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """Images (N, C, H, W), half of them mirrored, the batch shifted by up to 4 pixels each way, zeros coming in."""
    height, width = images.shape[2:]
    mirrored = torch.rand(len(images), 1, 1, 1, generator=random) < 0.5
    images = torch.where(mirrored.to(images.device), images.flip(3), images)
    top, left = torch.randint(0, 9, (2,), generator=random).tolist()
    return functional.pad(images, (4, 4, 4, 4))[:, :, top : top + height, left : left + width]
