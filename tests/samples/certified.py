"""Small classifiers of every shape that certificates know, with plans that cut them."""

from collections import OrderedDict
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

from rmt_compress.checkpoints.memory import ModuleCheckpoint
from rmt_compress.plan import LayerDecision, Plan


class Residual(nn.Module):
    """A stem, two blocks with strided shortcut and sum, a mean and a head, written with functions."""

    def __init__(self, width=4, classes=5):
        super().__init__()
        self.stem = nn.Conv2d(2, width, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.norm1 = nn.BatchNorm2d(2 * width)
        self.conv2 = nn.Conv2d(2 * width, 2 * width, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(2 * width)
        self.short = nn.Sequential(nn.Conv2d(width, 2 * width, 1, 2, bias=False), nn.BatchNorm2d(2 * width))
        self.head = nn.Linear(2 * width, classes)

    def forward(self, x):
        x = functional.relu(self.stem_norm(self.stem(x)), inplace=True)
        # Both layers first, then both norms: a layer and its norm do not always stand side by side.
        one, other = self.conv1(x), self.short[0](x)
        out = functional.relu(self.norm1(one))
        out = self.norm2(self.conv2(out))
        out += self.short[1](other)
        return functional.log_softmax(self.head(torch.relu(out).mean((2, 3))), dim=1)


def mlp(sizes=(12, 20, 16, 5), activation=nn.ReLU, final=False):
    """Linear layers with an activation between."""
    layers = OrderedDict()
    for index, (inputs, outputs) in enumerate(pairwise(sizes), start=1):
        layers[f"fc{index}"] = nn.Linear(inputs, outputs)
        if final or index < len(sizes) - 1:
            layers[f"act{index}"] = activation()
    return nn.Sequential(layers).eval()


def cnn():
    """Convolutions with every kind of border and step, norms, pools that overlap, dropout, two Linear layers."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(2, 6, 3, padding=1),
            norm1=nn.BatchNorm2d(6),
            relu1=nn.ReLU(inplace=True),
            pool1=nn.MaxPool2d(3, stride=2, padding=1),
            conv2=nn.Conv2d(6, 8, 3, padding=1, padding_mode="circular"),
            tanh=nn.Tanh(),
            pool2=nn.AvgPool2d(2),
            flatten=nn.Flatten(),
            dropout=nn.Dropout(),
            fc1=nn.Linear(32, 12),
            norm=nn.BatchNorm1d(12),
            relu2=nn.LeakyReLU(0.2),
            fc2=nn.Linear(12, 5),
        )
    ).eval()


def lively(model):
    """The model in evaluation mode, the statistics, scales and shifts of its norms far from 0 and 1."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -1, 1)
            nn.init.uniform_(module.running_var, 0.2, 3)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return model.eval()


def cut_plan(model, ranks, sparsify=None, action="factorized"):
    """Factorize the layers of these names, or truncate them."""
    return Plan(
        layers=tuple(
            LayerDecision(
                name=layer.name,
                tensor=layer.tensor,
                kind=layer.kind,
                shape=layer.shape,
                action=action if layer.name in ranks else "kept",
                rank=ranks.get(layer.name),
                sparsify=sparsify if layer.name in ranks else None,
            )
            for layer in ModuleCheckpoint(model).layers()
        )
    )
