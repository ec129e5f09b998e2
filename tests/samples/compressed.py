"""A small network with every kind of layer, and what a plan makes of it."""

from collections import OrderedDict

import torch
from torch import nn

from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.compression import Compressed, compress
from rmt_compress.plan import LayerDecision, Plan
from rmt_compress.saving import writing
from tests.samples.seeds import SEED, repeatable, seeded

RANKS = {"conv.weight": 4, "deconv.weight": 3, "fc.weight": 5}


def network(seed=SEED):
    """Convolution with every setting off its default, a transposed one, norm, Linear with and without bias.

    The same at every call; another seed gives other weights.
    """
    with seeded(seed):
        return nn.Sequential(
            OrderedDict(
                conv=nn.Conv2d(3, 16, 3, stride=2, padding=2, dilation=2, padding_mode="circular"),
                norm=nn.BatchNorm2d(16),
                deconv=nn.ConvTranspose2d(16, 12, 3, stride=2, output_padding=1),
                flatten=nn.Flatten(),
                fc=nn.Linear(12 * 10 * 10, 40, bias=False),
                head=nn.Linear(40, 10),
            )
        ).eval()


@repeatable
def inputs(count=4):
    return torch.randn(count, 3, 8, 8)


def plan(model, *, ranks=RANKS, sparsify=None):
    """Factorize the layers in `ranks`, keep the others."""
    return Plan(
        settings={"gof": 0.1},
        layers=tuple(
            LayerDecision(
                name=layer.name,
                tensor=layer.tensor,
                kind=layer.kind,
                shape=layer.shape,
                action="factorized" if layer.tensor in ranks else "kept",
                rank=ranks.get(layer.tensor),
                sparsify=None if layer.kind == "vector" else sparsify,
                reason="so the test wants it",
            )
            for layer in open_checkpoint(model).layers()
        ),
    )


def write(path, model=None, *, source=None, layout="factorized", sparsify=None, ranks=RANKS, pack="none"):
    """A compressed file of `model` (of the file `source`, where given), and the compressed module itself."""
    model = network() if model is None else model
    decisions = plan(model, ranks=ranks, sparsify=sparsify)
    with open_checkpoint(model if source is None else source) as checkpoint:
        writing.write(Compressed(checkpoint, decisions, layout=layout), path, pack=pack)
    return compress(model, decisions)
