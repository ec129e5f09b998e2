"""A small vision transformer for MNIST: 16 patches of 7 × 7 pixels, three pre-norm blocks of width 96.

Networks are named ``tiny_encoder.py:Net`` after ``--arch``. Trained in some two minutes on one core.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

WIDTH, BLOCKS, HEADS, PATCH = 96, 3, 4, 7
BATCH, STEPS, RATE = 96, 500, 2e-3


class Block(nn.Module):
    """Attention and two Linear layers, each behind a norm and beside an identity."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.fc1, self.fc2 = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(3 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, T, WIDTH)."""
        h = self.norm1(x)
        q, k, v = (part(h).unflatten(2, (HEADS, -1)).transpose(1, 2) for part in (self.q, self.k, self.v))
        x = x + self.out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        h = self.fc2(functional.gelu(self.fc1(self.norm2(x))))
        out: torch.Tensor = x + h
        return out


class Net(nn.Module):
    """The network; its answer is read from the mean of the patches."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, WIDTH, PATCH, PATCH)
        self.positions = nn.Parameter(0.02 * torch.randn(1, (28 // PATCH) ** 2, WIDTH))
        self.blocks = nn.Sequential(*(Block() for _ in range(BLOCKS)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(N, 1, 28, 28) → (N, 10)."""
        x = self.patches(images).flatten(2).transpose(1, 2) + self.positions
        logits: torch.Tensor = self.head(self.norm(self.blocks(x)).mean(1))
        return logits


def train_encoder(path: Path, data: str, *, steps: int = STEPS) -> None:
    """Train with AdamW and one cycle from seed 0, and write the state dict.

    Args:
        path: of the `.pt` file.
        data: where MNIST is.
        steps: of 96 images.
    """
    from rmt_compress.data import load_data

    torch.manual_seed(0)
    model, train = Net().train(), load_data(data, split="train")
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    images = train.images.reshape(-1, 1, 28, 28)
    for _ in range(steps):
        chosen = torch.randint(len(images), (BATCH,))
        loss = functional.cross_entropy(model(images[chosen]), train.labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    torch.save(model.state_dict(), path)
