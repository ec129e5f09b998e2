"""No answer moves farther than its bound: on random networks, under random search, and against the Jacobian."""

import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from torch import nn

import rmt_compress as rmt
from rmt_compress.certificates.averaged import averaged_distances, last_links
from rmt_compress.certificates.network_graph import NetworkGraph
from rmt_compress.certificates.tally import Tally, confidences
from rmt_compress.certificates.telescoping import BOUNDS, Telescope
from tests.samples.certified import Residual, cnn, cut_plan, lively, mlp

NETWORKS = {
    "mlp": (mlp, (12,), {"fc1": 3, "fc2": 4}),
    "mlp, last layer too": (lambda: mlp(activation=nn.Tanh), (12,), {"fc2": 4, "fc3": 3}),
    "mlp, activation at the end": (lambda: mlp(final=True), (12,), {"fc1": 3, "fc3": 2}),
    "cnn": (lambda: lively(cnn()), (2, 8, 8), {"conv2": 3, "fc1": 4}),
    "residual": (lambda: lively(Residual()), (2, 8, 8), {"conv1": 2, "conv2": 3, "short.0": 1}),
}


def certified(build, shape, ranks, count=40, **asked):
    """Both networks in float64, their telescope, inputs and classes."""
    model = build().double()
    cut = rmt.compress(model, cut_plan(model, ranks, **asked))
    inputs = torch.randn(count, *shape).double()
    labels = torch.randint(5, (count,))
    return model, cut, Telescope(NetworkGraph(model, cut, inputs[:3])), inputs, labels


@pytest.mark.parametrize("name", NETWORKS)
def test_no_violation_and_certified_below_measured(name):
    build, shape, ranks = NETWORKS[name]
    model, cut, telescope, inputs, labels = certified(build, shape, ranks, sparsify=0.05)
    assert sorted(unit.name for unit in telescope.graph.cuts) == sorted(ranks)
    # Half of the samples have the class that the network names.
    with torch.inference_mode():
        answers = model(inputs)
        labels[::2] = answers.argmax(1)[::2]
        tally = Tally(telescope, cut)
        tally.add(inputs[:30], labels[:30])
        tally.add(inputs[30:], labels[30:])
        found = tally.certificate("made up")
        after = cut(inputs)
    assert found.samples == 40
    assert found.violations == 0
    assert found.accuracy_before == (answers.argmax(1) == labels).double().mean().item()
    assert found.accuracy_after == (after.argmax(1) == labels).double().mean().item()
    assert found.accuracy_certified <= found.accuracy_after
    assert found.same_answer_certified <= found.same_answer
    assert found.loss_after <= found.loss_certified
    assert all(found.bounds["best"].bound.median <= found.bounds[each].bound.median + 1e-12 for each in BOUNDS)
    moved = (confidences(after, labels) - confidences(answers, labels)).abs().numpy()
    assert (moved <= found.bound).all()
    assert moved.max() > 0


@pytest.mark.parametrize("name", NETWORKS)
def test_every_pair_of_classes_by_every_bound(name):
    """Δ(X_i − X_j) of one cut after another, and of all of them."""
    model, cut, telescope, inputs, labels = certified(*NETWORKS[name])
    with torch.inference_mode():
        values = telescope.graph.run(inputs)
        whole = values[telescope.graph.result]
        chain = [whole, *telescope.measured(inputs, values)]
        moves = telescope.moves(values)
        expected = cut(inputs)
        for bound in BOUNDS:
            total = 0
            for step, move in enumerate(reversed(moves)):
                change = chain[step + 1] - chain[step]
                pairs = (change.gather(1, labels[:, None]) - change).abs()
                allowed = telescope.bounds(move, labels)[bound]
                assert (pairs <= allowed + 1e-12).all()
                total = total + allowed
            change = expected - model(inputs)
            assert ((change.gather(1, labels[:, None]) - change).abs() <= total + 1e-12).all()
    # The telescope ends at the cut network itself; what it leaves out is the same for all classes.
    torch.testing.assert_close(chain[-1].log_softmax(1), expected.log_softmax(1))


