"""What a network must be for certificates, and the one line that says so where it is none."""

import operator

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import rmt_compress as rmt
from rmt_compress.certificates.network_graph import NetworkGraph
from rmt_compress.data import Dataset
from rmt_compress.errors import CertificateError, EvaluationError, PlanError, SettingsError
from tests.samples.certified import Residual, cnn, cut_plan, lively, mlp


class Written(nn.Module):
    """A head behind what `step` does with the features."""

    def __init__(self, step, features=6):
        super().__init__()
        self.body, self.head, self.step = nn.Linear(6, 6), nn.Linear(features, 3), step
        self.shift = nn.Parameter(torch.ones(6))

    def forward(self, x):
        return self.head(self.step(self, self.body(x)))


def graph_of(model, shape=(6,)):
    model = model.double().eval()
    cut = rmt.compress(model, cut_plan(model, {"body": 1}))
    return NetworkGraph(model, cut, torch.randn(3, *shape).double())


# What is done, and its Lipschitz constant in the Euclidean norm.
KNOWN = (
    (lambda m, x: x.relu(), 1),
    (lambda m, x: functional.relu(input=x, inplace=True), 1),
    (lambda m, x: functional.leaky_relu(x, 3.0), 3),
    (lambda m, x: functional.dropout(x, 0.5, m.training), 1),
    (lambda m, x: x + x, 2),
    (lambda m, x: torch.add(x, torch.tanh(x)), 2),
    (lambda m, x: x + m.shift, 1),
    (lambda m, x: 1 - x, 1),
    (lambda m, x: 2 * x / 4, 0.5),
    (lambda m, x: operator.isub(x, 0.5 * x), 1.5),
    (lambda m, x: x.view(x.size(0), 2, 3).transpose(1, 2).flatten(1), 1),
    (lambda m, x: x.clamp(-1, 1).abs().neg(), 1),
    (lambda m, x: torch.cat([x[:, :3], 3 * x[:, 3:]], 1), 4),
    (lambda m, x: functional.max_pool1d(x[:, None], 2, 1)[:, 0], 2**0.5),
    (lambda m, x: functional.avg_pool1d(x.unsqueeze(1), 2).squeeze(1), 2**-0.5),
    (lambda m, x: functional.sigmoid(x), 0.25),
)


@pytest.mark.parametrize(("step", "constant"), KNOWN, ids=map(str, range(len(KNOWN))))
def test_steps_written_as_functions(step, constant):
    graph = graph_of(Written(step, step(Written(step), torch.zeros(2, 6)).shape[1]))
    (unit,) = graph.cuts
    assert graph.gains(graph.reads(graph.head))[unit.last].two == pytest.approx(constant)


@pytest.mark.parametrize(
    ("model", "words"),
    (
        (lambda: Written(lambda m, x: x.softmax(1)), r"softmax\(\) in its forward: no Lipschitz constant"),
        (lambda: Written(lambda m, x: x * x), r"mul\(\) in its forward: no Lipschitz"),
        (lambda: Written(lambda m, x: torch.add(x, other=x.tanh())), r"add\(\) in its forward: no Lipschitz"),
        (lambda: Written(lambda m, x: x * m.shift), r"mul\(\) in its forward: no Lipschitz"),
        (lambda: Written(lambda m, x: x / 0 if m is None else 0 / x), r"truediv\(\) in its forward"),
        (lambda: Written(lambda m, x: x - x.mean(0)), r"mean\(\) in its forward: it does not keep samples apart"),
        (lambda: Written(lambda m, x: torch.div(x, 2, rounding_mode="floor")), r"div\(\) in its forward"),
        (lambda: Written(lambda m, x: x.t().t()), r"t\(\) in its forward"),
        (lambda: Written(lambda m, x: functional.dropout(x)), r"dropout\(\) in its forward"),
        (lambda: Written(lambda m, x: x if x.sum() > 0 else -x), r"Written: torch\.fx cannot trace it"),
        (
            lambda: nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3)),
            r"Sequential: 1 \(LayerNorm\): no Lipschitz constant of it is known",
        ),
        (
            lambda: nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8, track_running_stats=False)),
            r"1 \(BatchNorm1d\): no Lipschitz",
        ),
        (lambda: nn.Sequential(nn.Unflatten(1, (6, 1)), nn.ConvTranspose1d(6, 2, 1)), r"1 \(ConvTranspose1d\)"),
    ),
)
def test_what_is_not_known_is_named(model, words):
    whole = model().double().eval()
    with pytest.raises(CertificateError, match=words) as caught:
        NetworkGraph(whole, whole, torch.randn(3, 6).double())
    assert "\n" not in str(caught.value)


