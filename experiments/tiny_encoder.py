"""A small vision transformer trained on MNIST in some two minutes on one core, for experiments that need one."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.nn import functional

from rmt_compress.data import load_data

BATCH = 128
STEPS = 900
RATE = 2e-3


def train_encoder(folder: Path, data: str, *, steps: int = STEPS) -> None:
    """Train on MNIST, AdamW with one cycle from seed 0, and write the Hugging Face folder.

    Args:
        folder: where to.
        data: where MNIST is.
        steps: of 128 images.
    """
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    config = ViTConfig(  # type: ignore[call-arg]  # transformers types some of its settings
        hidden_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=288,
        image_size=28,
        patch_size=7,
        num_channels=1,
        num_labels=10,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = ViTForImageClassification(config).train()
    train = load_data(data, split="train")
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    images = train.images.reshape(-1, 1, 28, 28)
    for _ in range(steps):
        chosen = torch.randint(len(images), (BATCH,))
        loss = functional.cross_entropy(model(pixel_values=images[chosen]).logits, train.labels[chosen])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own
        optimizer.step()
        schedule.step()
    model.eval().save_pretrained(folder)
