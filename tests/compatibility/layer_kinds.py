"""One small network per kind of layer: that layer alone, its weights a few directions in a little noise.

The seeds stay as they are: numbers on the page, such as an effective rank, are those of these weights.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations

RANK = 4
NOISE = 1e-5
"""Of the noise, per entry, where the spikes' singular values are of order 1: what a cut takes away."""


def with_few_directions(model: nn.Module) -> nn.Module:
    """Every matrix of a network replaced by one of `RANK` spikes and noise; the network, in evaluation mode."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() < 2 or "parametrizations." in name:
                continue
            rows, columns = weight.flatten(1).shape
            up = torch.randn(rows, RANK, generator=generator) / rows**0.5
            down = torch.randn(RANK, columns, generator=generator) / columns**0.5
            noise = NOISE * torch.randn(rows, columns, generator=generator)
            weight.copy_((up @ down + noise).view_as(weight))
    return model.eval()


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.rnn = kind(48, 40, batch_first=True)

    def forward(self, x):
        return self.rnn(x)[0]


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(64, 4, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


class Table(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(96, 48)

    def forward(self, words):
        return self.embedding(words)


class Tied(Table):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(48, 96, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, words):
        return self.head(self.embedding(words))


class Gpt2(nn.Module):
    """A product as GPT-2 stores it, (in, out), under the name it has there."""

    def __init__(self):
        from transformers.pytorch_utils import Conv1D

        super().__init__()
        self.c_fc = Conv1D(64, 48)

    def forward(self, x):
        return self.c_fc(x)


class Adapted(nn.Module):
    """An adapter as PEFT names it."""

    def __init__(self):
        super().__init__()
        self.lora_A = nn.Linear(64, RANK, bias=False)
        self.lora_B = nn.Linear(RANK, 48, bias=False)

    def forward(self, x):
        return self.lora_B(self.lora_A(x))


class Quantized(nn.Module):
    """Codes of one byte and a scale."""

    def __init__(self, dtype):
        super().__init__()
        self.register_buffer("weight", torch.randint(-90, 90, (48, 64)).to(dtype))
        self.register_buffer("weight_scale", torch.full((48, 1), 1e-2))

    def forward(self, x):
        return functional.linear(x, self.weight.float() * self.weight_scale)


class One(nn.Module):
    """A layer under a name."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)


@dataclass(frozen=True)
class LayerKind:
    """A kind of layer.

    Attributes:
        name: as the page has it.
        build: the network, with weights that do not matter.
        sample: shape of an input; of words where `words`.
        words: whether inputs are whole numbers.
    """

    name: str
    build: Callable[[], nn.Module]
    sample: tuple[int, ...]
    words: bool = False

    def network(self) -> nn.Module:
        """The network with the weights of the page."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return with_few_directions(self.build())

    def inputs(self) -> torch.Tensor:
        """A batch."""
        generator = torch.Generator().manual_seed(1)
        if self.words:
            return torch.randint(0, 96, self.sample, generator=generator)
        return torch.randn(self.sample, generator=generator)


def weight_norm() -> nn.Module:
    layer = nn.Linear(64, 48)
    return One(parametrizations.weight_norm(with_few_directions(layer)))


def spectral_norm() -> nn.Module:
    layer = nn.Linear(64, 48)
    return One(parametrizations.spectral_norm(with_few_directions(layer)).eval())


KINDS = (
    LayerKind("Linear", lambda: One(nn.Linear(64, 48)), (3, 64)),
    LayerKind("Conv1d", lambda: One(nn.Conv1d(48, 64, 3)), (2, 48, 20)),
    LayerKind("Conv2d", lambda: One(nn.Conv2d(48, 64, 3, stride=2, padding=1)), (2, 48, 8, 8)),
    LayerKind("Conv3d", lambda: One(nn.Conv3d(32, 40, 3)), (2, 32, 5, 5, 5)),
    LayerKind("grouped Conv2d", lambda: One(nn.Conv2d(96, 64, 3, groups=2)), (2, 96, 5, 5)),
    LayerKind("depthwise Conv2d", lambda: One(nn.Conv2d(64, 64, 3, groups=64)), (2, 64, 5, 5)),
    LayerKind("ConvTranspose2d", lambda: One(nn.ConvTranspose2d(48, 64, 3, stride=2)), (2, 48, 4, 4)),
    LayerKind("Embedding", Table, (3, 7), words=True),
    LayerKind("embedding tied to a head", Tied, (3, 7), words=True),
    LayerKind("LSTM", lambda: Recurrent(nn.LSTM), (2, 6, 48)),
    LayerKind("GRU", lambda: Recurrent(nn.GRU), (2, 6, 48)),
    LayerKind("MultiheadAttention", Attention, (2, 6, 64)),
    LayerKind("Conv1D of GPT-2", Gpt2, (2, 6, 48)),
    LayerKind("weight norm", weight_norm, (3, 64)),
    LayerKind("spectral norm", spectral_norm, (3, 64)),
    LayerKind("LoRA adapter", Adapted, (3, 64)),
    LayerKind("int8 weight", lambda: Quantized(torch.int8), (3, 64)),
    LayerKind("fp8 weight", lambda: Quantized(torch.float8_e4m3fn), (3, 64)),
    LayerKind("BatchNorm", lambda: One(nn.BatchNorm1d(64)), (3, 64)),
)