def test_a_layer_and_its_norm_are_one():
    model = lively(Residual()).double()
    graph = NetworkGraph(model, model, torch.randn(3, 2, 8, 8).double())
    assert [unit.paths for unit in graph.units if len(unit.paths) == 2] == [
        ("stem", "stem_norm"),
        ("conv1", "norm1"),
        ("conv2", "norm2"),
        ("short.0", "short.1"),
    ]
    assert graph.head.name == "head"
    assert graph.cuts == []
    bare = lively(cnn()).double()
    apart = [unit.paths for unit in NetworkGraph(bare, bare, torch.randn(3, 2, 8, 8).double()).units]
    assert apart == [("conv1", "norm1"), ("conv2",), ("fc1", "norm"), ("fc2",)]


def test_inputs_and_networks_stay_as_they_are():
    """Steps in place work on copies, and the values of the original network are those of the network."""
    model = lively(Residual()).double()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    inputs = torch.randn(4, 2, 8, 8).double()
    graph = NetworkGraph(model, model, inputs[:3])
    with torch.inference_mode():
        torch.testing.assert_close(graph.run(inputs)[-1], model(inputs))
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def made(targets, shape=(12,), classes=5):
    return Dataset("made", "test", torch.randn(len(targets), *shape), torch.as_tensor(targets), classes)


def test_certify_takes_a_plan_or_the_network_that_was_cut():
    model = mlp()
    plan, data = cut_plan(model, {"fc1": 4, "fc2": 3}), made(np.arange(20) % 5)
    by_plan, steps = rmt.certify(model, plan, data, batch_size=7), []
    by_network = rmt.certify(model, rmt.compress(model, plan), data, progress=lambda *each: steps.append(each))
    assert by_plan.samples == by_network.samples == 20
    assert [layer.name for layer in by_plan.layers] == ["fc1", "fc2"]
    assert [layer.rank for layer in by_plan.layers] == [4, 3]
    # The network was cut in float32, the plan is carried out in float64.
    np.testing.assert_allclose(by_plan.bound, by_network.bound, rtol=1e-4)
    assert steps == [(20, 20, "")]
    assert by_plan.violations == 0
    assert next(model.parameters()).dtype == torch.float32


def _normed():
    return nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.LayerNorm(8), nn.Linear(8, 5)).eval()


def test_what_cannot_be_certified_is_one_line():
    model, labels = mlp(), np.arange(20) % 5
    plan = cut_plan(model, {"fc1": 4})
    cases = (
        (PlanError, "changes no layer", (cut_plan(model, {}), made(labels))),
        (SettingsError, "has 9 classes", (plan, made(np.arange(20) % 9, classes=9))),
        (EvaluationError, "cannot take inputs of 7", (plan, made(labels, (7,)))),
        (CertificateError, "the cut network has no fc1", (nn.Sequential(nn.Linear(12, 5)), made(labels))),
    )
    for error, words, arguments in cases:
        with pytest.raises(error, match=words):
            rmt.certify(model, *arguments)
    # Where it comes from a file, the line names that.
    for name, called in ((None, "Sequential"), ("net.pt", "net.pt")):
        with pytest.raises(CertificateError, match=rf"^{called}: 2 \(LayerNorm\)"):
            rmt.certify(_normed(), cut_plan(_normed(), {"0": 2}), made(labels), name=name)
