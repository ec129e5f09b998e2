"""Small networks in training, and splits made as a cut makes them."""

from collections import OrderedDict

from torch import nn

from rmt_compress.checkpoints.memory import ModuleCheckpoint
from rmt_compress.compression import compress
from rmt_compress.plan import LayerDecision, Plan
from tests.samples.seeds import repeatable


def split(network, tensor, rank):
    """Split a layer of a network as a cut does."""
    layer = next(each for each in ModuleCheckpoint(network.model).layers() if each.tensor == tensor)
    decision = LayerDecision(
        name=layer.name, tensor=tensor, kind=layer.kind, shape=layer.shape, action="factorized", rank=rank
    )
    template = network.model.get_submodule(tensor.removesuffix("weight").removesuffix("."))
    network.model = compress(network.model, Plan(layers=(decision,)), inplace=True)
    network.remember(layer, template, rank)


@repeatable
def mlp():
    return nn.Sequential(OrderedDict(fc1=nn.Linear(60, 50), relu=nn.ReLU(), fc2=nn.Linear(50, 10)))


@repeatable
def cnn():
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(24, 30, 3, padding=1, stride=2),
            up=nn.ConvTranspose2d(30, 26, 3, output_padding=1, stride=2),
        )
    )
