"""Small networks and data of every kind of task, for ``--arch`` and ``--data``."""

import numpy as np
import torch
from torch import nn

LEARNERS = "tests.samples.learners"


def llama():
    """A decoder of two blocks whose tokens are bytes."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=256, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2
        )
    )


def bigrams():
    """Logits (N, T, 256) of the next byte from the last one alone."""
    return nn.Sequential(nn.Embedding(256, 24), nn.Linear(24, 64), nn.ReLU(), nn.Linear(64, 256))


def line():
    """One number from six, by a layer that no two of lower rank replace."""
    return nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1))


class Pooled(nn.Module):
    """Three classes from tokens that are no padding; takes and returns dictionaries as transformers do."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(20, 32)
        self.head = nn.Linear(32, 3)

    def forward(self, input_ids, attention_mask):
        weights = attention_mask[..., None].to(self.table.weight.dtype)
        return {"logits": self.head((self.table(input_ids) * weights).sum(1) / weights.sum(1))}


class Tagger(nn.Module):
    """Three classes for every token, the classes last."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(20, 32)
        self.head = nn.Linear(32, 3)

    def forward(self, input_ids, attention_mask):
        assert attention_mask.shape == input_ids.shape
        return {"logits": self.head(self.table(input_ids))}


def sentences(classes_of_tokens=False, count=240):
    """Padded sequences whose class is that of their first token, or those of all tokens."""
    random = np.random.default_rng(1)
    tokens = random.integers(1, 20, (count, 7))
    tokens[:, 1:] = np.where(random.random((count, 6)) < 0.3, tokens[:, 1:], tokens[:, :1])
    mask = (np.arange(7) < random.integers(3, 8, count)[:, None]).astype(np.int64)
    labels = np.where(mask == 1, tokens % 3, -100) if classes_of_tokens else tokens[:, 0] % 3
    return {"input_ids": tokens * mask, "attention_mask": mask, "labels": labels}


def tagged():
    """`sentences` with a class for every token."""
    return sentences(classes_of_tokens=True)


def table(count=300):
    """Inputs (N, 6) and numbers (N,) that depend on two of them."""
    random = np.random.default_rng(2)
    x = random.normal(size=(count, 6)).astype(np.float32)
    return {"x": x, "y": (2 * x[:, 0] - x[:, 1]).astype(np.float32)}


def stream(split):
    """Batches of 30 one after another, of inputs (N, 6) and numbers (N, 1)."""
    random = torch.Generator().manual_seed(3 if split == "train" else 4)
    for _ in range(4):
        x = torch.randn(30, 6, generator=random)
        yield x, x[:, :1] - x[:, 1:2]


def unlabelled():
    """Inputs without anything to be met."""
    return table()["x"]


def length(model):
    """A score that a function of the whole network computes."""
    return float(sum(parameter.norm() for parameter in model.parameters()))
