"""Which modules form a chain, against what their authors drew as blocks."""

import pytest
import torch
from torch import nn

from rmt_compress.networks.repair.chain import find_chain, split_layers
from rmt_compress.networks.repair.relay import Relay, outline
from tests.samples.convolutional import UNet, resnet18, vgg16
from tests.samples.cut_copies import cut_to
from tests.samples.sequential import ViT, bert, gpt2


def chain_of(model, inputs, *, rank=2, only=None):
    model.eval()
    return find_chain(model, split_layers(cut_to(model, rank, only=only), model), model, inputs)


def test_layers_of_a_vision_transformer():
    assert chain_of(ViT(), torch.randn(1, 3, 32, 32)) == ("conv_proj", "layers.0", "layers.1", "head")


@pytest.mark.slow
def test_layers_of_transformers_networks():
    words = torch.randint(0, 100, (1, 8))
    assert chain_of(gpt2(), words) == ("model.transformer.h.0", "model.transformer.h.1")
    layers = ("model.bert.encoder.layer.0", "model.bert.encoder.layer.1")
    assert chain_of(bert(), words) == (*layers, "model.bert.pooler.dense", "model.classifier")


def test_stages_of_a_resnet():
    stages = tuple(f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1))
    chain = chain_of(resnet18(), torch.randn(1, 3, 32, 32))
    assert tuple(path for path in chain if path.startswith("layer")) == stages
    assert chain[-1] == "fc"


def test_every_layer_of_a_plain_network():
    model = vgg16(width=4)
    layers = split_layers(cut_to(model, 2), model)
    assert chain_of(model, torch.randn(1, 3, 32, 32)) == tuple(layers)


def test_only_blocks_with_split_layers_count():
    only = ("layers.1.mlp.0",)
    assert chain_of(ViT(), torch.randn(1, 3, 32, 32), only=only) == only


class Around(nn.Module):
    """A way around two of three layers."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(9, 9) for _ in range(3))

    def forward(self, x):
        x = self.first(x)
        return self.third(x + self.second(x))


def test_where_there_is_a_way_around_the_whole_network_is_one_block():
    assert chain_of(Around(), torch.randn(2, 9)) == ("",)
    assert chain_of(UNet(), torch.randn(1, 3, 16, 16)) == ("",)


def test_a_layer_that_is_called_twice_is_no_block():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.head = nn.Linear(9, 9), nn.Linear(9, 9)

        def forward(self, x):
            return self.head(self.layer(self.layer(x)))

    assert chain_of(Twice(), torch.randn(2, 9)) == ("",)


def test_block_by_block_gives_what_the_network_gives():
    model, words = gpt2().eval(), torch.randint(0, 100, (2, 8))
    chain = chain_of(model, words)
    whole = {}
    handles = [
        model.get_submodule(path).register_forward_hook(lambda *call, path=path: whole.update({path: call[-1]}))
        for path in chain
    ]
    model(words)
    for handle in handles:
        handle.remove()
    relay, before = Relay(model, chain, model), []
    for at, path in enumerate(chain):
        passage = relay.run(at, words, before)
        assert torch.equal(passage.reached, whole[path] if torch.is_tensor(whole[path]) else whole[path][0])
        before[-1:] = map(outline, before[-1:])
        before.append(passage.output)
    assert not any("forward" in vars(module) for module in model.modules())
