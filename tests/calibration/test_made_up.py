"""Inputs that a network makes itself."""

import pytest
import torch
from onnx import helper
from torch import nn

from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.errors import DataError
from rmt_compress.networks.calibration import fitted_images
from rmt_compress.networks.calibration.calibrating import calibrate
from rmt_compress.networks.calibration.made_up import described, input_shape, make_inputs, one_over_f
from rmt_compress.networks.calibration.spiked_noise import SIZE, WHITE
from rmt_compress.networks.calibration.statistics import batch_norms
from rmt_compress.networks.calibration.told_apart import not_told_apart
from rmt_compress.networks.calling import call
from tests.samples import exported
from tests.samples.convolutional import audio_cnn
from tests.samples.onnx_models import model, saved
from tests.samples.sequential import bert, gpt2


def normed():
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(inplace=True)),
        *(nn.Conv2d(6, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)),
    )


class Chain(nn.Module):
    """A language model that is a Markov chain: the next token depends on the last alone."""

    def __init__(self, chances):
        super().__init__()
        self.table = nn.Embedding.from_pretrained(torch.tensor(chances).log())

    def forward(self, ids):
        return self.table(ids)


CHANCES = [[0.1, 0.9, 1e-9], [1e-9, 0.3, 0.7], [0.8, 0.1, 0.1]]


def test_sampled_text_has_the_frequencies_of_the_network():
    made = make_inputs(Chain(CHANCES), count=200, length=60)

    ids = torch.cat(made.batches)
    assert ids.shape == (200, 60)
    assert made.kind == "text sampled from the network"
    pairs = torch.zeros(3, 3)
    pairs.index_put_((ids[:, :-1].flatten(), ids[:, 1:].flatten()), torch.ones(()), accumulate=True)
    torch.testing.assert_close(pairs / pairs.sum(1, keepdim=True), torch.tensor(CHANCES), rtol=0, atol=0.03)
    first = ids[:, 0].bincount(minlength=3) / 200
    assert (first - 1 / 3).abs().max() < 0.12


@pytest.mark.slow
def test_a_cache_of_keys_and_values_changes_nothing():
    model = gpt2().model.eval()
    cached = make_inputs(model, count=5, length=20)
    model.config.use_cache = False
    whole = make_inputs(model, count=5, length=20)
    assert all(
        torch.equal(some["input_ids"], others["input_ids"])
        for some, others in zip(cached.batches, whole.batches, strict=True)
    )
    assert calibrate(model, cached.batches).record["samples"] == 100


@pytest.mark.slow
@pytest.mark.traced
def test_what_tells_no_next_token_gets_random_ones_as_long_as_it_takes():
    made = make_inputs(bert().model.eval(), count=6)
    assert made.kind == "random tokens"
    assert [batch["input_ids"].shape for batch in made.batches] == [(4, 32), (2, 32)]
    assert described(made) == "6 inputs made up: random tokens, 32 tokens each, seed 0"


@pytest.mark.slow
@pytest.mark.traced
def test_fitted_inputs_meet_the_statistics_of_the_norms():
    torch.manual_seed(1)
    model = normed()
    with torch.no_grad():
        for _ in range(8):  # something to be met
            model.train()(one_over_f(32, (3, 16, 16), torch.Generator().manual_seed(3)) * 2 + 1)
    model.eval()

    made = make_inputs(model, shape=(3, 16, 16), count=24)

    def mismatch(inputs):
        found = []
        handles = [
            norm.register_forward_pre_hook(
                lambda norm, given: found.append(
                    ((given[0].mean((0, 2, 3)) - norm.running_mean) / norm.running_var.sqrt()).square().mean()
                    + (given[0].var((0, 2, 3)) / norm.running_var).log().square().mean()
                )
            )
            for norm in batch_norms(model).values()
        ]
        with torch.no_grad():
            model(inputs)
        for handle in handles:
            handle.remove()
        return float(torch.stack(found).mean())

    fitted = torch.cat(made.batches)
    assert fitted.shape == (24, 3, 16, 16)
    assert mismatch(fitted) < mismatch(torch.randn(24, 3, 16, 16)) / 5
    assert made.record == {"kind": made.kind, "count": 24, "shape": [3, 16, 16], "seed": 0}


@pytest.mark.slow
def test_the_same_seed_makes_the_same_and_leaves_the_network_alone():
    model = normed().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()

    first, second, other = (
        torch.cat(make_inputs(model, shape=(3, 8, 8), count=4, seed=seed).batches) for seed in (2, 2, 3)
    )

    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_networks_without_norms_get_noise():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    made = make_inputs(network, shape=(3, 8, 8), count=40)
    assert made.kind == "noise with a 1/f spectrum"
    assert [len(batch) for batch in made.batches] == [32, 8]
    assert len(torch.cat(make_inputs(network, shape=(3, 8, 8)).batches)) == 256
    made = make_inputs(nn.Sequential(nn.Linear(7, 3)), count=5000)
    assert made.kind == "standard normal inputs"
    values = torch.cat(made.batches)
    assert values.shape == (5000, 7)
    torch.testing.assert_close(torch.cov(values.T), torch.eye(7), rtol=0, atol=0.1)


