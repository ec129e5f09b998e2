"""Networks on sequences: attention and recurrence."""

import warnings

import torch
from torch import nn


class Block(nn.Module):
    """Attention with packed projections, and an MLP, each after a norm, as torchvision's ViT has them."""

    def __init__(self, width, heads):
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.self_attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x):
        normed = self.ln_1(x)
        x = x + self.self_attention(normed, normed, normed, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class ViT(nn.Module):
    """Dosovitskiy et al. 2020 on 32×32 images, patches of 8×8."""

    def __init__(self, width=64, depth=2, heads=4, classes=10):
        super().__init__()
        self.conv_proj = nn.Conv2d(3, width, 8, 8)
        self.class_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.pos_embedding = nn.Parameter(torch.randn(1, 17, width) * 0.02)
        self.layers = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.ln = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        patches = self.conv_proj(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.class_token.expand(len(x), -1, -1), patches), 1) + self.pos_embedding
        return self.head(self.ln(self.layers(x))[:, 0])


class Tagger(nn.Module):
    """A label for every word: embedding, LSTM in both directions, Linear."""

    def __init__(self, words=100, width=48, hidden=40, tags=12):
        super().__init__()
        self.embedding = nn.Embedding(words, width)
        self.lstm = nn.LSTM(width, hidden, num_layers=2, bidirectional=True, batch_first=True)
        self.project = nn.Linear(2 * hidden, 128)
        self.tag = nn.Linear(128, tags)

    def forward(self, words):
        return self.tag(self.project(self.lstm(self.embedding(words))[0]).relu())


class Logits(nn.Module):
    """A network of transformers whose output is a tensor."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, words):
        return self.model(words).logits


def bert():
    """A BERT with a classifier."""
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=100,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=32,
        num_labels=10,
    )
    return Logits(BertForSequenceClassification(config))


def gpt2():
    """A GPT-2 with its head tied to the table."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        n_layer=2, n_head=4, n_embd=64, vocab_size=100, n_positions=32, bos_token_id=0, eos_token_id=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Logits(GPT2LMHeadModel(config))
