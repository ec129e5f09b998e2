import pytest
import torch
from torch import nn

from rmt_compress.training import TrainingSettings
from rmt_compress.training.optimizers import carry_over, make_optimizer, restore_state, state_by_name
from rmt_compress.training.split_network import Network
from tests.samples.split_networks import cnn, mlp, split

LOW = 8


def rank_limited(make, tensor, rank=LOW):
    """A network whose weight has this rank exactly, so that a cut to it changes nothing."""
    network = Network(make())
    with torch.no_grad():
        weight = network.model.get_parameter(tensor)
        u, s, vt = torch.linalg.svd(weight.reshape(weight.shape[0], -1), full_matrices=False)
        weight.copy_(((u[:, :rank] * s[:rank]) @ vt[:rank]).reshape(weight.shape))
    return network


def gradients_as_momentum(network, inputs):
    """An optimizer whose momentum is the gradient at `inputs`: one step at a rate too small to move a weight."""
    optimizer = make_optimizer(network.model, TrainingSettings(learning_rate=1e-30))
    optimizer.zero_grad()
    network.model(inputs).square().sum().backward()
    optimizer.step()
    return optimizer


@pytest.mark.parametrize(
    ("make", "tensor", "shape"),
    [(mlp, "fc1.weight", (5, 60)), (cnn, "conv.weight", (2, 24, 8, 8)), (cnn, "up.weight", (2, 24, 8, 8))],
)
def test_momentum_of_a_split_layer_is_what_its_factors_would_have_gathered(make, tensor, shape):
    network = rank_limited(make, tensor)
    inputs = torch.randn(shape)
    old = gradients_as_momentum(network, inputs)
    before = dict(network.model.named_parameters())
    split(network, tensor, LOW)
    new = make_optimizer(network.model, TrainingSettings())
    carry_over(old, new, before, network)
    network.model.zero_grad()
    network.model(inputs).square().sum().backward()
    for name, parameter in network.model.named_parameters():
        momentum = new.state[parameter]["momentum_buffer"]
        torch.testing.assert_close(
            momentum, parameter.grad, atol=2e-3, rtol=2e-3, msg=lambda text, n=name: n + text
        )


@pytest.mark.parametrize(
    ("make", "tensor", "shape"), [(mlp, "fc1.weight", (5, 60)), (cnn, "up.weight", (2, 24, 8, 8))]
)
def test_momentum_of_factors_that_are_cut_again(make, tensor, shape):
    from rmt_compress.decomposition.products import decompose_product
    from rmt_compress.layers.splitting import factor_matrices, factor_tensors

    # Twelve inner units for a product of rank 8: to cut again to 8 changes nothing either.
    network = rank_limited(make, tensor)
    split(network, tensor, 12)
    inputs = torch.randn(shape)
    old = gradients_as_momentum(network, inputs)
    before = dict(network.model.named_parameters())
    layer = network.pairs[tensor].layer
    matrices = factor_matrices(layer.kind, network.factors(tensor))
    network.split_again(tensor, factor_tensors(layer, *decompose_product(*matrices).factors(LOW)))
    new = make_optimizer(network.model, TrainingSettings())
    carry_over(old, new, before, network)
    network.model.zero_grad()
    network.model(inputs).square().sum().backward()
    for parameter in network.model.parameters():
        momentum = new.state[parameter]["momentum_buffer"]
        torch.testing.assert_close(momentum, parameter.grad, atol=2e-3, rtol=2e-3)


def test_state_of_untouched_parameters_stays_and_adamw_begins_anew_where_it_was_cut():
    network = Network(mlp())
    settings = TrainingSettings(optimizer="adamw", learning_rate=1e-3)
    old = make_optimizer(network.model, settings)
    network.model(torch.randn(4, 60)).sum().backward()
    old.step()
    before = dict(network.model.named_parameters())
    split(network, "fc1.weight", 5)
    new = make_optimizer(network.model, settings)
    carry_over(old, new, before, network)
    model = network.model
    assert new.state[model.fc2.weight] is old.state[before["fc2.weight"]]
    assert new.state[model.fc1.up.bias] is old.state[before["fc1.bias"]]
    assert model.fc1.up.weight not in new.state


def test_state_survives_saving_under_names():
    model = nn.Linear(4, 3)
    settings = TrainingSettings(optimizer="adamw")
    optimizer = make_optimizer(model, settings)
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    saved = state_by_name(model, optimizer)
    again = make_optimizer(model, settings)
    restore_state(model, again, saved)
    assert set(saved) == {"weight", "bias"}
    for parameter in model.parameters():
        for key, value in optimizer.state[parameter].items():
            assert torch.equal(torch.as_tensor(again.state[parameter][key]), torch.as_tensor(value))