def namer():
    """A network that gives noise one and the same of its four answers."""
    torch.manual_seed(4)
    network = nn.Sequential(
        *(nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.Conv2d(6, 8, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(32, 4))
    )
    with torch.no_grad():
        network[5].bias[2] = 0.5
    return network.eval()


@pytest.mark.slow
def test_noise_is_fitted_until_every_class_is_given_alike(monkeypatch):
    network = namer()
    noise = one_over_f(24, (3, 11, 11), torch.Generator().manual_seed(0))
    before, weights = network(noise).argmax(1).bincount(minlength=4), network.state_dict()
    assert before[2] == 24
    made = make_inputs(network, shape=(3, 11, 11), count=24)
    assert made.kind == "noise fitted to all classes alike"
    assert network(torch.cat(made.batches)).argmax(1).bincount(minlength=4).tolist() == [6, 6, 6, 6]
    for name, value in network.state_dict().items():
        assert torch.equal(value, weights[name])
    assert all(parameter.requires_grad for parameter in network.parameters())
    plain = make_inputs(network, shape=(3, 11, 11), count=24, fit=False)
    torch.testing.assert_close(torch.cat(plain.batches), noise)
    monkeypatch.setattr(fitted_images, "MOST_WORK", 1e6)
    made = make_inputs(network, shape=(3, 11, 11), count=24)
    torch.testing.assert_close(torch.cat(made.batches), noise)


@pytest.mark.slow
@pytest.mark.traced
def test_noise_for_an_onnx_model_is_fitted_as_for_the_module(tmp_path):
    network, path = namer(), tmp_path / "net.onnx"
    example = torch.zeros(4, 3, 11, 11)
    exported.quiet(lambda: torch.onnx.export(network, (example,), path, dynamo=True, verbose=False))
    with open_checkpoint(path) as checkpoint:
        made = make_inputs(checkpoint.own_network(), count=8)
    assert made.kind == "noise fitted to all classes alike"
    assert network(torch.cat(made.batches)).argmax(1).bincount(minlength=4).tolist() == [2, 2, 2, 2]


SIZES = torch.tensor([12.0, 8.0, 5.0])


def planted(generator):
    """A network whose first weight has three spikes in noise, and the directions they read."""
    left = torch.linalg.qr(torch.randn(90, 3, generator=generator)).Q
    right = torch.linalg.qr(torch.randn(60, 3, generator=generator)).Q
    network = nn.Sequential(nn.Linear(60, 90), nn.ReLU(), nn.Linear(90, 4))
    with torch.no_grad():
        network[0].weight.copy_(0.03 * torch.randn(90, 60, generator=generator) + left * SIZES @ right.T)
    return network, right


def test_vectors_lie_along_the_spikes_of_the_first_layer():
    """Three directions that were planted in noise: the covariance is theirs and a little white noise."""
    generator = torch.Generator().manual_seed(3)
    network, right = planted(generator)
    made = make_inputs(network, count=4000)
    assert made.kind == "noise along the spikes of the first layer"
    values = torch.cat(made.batches)
    assert float(values.square().mean().sqrt()) == pytest.approx(SIZE, rel=0.01)
    covariance = values.T @ values / len(values)
    wanted = right * SIZES.square() @ right.T
    wanted = SIZE**2 * ((1 - WHITE**2) * 60 / wanted.trace() * wanted + WHITE**2 * torch.eye(60))
    torch.testing.assert_close(covariance, wanted, rtol=0, atol=0.08 * float(wanted.abs().max()))
    # Nothing but noise tells nothing.
    nn.init.normal_(network[0].weight, generator=generator)
    assert make_inputs(network, count=5).kind == "standard normal inputs"


def test_the_amplitude_of_noise_falls_with_the_frequency():
    noise = one_over_f(100, (3, 32, 32), torch.Generator().manual_seed(0))
    power = torch.fft.fft2(noise).abs().square().mean((0, 1))
    assert float(power[0, 2] / power[0, 8]) == pytest.approx(16, rel=0.2)
    assert float(power[3, 4] / power[6, 8]) == pytest.approx(4, rel=0.2)
    colours = torch.corrcoef(noise.transpose(0, 1).flatten(1))
    assert float(colours[0, 1]) == pytest.approx(0.8, abs=0.03)
    assert float(noise.mean()) == pytest.approx(0, abs=1e-5)
    assert float(noise.std()) == pytest.approx(1, abs=1e-5)


def test_the_shape_of_inputs_is_found_where_the_network_tells_it():
    assert input_shape(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), call) == (784,)
    cnn = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 30 * 30, 2))
    assert input_shape(cnn, call) == (3, 32, 32)


def test_inputs_that_all_get_one_answer_are_said_to_tell_nothing_of_the_others():
    network = nn.Sequential(nn.Linear(7, 3))
    made = make_inputs(network, count=60)
    assert not_told_apart(network, made.batches) is None
    with torch.no_grad():
        network[0].bias[1] = 50.0
    said = not_told_apart(network, made.batches)
    assert said.startswith("the network gives 60 of the 60 inputs that it made one and the same answer")
    # One output is no class, and of text every place has an answer.
    assert not_told_apart(nn.Linear(7, 1), make_inputs(nn.Linear(7, 1), count=6).batches) is None
    chain = Chain(CHANCES)
    assert not_told_apart(chain, make_inputs(chain, count=3, length=5).batches) is None


