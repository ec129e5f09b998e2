import pytest
import torch

from rmt_compress.checkpoints.memory import ModuleCheckpoint
from rmt_compress.training.split_network import Network
from rmt_compress.training.starting import restored
from rmt_compress.training.state import Snapshot
from tests.samples.split_networks import cnn, mlp, split


def test_the_view_has_the_original_names_shapes_and_kinds():
    network = Network(cnn())
    before = ModuleCheckpoint(cnn())
    split(network, "conv.weight", 5)
    split(network, "up.weight", 4)
    view = network.view()
    assert {layer.tensor: (layer.kind, layer.shape) for layer in view.layers()} == {
        layer.tensor: (layer.kind, layer.shape) for layer in before.layers()
    }
    weight = view.read("up.weight")
    assert torch.linalg.matrix_rank(weight.reshape(30, -1)) == 4
    plan = network.plan().by_tensor
    assert (plan["conv.weight"].rank, plan["up.weight"].rank, plan["conv.bias"].action) == (5, 4, "kept")


@pytest.mark.parametrize(
    ("make", "tensor", "nested", "inputs"),
    [
        (mlp, "fc1.weight", ("fc1.down.weight", "fc1.up.weight"), (7, 60)),
        (mlp, "fc1.weight", ("fc1.up.weight",), (7, 60)),
        (cnn, "conv.weight", ("conv.down.weight", "conv.up.weight"), (2, 24, 9, 9)),
        (cnn, "up.weight", ("up.down.weight", "up.up.weight"), (2, 24, 9, 9)),
    ],
)
def test_splits_inside_splits_are_joined_to_the_same_function(make, tensor, nested, inputs):
    network = Network(make().eval())
    split(network, tensor, 12)
    for rank, name in zip((6, 7), nested, strict=False):
        split(network, name, rank)
    x = torch.randn(inputs)
    outputs, parameters = network.model(x), sum(p.numel() for p in network.model.parameters())
    network.join_nested()
    torch.testing.assert_close(network.model(x), outputs, atol=1e-5, rtol=1e-4)
    assert list(network.pairs) == [tensor]
    assert network.pairs[tensor].rank == 6
    assert sum(p.numel() for p in network.model.parameters()) < parameters
    assert not network.model.training


def test_a_snapshot_with_splits_inside_splits_comes_back():
    network = Network(mlp())
    split(network, "fc1.weight", 12)
    split(network, "fc1.up.weight", 6)
    snapshot = Snapshot(
        [(tensor, pair.rank) for tensor, pair in network.pairs.items()], dict(network.model.state_dict())
    )
    again = restored(mlp, snapshot)
    x = torch.randn(3, 60)
    assert torch.equal(again.model(x), network.model(x))
    assert {tensor: pair.rank for tensor, pair in again.pairs.items()} == {"fc1.weight": 12, "fc1.up.weight": 6}
    # A later cut takes the bias from the template: it must be the one that is trained.
    assert again.pairs["fc1.weight"].template.bias is again.model.fc1.up.up.bias
    again.join_nested()
    torch.testing.assert_close(again.model(x), network.model(x))


def test_the_memory_of_a_split_weight_is_given_back():
    network = Network(mlp())
    split(network, "fc1.weight", 12)
    assert network.pairs["fc1.weight"].template.weight.is_meta