@given(
    st.integers(0, 10**6),
    st.lists(st.integers(2, 9), min_size=3, max_size=5),
    st.sampled_from((nn.ReLU, nn.Tanh, nn.SiLU, nn.Softplus)),
    st.integers(1, 3),
    st.booleans(),
)
@settings(max_examples=15)
def test_random_small_networks(seed, sizes, activation, rank, final):
    torch.manual_seed(seed)
    build = partial(mlp, (*sizes, 5), activation, final=final)
    ranks = {
        f"fc{index}": min(rank, *pair) for index, pair in enumerate(zip(sizes, (*sizes[1:], 5), strict=True), 1)
    }
    _, cut, telescope, inputs, labels = certified(build, (sizes[0],), ranks, count=6, action="truncated")
    with torch.inference_mode():
        tally = Tally(telescope, cut)
        tally.add(inputs, labels)
    assert tally.certificate("made up").violations == 0


@pytest.mark.slow
def test_ten_thousand_tries_find_no_violation():
    """Inputs of all sizes, and steps uphill from the worst of them."""
    tries = 0
    for build, shape, ranks in NETWORKS.values():
        count = 300 if len(shape) == 1 else 50
        _, cut, telescope, inputs, labels = certified(build, shape, ranks, count=count)
        worst = 0.0
        for turn in range(10):
            with torch.inference_mode():
                values = telescope.graph.run(inputs)
                change = cut(inputs) - values[-1]
                moved = (change.gather(1, labels[:, None]) - change).abs()
                allowed = sum(telescope.bounds(move, labels)["best"] for move in telescope.moves(values))
            share = torch.where(moved > 0, moved / allowed, 0.0).amax(1)
            worst, tries = max(worst, share.max().item()), tries + count
            best = inputs[share.argsort(descending=True)[: count // 10]].repeat(10, *[1] * len(shape))
            size = 10.0 ** torch.randint(-2, 2, (count, *[1] * len(shape)))
            inputs = best + size * torch.randn_like(best) if turn % 2 else 3 * size * torch.randn_like(best)
        assert 0 < worst <= 1 + 1e-9
    assert tries == 10_000


@pytest.mark.parametrize("name", NETWORKS)
def test_lipschitz_constants_are_above_the_jacobians(name):
    """The norm of the Jacobian of what follows a cut, by autograd, at every sample."""
    _, _, telescope, inputs, _ = certified(*NETWORKS[name], count=5)
    graph = telescope.graph
    values = graph.run(inputs)
    for unit in graph.cuts:
        limit = telescope.lipschitz(unit) / math.sqrt(2)
        for sample in range(len(inputs)):
            known = [each[sample : sample + 1] if isinstance(each, torch.Tensor) else each for each in values]

            def behind(output, known=known, unit=unit):
                head = [*known[: unit.last], output]
                return graph.run(inputs[:1], head, graph.cuts)[graph.result]

            jacobian = torch.autograd.functional.jacobian(behind, known[unit.last].detach())
            assert torch.linalg.matrix_norm(jacobian.flatten(1).reshape(5, -1), 2).item() <= limit + 1e-9


def test_bounds_are_above_the_exact_constants_by_linear_programs():
    """Of two ReLU layers behind a cut: which patterns of slopes there are, a linear program each, says all."""
    model = mlp((3, 4, 3, 5)).double()
    telescope = Telescope(
        NetworkGraph(model, rmt.compress(model, cut_plan(model, {"fc1": 1})), torch.ones(3, 3).double())
    )
    second, last = (model.get_submodule(name).weight.detach().numpy() for name in ("fc2", "fc3"))
    offset = model.fc2.bias.detach().numpy()
    norms, distances = [], []
    for slopes in itertools.product((0, 1), repeat=7):
        first, behind = np.array(slopes[:4]), np.array(slopes[4:])
        inner, outer = np.diag(2 * first - 1), np.diag(2 * behind - 1)
        # The largest t ≤ 1 with every sign right by t, over the values z of the cut layer: any above 0 will do.
        signs = np.vstack((inner, outer @ second @ np.diag(first)))
        limits = np.concatenate((np.zeros(4), outer @ offset))
        rows = np.hstack((-signs, np.ones((7, 1))))
        found = linprog([0, 0, 0, 0, -1], rows, limits, bounds=[(-1e3, 1e3)] * 4 + [(None, 1)])
        if found.x[-1] > 1e-9:
            jacobian = last @ np.diag(behind) @ second @ np.diag(first)
            norms.append(np.linalg.norm(jacobian, 2))
            distances.append(np.linalg.norm(jacobian[:, None] - jacobian[None], axis=2))
    assert 16 < len(norms) < 128
    exact = max(norms)
    (unit,) = telescope.graph.cuts
    assert exact <= telescope.lipschitz(unit) / math.sqrt(2)
    table = averaged_distances([torch.from_numpy(last), torch.from_numpy(second)])[1].numpy()
    assert (np.max(distances, axis=0) <= table + 1e-12).all()
    # What is met on the way is never above it, and comes near.
    z = 10 * torch.randn(3000, 4).double()
    slopes = (z > 0).double(), (model.fc2(z.relu()) > 0).double()
    met = torch.einsum("oh,nh,hi,ni->noi", model.fc3.weight, slopes[1], model.fc2.weight, slopes[0])
    assert 0.9 * exact < torch.linalg.matrix_norm(met, 2).max().item() <= exact + 1e-12


def test_a_single_linear_layer_is_exact():
    """Of one layer the change of every difference of classes is known as it is."""
    model = nn.Sequential(nn.Linear(6, 5)).double().eval()
    cut = rmt.compress(model, cut_plan(model, {"0": 2}))
    inputs, labels = torch.randn(50, 6).double(), torch.randint(5, (50,))
    telescope = Telescope(NetworkGraph(model, cut, inputs[:3]))
    with torch.inference_mode():
        (move,) = telescope.moves(telescope.graph.run(inputs))
        change = cut(inputs) - model(inputs)
        bounds = telescope.bounds(move, labels)
    torch.testing.assert_close(bounds["sharp"], (change.gather(1, labels[:, None]) - change).abs())
    torch.testing.assert_close(bounds["lemma"][:, 0], math.sqrt(2) * change.norm(dim=1))
    torch.testing.assert_close(bounds["infinity"][:, 0], 2 * change.abs().amax(1))


def test_the_bound_of_the_lemma_by_hand():
    model = mlp().double()
    cut = rmt.compress(model, cut_plan(model, {"fc1": 3}))
    inputs, labels = torch.randn(20, 12).double(), torch.zeros(20, dtype=torch.long)
    telescope = Telescope(NetworkGraph(model, cut, inputs[:3]))
    removed = model.fc1.weight - cut.fc1.up.weight @ cut.fc1.down.weight
    norms = [torch.linalg.matrix_norm(model.get_submodule(name).weight, 2) for name in ("fc2", "fc3")]
    expected = math.sqrt(2) * norms[0] * norms[1] * (inputs @ removed.T).norm(dim=1)
    with torch.inference_mode():
        (move,) = telescope.moves(telescope.graph.run(inputs))
        found = telescope.bounds(move, labels)["lemma"]
    torch.testing.assert_close(found[:, 0], expected.detach())


@given(st.integers(0, 10**6), st.lists(st.integers(1, 6), min_size=2, max_size=4))
@settings(max_examples=20)
def test_the_averaged_bound_lies_between_what_happens_and_the_product_of_norms(seed, sizes):
    """For every choice of slopes in [0, 1], the largest of which are at corners, and never above the product."""
    torch.manual_seed(seed)
    weights = [torch.randn(rows, columns).double() for rows, columns in itertools.pairwise((3, *sizes))]
    *_, table = averaged_distances(weights)
    product = torch.cdist(weights[0], weights[0])
    for weight in weights[1:]:
        product = product * torch.linalg.matrix_norm(weight, 2)
    assert (table <= product + 1e-6).all()
    for _ in range(30):
        jacobian = weights[0]
        for weight in weights[1:]:
            jacobian = jacobian * torch.randint(2, (jacobian.shape[1],)) @ weight
        assert (torch.cdist(jacobian, jacobian, compute_mode="donot_use_mm_for_euclid_dist") <= table + 1e-9).all()


def test_the_chain_ends_where_something_else_stands():
    """Convolutions, pools and activations of other slopes are outside; norms of channels belong to their layer."""
    reads = {}
    for name, build in {"relu": mlp, "silu": lambda: mlp(activation=nn.SiLU), "cnn": lambda: lively(cnn())}.items():
        model = build().double()
        example = torch.randn(3, *((2, 8, 8) if name == "cnn" else (12,))).double()
        graph = NetworkGraph(model, model, example)
        reads[name] = [str(graph.steps[link.reads]) for link in last_links(graph)]
    assert reads["relu"] == ["act2", "act1", "input_1"]
    assert reads["silu"] == ["act2"]
    assert reads["cnn"] == ["relu2", "dropout"]