def graph(path, shape):
    """Of a product, or of a convolution and all that it gives."""
    values = {"w": torch.randn(5, 3, 3, 3).numpy() if len(shape) > 2 else torch.randn(5, shape[-1]).numpy()}
    node = ("Conv", {}) if len(shape) > 2 else ("Gemm", {"transB": 1})
    return saved(model([helper.make_node(node[0], ["x", "w"], ["y"], **node[1])], values, {"x": shape}), path)


@pytest.mark.parametrize(
    ("shape", "found"), [(("n", 3, 9, 7), (3, 9, 7)), ((4, 3, 9, 7), (3, 9, 7)), ((2, 8), (8,))]
)
def test_a_graph_tells_the_shape_of_its_input(tmp_path, shape, found):
    with open_checkpoint(graph(tmp_path / "net.onnx", shape)) as checkpoint:
        made = make_inputs(checkpoint.own_network(), count=4)
    assert torch.cat(made.batches).shape == (4, *found)


def test_a_graph_that_takes_images_of_any_size_is_named_in_the_error(tmp_path):
    with (
        open_checkpoint(graph(tmp_path / "net.onnx", ("n", 3, "height", "width"))) as checkpoint,
        pytest.raises(DataError, match=r"net\.onnx: takes 3 channels and images of many sizes; .*--input-shape"),
    ):
        make_inputs(checkpoint.own_network())


@pytest.mark.slow
@pytest.mark.traced
def test_vectors_for_a_program_lie_along_the_spikes_of_its_first_layer(tmp_path):
    network, _ = planted(torch.Generator().manual_seed(3))
    path = tmp_path / "net.pt"
    exported.quiet(lambda: torch.jit.trace(network, torch.zeros(2, 60)).save(path))
    expected = make_inputs(network, count=50)
    with open_checkpoint(path, trust=True) as checkpoint:
        made = make_inputs(checkpoint.own_network(), count=50)
    assert made.kind == expected.kind == "noise along the spikes of the first layer"
    torch.testing.assert_close(torch.cat(made.batches), torch.cat(expected.batches))


def test_the_first_layer_of_an_onnx_model_is_the_one_that_its_nodes_begin_with(tmp_path):
    """Exporters write tensors in an order of their own."""
    network, right = planted(torch.Generator().manual_seed(3))
    first = network[0].weight.detach()
    values = {"last": torch.randn(60, 90).numpy(), "first": first.numpy(), "middle": torch.randn(90, 60).numpy()}
    nodes = [
        helper.make_node("Gemm", ["x", "first"], ["a"], transB=1),
        helper.make_node("Gemm", ["a", "last"], ["b"], transB=1),
        helper.make_node("Gemm", ["b", "middle"], ["y"], transB=1),
    ]
    path = saved(model(nodes, values, {"x": ["n", 60]}), tmp_path / "net.onnx")
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.layers()[0].tensor == "last"
        assert checkpoint.own_network().first_layer.tensor == "first"
        made = make_inputs(checkpoint.own_network(), count=400)
    assert made.kind == "noise along the spikes of the first layer"
    values = torch.cat(made.batches)
    assert float((values @ right).square().sum() / values.square().sum()) > 0.8


@pytest.mark.slow
@pytest.mark.traced
def test_a_program_has_inputs_fitted_to_its_norms_as_the_module_has(tmp_path):
    network = normed().eval()
    with torch.no_grad():
        for norm in batch_norms(network).values():
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
    example = torch.randn(4, 3, 12, 12)
    shapes = ({0: torch.export.Dim("batch")},)
    program = exported.quiet(lambda: torch.export.export(network, (example,), dynamic_shapes=shapes))
    exported.quiet(lambda: torch.export.save(program, tmp_path / "net.pt2"))
    expected = make_inputs(network, shape=(3, 12, 12), count=8)
    with open_checkpoint(tmp_path / "net.pt2") as checkpoint:
        made = make_inputs(checkpoint.own_network(), count=8)
    assert made.kind == expected.kind == "inputs fitted to the statistics of the batch norms"
    assert made.record["shape"] == [3, 12, 12]
    torch.testing.assert_close(torch.cat(made.batches), torch.cat(expected.batches), rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.traced
def test_where_nothing_tells_the_shape_the_error_says_what_to_give():
    with pytest.raises(DataError, match=r"takes 3 channels and images of many sizes; .*--input-shape"):
        make_inputs(normed())
    with pytest.raises(DataError, match="does not tell what inputs it takes"):
        make_inputs(audio_cnn())
    with pytest.raises(DataError, match=r"cannot be run on calibration inputs 2×5×8×8"):
        make_inputs(normed(), shape=(5, 8, 8))
    assert torch.cat(make_inputs(audio_cnn(), shape=(1, 2000), count=3).batches).shape == (3, 1, 2000)
