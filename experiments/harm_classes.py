"""Small networks of the kinds that people have, every matrix a layer of its own; see harm_networks.py."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class Attention(nn.Module):
    """Attention in four matrices, each a layer of its own."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, places, width) → the same."""
        query, key, value = (
            each(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in (self.query, self.key, self.value)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        out: torch.Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, causal: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, 4, causal)
        self.up, self.down = nn.Linear(width, 3 * width), nn.Linear(3 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, places, width) → the same."""
        x = x + self.attention(self.norm1(x))
        out: torch.Tensor = x + self.down(functional.gelu(self.up(self.norm2(x))))
        return out


class ImageTransformer(nn.Module):
    """Square patches of images (N, 1, side, side), a few blocks, the mean of all places."""

    def __init__(self, side: int, patch: int, width: int, blocks: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, patch, patch)
        self.places = nn.Parameter(0.02 * torch.randn((side // patch) ** 2, width))
        self.blocks = nn.Sequential(*(Block(width, causal=False) for _ in range(blocks)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (N, 10)."""
        x = self.patches(x).flatten(2).transpose(1, 2) + self.places
        out: torch.Tensor = self.head(self.norm(self.blocks(x)).mean(1))
        return out


class TextTransformer(nn.Module):
    """The next byte of texts (N, places)."""

    def __init__(self, places: int, width: int, blocks: int) -> None:
        super().__init__()
        self.bytes, self.places = nn.Embedding(256, width), nn.Parameter(0.02 * torch.randn(places, width))
        self.blocks = nn.Sequential(*(Block(width, causal=True) for _ in range(blocks)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 256)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (N, places, 256)."""
        x = self.bytes(x) + self.places[: x.shape[1]]
        out: torch.Tensor = self.head(self.norm(self.blocks(x)))
        return out


class Mixer(nn.Module):
    """Perceptrons over the places and over the channels in turn, for images (N, 1, 28, 28)."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.patches, self.head = nn.Conv2d(1, width, 4, 4), nn.Linear(width, 10)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * blocks))
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(size, 2 * size), nn.GELU(), nn.Linear(2 * size, size))
            for _ in range(blocks)
            for size in (49, width)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (N, 10)."""
        x = self.patches(x).flatten(2).transpose(1, 2)
        for number, (norm, layer) in enumerate(zip(self.norms, self.layers, strict=True)):
            normed = norm(x)
            x = x + (layer(normed) if number % 2 else layer(normed.mT).mT)
        out: torch.Tensor = self.head(x.mean(1))
        return out


def strided() -> nn.Module:
    """Convolutions without batch norm for images (N, 3, 32, 32)."""
    return nn.Sequential(
        *(nn.Conv2d(3, 48, 5, 2, 2), nn.ReLU(), nn.Conv2d(48, 96, 3, 2, 1), nn.ReLU()),
        *(nn.Conv2d(96, 96, 3, 1, 1), nn.ReLU(), nn.Flatten(), nn.Linear(6144, 256), nn.ReLU(), nn.Linear(256, 10)),
    )


def autoencoder(wide: int, narrow: int) -> nn.Module:
    """784 → wide → narrow → wide → 784."""
    return nn.Sequential(
        *(nn.Flatten(), nn.Linear(784, wide), nn.ReLU(), nn.Linear(wide, narrow), nn.ReLU()),
        *(nn.Linear(narrow, wide), nn.ReLU(), nn.Linear(wide, 784)),
    )
