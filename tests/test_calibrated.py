"""Cuts in the metric of method.md §13: directions, predicted loss, biases, and every road that carries them out."""

import json
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import rmt_compress as rmt
from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.compression import Compressed
from rmt_compress.data import Dataset
from rmt_compress.decomposition.bases import BASES, Directions, directions_of
from rmt_compress.decomposition.metrics import Shrinkage
from rmt_compress.decomposition.moments import LayerMoments, Moments
from rmt_compress.decomposition.svd import decompose
from rmt_compress.errors import PlanError
from rmt_compress.layers import Layer, as_matrix
from rmt_compress.plan import LayerDecision, Plan
from rmt_compress.saving.writing import write
from rmt_compress.sweep.target import SweepTarget
from tests.samples.moments import moments_of, random_moments

RAW = Shrinkage(0.0, 0.0)


def linear(rows, columns):
    return Layer("fc", "fc.weight", "linear", (rows, columns), "float64")


def root(moment, power=0.5):
    return torch.from_numpy(np.real(scipy.linalg.fractional_matrix_power(moment.numpy(), power)))


def loss(change, moments, metric):
    """½‖G^½ ΔW C^½‖², as it stands in method.md."""
    felt = torch.eye(len(moments.outputs)).double() if metric == "input" else moments.outputs
    return 0.5 * float(torch.trace(felt @ change @ moments.inputs @ change.T))


@pytest.mark.parametrize("metric", ("input", "two-sided"))
@pytest.mark.parametrize("shape", ((12, 20), (20, 12), (15, 15)))
def test_directions_are_those_of_the_formula(metric, shape, rng):
    weight = torch.from_numpy(rng.standard_normal(shape))
    moments = random_moments(shape[1], shape[0], rng)
    felt = torch.eye(shape[0]).double() if metric == "input" else moments.outputs
    u, s, vt = torch.linalg.svd(root(felt) @ weight @ root(moments.inputs), full_matrices=False)
    found = Directions(linear(*shape), BASES[metric], moments, RAW).decompose(weight)
    torch.testing.assert_close(found.s, s, rtol=1e-9, atol=0)
    for rank in (1, 5, 12):
        up = root(felt, -0.5) @ u[:, :rank] * s[:rank].sqrt()
        down = s[:rank, None].sqrt() * vt[:rank] @ root(moments.inputs, -0.5)
        torch.testing.assert_close(found.truncated(rank), up @ down, rtol=1e-7, atol=1e-9)
        change = weight - found.truncated(rank)
        assert loss(change, moments, metric) == pytest.approx(0.5 * float((s[rank:] ** 2).sum()), abs=1e-9)
    torch.testing.assert_close(found.truncated(min(shape)), weight)


@pytest.mark.parametrize("metric", ("input", "two-sided"))
def test_no_other_cut_of_the_rank_costs_less(metric, rng):
    weight = torch.from_numpy(rng.standard_normal((16, 24)))
    moments = random_moments(24, 16, rng)
    best = loss(
        weight - Directions(linear(16, 24), BASES[metric], moments, RAW).decompose(weight).truncated(4),
        moments,
        metric,
    )
    down, _ = decompose(weight).factors(4)
    felt = torch.eye(16).double() if metric == "input" else moments.outputs
    for _ in range(300):  # alternating least squares, which comes down to the best cut
        up = weight @ moments.inputs @ down.T @ torch.linalg.inv(down @ moments.inputs @ down.T)
        down = torch.linalg.inv(up.T @ felt @ up) @ up.T @ felt @ weight
    assert loss(weight - up @ down, moments, metric) == pytest.approx(best, rel=1e-6)
    assert loss(weight - decompose(weight).truncated(4), moments, metric) > 1.05 * best


def test_factors_are_balanced_and_of_the_weights_type(rng):
    weight = torch.from_numpy(rng.standard_normal((12, 20))).to(torch.float16)
    found = Directions(linear(12, 20), BASES["two-sided"], random_moments(20, 12, rng)).decompose(weight)
    down, up = found.factors(6)
    assert (down.dtype, up.dtype, down.shape, up.shape) == (torch.float16, torch.float16, (6, 20), (12, 6))
    torch.testing.assert_close(down.float().norm(dim=1), up.float().norm(dim=0), rtol=5e-3, atol=0)
    torch.testing.assert_close((up @ down).float(), found.truncated(6).float(), rtol=0.02, atol=0.02)


def test_shrinkage_goes_from_the_moments_to_a_multiple_of_the_identity(rng):
    weight = torch.from_numpy(rng.standard_normal((10, 14)))
    moments = random_moments(14, 10, rng)
    layer = linear(10, 14)
    half = Shrinkage(0.5, 0.25)
    by_hand = LayerMoments(
        0.5 * moments.inputs + 0.5 * moments.inputs.trace() / 14 * torch.eye(14),
        moments.mean,
        0.75 * moments.outputs + 0.25 * moments.outputs.trace() / 10 * torch.eye(10),
        1,
    )
    shrunk = Directions(layer, BASES["two-sided"], moments, half).decompose(weight)
    expected = Directions(layer, BASES["two-sided"], by_hand, RAW).decompose(weight)
    torch.testing.assert_close(shrunk.truncated(4), expected.truncated(4))
    whole = Directions(layer, BASES["two-sided"], moments, Shrinkage(1.0, 1.0)).decompose(weight)
    torch.testing.assert_close(whole.truncated(4), decompose(weight).truncated(4))


def test_a_diagonal_and_a_single_number_are_the_matrices_they_stand_for(rng):
    weight = torch.from_numpy(rng.standard_normal((10, 14)))
    moments = random_moments(14, 10, rng, mean=False)
    layer = linear(10, 14)
    for two in (BASES["two-sided"], BASES["input"]):
        short = replace(moments, inputs=moments.inputs.diagonal().clone(), outputs=torch.tensor(2.5).double())
        long = replace(moments, inputs=torch.diag(short.inputs), outputs=2.5 * torch.eye(10).double())
        a, b = (Directions(layer, two, each, Shrinkage(0.1, 0.1)).decompose(weight) for each in (short, long))
        torch.testing.assert_close(a.s, b.s)
        torch.testing.assert_close(a.truncated(3), b.truncated(3))
    none = Directions(layer, BASES["two-sided"], replace(moments, outputs=None), RAW).decompose(weight)
    inputs = Directions(layer, BASES["input"], moments, RAW).decompose(weight)
    assert torch.equal(none.truncated(3), inputs.truncated(3))


def test_directions_that_do_not_occur_are_no_trouble(rng):
    weight = torch.from_numpy(rng.standard_normal((30, 20))).float()
    few = torch.from_numpy(rng.standard_normal((8, 20)))
    moments = LayerMoments(few.T @ few / 8, few.mean(0), torch.zeros(30, 30).double(), 8)
    found = Directions(linear(30, 20), BASES["input"], moments, RAW).decompose(weight)
    torch.testing.assert_close(found.truncated(8).double() @ few.T, weight.double() @ few.T, rtol=1e-4, atol=1e-4)
    assert torch.isfinite(found.truncated(20)).all()
    dead = Directions(linear(30, 20), BASES["two-sided"], moments).decompose(weight)
    assert not dead.s.any()
    torch.testing.assert_close(dead.truncated(5), decompose(weight).truncated(5))


@pytest.mark.parametrize("kind", ("conv2d", "conv_transpose2d", "linear_transposed"))
def test_each_side_of_a_matrix_has_its_own_moments(kind, rng):
    """A transposed convolution's rows are its inputs; GPT-2's Conv1D is stored the other way round."""
    shape = (6, 5) if kind == "linear_transposed" else (6, 5, 3, 2)
    layer = Layer("c", "c.weight", kind, shape, "float64")
    weight = torch.from_numpy(rng.standard_normal(shape))
    rows, columns = layer.matrix
    inputs, outputs = (rows, columns) if kind == "conv_transpose2d" else (columns, rows)
    moments = random_moments(inputs, outputs, rng)
    found = Directions(layer, BASES["two-sided"], moments, RAW).decompose(weight)
    sides = (moments.inputs, moments.outputs) if kind == "conv_transpose2d" else (moments.outputs, moments.inputs)
    values = torch.linalg.svdvals(root(sides[0]) @ as_matrix(layer, weight) @ root(sides[1]))
    torch.testing.assert_close(found.s, values)


def test_every_matrix_of_a_stack_is_cut_by_its_own_moments(rng):
    layer = Layer("experts", "experts.up", "stack", (3, 8, 10), "float64")
    weight = torch.from_numpy(rng.standard_normal((3, 8, 10)))
    each = [random_moments(10, 8, rng) for _ in range(3)]
    stacked = LayerMoments(
        *(torch.stack([getattr(one, name) for one in each]) for name in ("inputs", "mean", "outputs")), 9
    )
    cut = Directions(layer, BASES["two-sided"], stacked, RAW).decompose(weight).truncated(3)
    for number, own in enumerate(each):
        alone = Directions(linear(8, 10), BASES["two-sided"], own, RAW).decompose(weight[number]).truncated(3)
        torch.testing.assert_close(cut[number], alone)


@pytest.fixture
def images():
    return torch.randn(64, 3, 6, 6, generator=torch.Generator().manual_seed(2)) + 0.5


@pytest.fixture
def model():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(432, 40),
        nn.ReLU(),
        nn.Linear(40, 10, bias=False),
    ).eval()


def plan_of(model, basis, rank=3, action="factorized", **changes):
    decisions = [
        LayerDecision(
            name=layer.name, tensor=layer.tensor, kind=layer.kind, shape=layer.shape, action=action, rank=rank
        )
        for layer in open_checkpoint(model).layers()
        if layer.matrix is not None
    ]
    return Plan(basis=basis, layers=tuple(decisions), **changes)


@pytest.mark.parametrize("basis", ("input", "two-sided"))
@pytest.mark.parametrize("action", ("factorized", "truncated"))
def test_the_bias_takes_up_the_mean_of_what_is_cut(basis, action, model, images):
    moments = moments_of(model, images)
    small = rmt.compress(model, plan_of(model, basis, action=action), moments)
    torch.testing.assert_close(
        small[0](images).mean((0, 2, 3)), model[0](images).mean((0, 2, 3)), rtol=0, atol=1e-5
    )
    between = model[:3](images)
    assert (small[3](between) - model[3](between)).abs().max() > 0.01
    torch.testing.assert_close(small[3](between).mean(0), model[3](between).mean(0), rtol=0, atol=1e-5)
    plain = rmt.compress(model, plan_of(model, "plain", action=action))
    assert (plain[3](between).mean(0) - model[3](between).mean(0)).abs().max() > 1e-3


def test_predicted_and_true_errors_of_the_outputs_agree(model, images):
    moments = moments_of(model, images)
    layers = open_checkpoint(model).layers()
    found = directions_of(layers, BASES["input"], moments, RAW)["3.weight"].decompose(model[3].weight)
    small = rmt.compress(model, plan_of(model, "input", shrinkage={"inputs": 0.0, "outputs": 0.0}), moments)
    between = model[:3](images)
    error = (small[3](between) - model[3](between)).double().square().sum(1).mean()
    assert float(error.detach()) == pytest.approx(float((found.s[3:] ** 2).sum()), rel=1e-4)


def test_all_roads_write_the_same(model, images, tmp_path):
    """A module, a state dict, a file, layout dense, and a file read in another order."""
    moments, plan = moments_of(model, images), plan_of(model, "two-sided")
    expected = rmt.compress(model, plan, moments)(images)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    state = rmt.compress(model.state_dict(), plan, moments)
    assert "3.up.bias" in state
    with Compressed(open_checkpoint(tmp_path / "model.safetensors"), plan, moments=moments) as view:
        backwards = {name: view.read(name) for name in reversed(list(view.tensors))}
        write(view, tmp_path / "small.safetensors")
    assert all(torch.equal(backwards[name], state[name]) for name in state)
    loaded = rmt.load(tmp_path / "small.safetensors", model=deepcopy(model))
    torch.testing.assert_close(loaded(images), expected, rtol=1e-5, atol=1e-5)
    with Compressed(open_checkpoint(tmp_path / "model.safetensors"), plan, moments=moments, layout="dense") as view:
        write(view, tmp_path / "dense.safetensors")
    assert not torch.equal(load_file(tmp_path / "dense.safetensors")["3.bias"], model[3].bias)
    torch.testing.assert_close(
        rmt.load(tmp_path / "dense.safetensors", model=deepcopy(model))(images), expected, rtol=1e-5, atol=1e-5
    )
    dense = rmt.compress(model, plan, moments, layout="dense")
    torch.testing.assert_close(dense(images), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("suffix", (".onnx", ".pt2"))
def test_a_graph_gets_the_biases_too(suffix, model, images, tmp_path):
    path = tmp_path / f"model{suffix}"
    if suffix == ".onnx":
        torch.onnx.export(model, (images,), path, dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "n"}})
    else:
        torch.export.save(torch.export.export(model, (images,)), path)
    with open_checkpoint(path) as checkpoint:
        names = {layer.shape: layer.tensor for layer in checkpoint.layers() if layer.matrix is not None}
        ours = {tuple(model.get_parameter(name).shape): name for name in ("0.weight", "3.weight", "5.weight")}
        moments = moments_of(model, images)
        theirs = {}
        for shape, name in names.items():
            own = ours.get(shape) or ours[shape[::-1]]
            theirs[name] = moments.layers[own]
        plan = plan_of(path, "two-sided")
        expected = rmt.compress(model, plan_of(model, "two-sided"), moments)(images)
        with Compressed(checkpoint, plan, moments=Moments(theirs)) as view:
            write(view, tmp_path / f"small{suffix}")
    with open_checkpoint(tmp_path / f"small{suffix}") as small:
        torch.testing.assert_close(small.own_network()(images), expected, rtol=1e-4, atol=1e-4)


def test_parts_of_one_tensor_have_parts_of_one_bias(rng):
    torch.manual_seed(0)
    model = nn.MultiheadAttention(12, 2, batch_first=True)
    with torch.no_grad():
        model.in_proj_bias.normal_()
    own = random_moments(12, 12, rng)
    moments = Moments({f"in_proj_weight[{part}]": own for part in "qv"}, {"in_proj_weight[k]": "never run"})
    parts = [layer for layer in open_checkpoint(model).layers() if layer.part]
    plan = Plan(
        basis="two-sided",
        layers=tuple(
            LayerDecision(name=x.name, tensor=x.tensor, kind=x.kind, shape=x.shape, action="truncated", rank=4)
            for x in parts
        ),
    )
    outcomes = []
    small = rmt.compress(model, plan, moments, outcomes=outcomes)
    change = (model.in_proj_weight - small.in_proj_weight).double().detach()
    gain = (small.in_proj_bias - model.in_proj_bias).double().detach()
    expected = change @ own.mean
    expected[12:24] = 0
    torch.testing.assert_close(gain, expected, rtol=1e-4, atol=1e-5)
    plain = decompose(model.in_proj_weight[12:24].detach(), 4).truncated(4)
    torch.testing.assert_close(small.in_proj_weight[12:24], plain, rtol=0, atol=1e-6)
    assert {x.tensor: "plain directions: never run" in x.reason for x in outcomes if x.rank} == {
        "in_proj_weight[q]": False,
        "in_proj_weight[k]": True,
        "in_proj_weight[v]": False,
    }


def test_the_sweep_cuts_as_compress_does(model, images):
    moments = moments_of(model, images)
    dataset = Dataset("made", "test", images, torch.arange(64) % 10, 10)
    target = SweepTarget(model, rmt.analyze(model, min_size=8), dataset, basis="two-sided", moments=moments)
    names = {layer.tensor: layer for layer in target.analysis.analyzed}
    seen = []
    model.register_forward_hook(lambda module, given, output: seen.append(output))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    target.score_with({name: target.truncated(layer, 3) for name, layer in names.items()})
    expected = rmt.compress(model, plan_of(model, "two-sided"), moments)(images)
    torch.testing.assert_close(torch.cat(seen[:-1] if len(seen) > 1 else seen), expected, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_what_does_not_suit_is_one_line(model, images, rng):
    moments, plan = moments_of(model, images), plan_of(model, "input")
    with pytest.raises(PlanError, match=r"^the plan asks for the basis input, which needs the moments"):
        rmt.compress(model, plan)
    other = Moments({"encoder.weight": random_moments(4, 4, rng)})
    with pytest.raises(PlanError, match=r"^the moments are not those of this network: there is no layer encoder"):
        rmt.compress(model, plan, other)
    with pytest.raises(PlanError, match="they are of no layer at all"):
        rmt.compress(model, plan, Moments({}))
    wrong = Moments({**moments.layers, "3.weight": random_moments(40, 432, rng)})
    with pytest.raises(PlanError, match=r"3\.weight: its inputs are 40×40, not 432×432; calibrate it anew$"):
        rmt.compress(model, plan, wrong)
    broken = replace(moments.layers["3.weight"], mean=torch.full((432,), float("nan")))
    with pytest.raises(PlanError, match=r"3\.weight: its mean hold NaN or Inf"):
        rmt.compress(model, plan, Moments({**moments.layers, "3.weight": broken}))


def test_the_plan_carries_shrinkage_and_predicted_loss():
    decision = LayerDecision(name="a", tensor="a.weight", kind="linear", shape=(4, 4), action="kept")
    plain = Plan(layers=(decision,))
    assert not {"shrinkage", "predicted_loss"} & set(plain.to_json().replace('"', " ").split())
    plan = Plan(
        basis="two-sided",
        shrinkage={"inputs": 0.01, "outputs": 0.3},
        layers=(decision.model_copy(update={"predicted_loss": 0.125}),),
    )
    assert Plan.from_json(plan.to_json()) == plan
    assert json.loads(plan.to_json())["shrinkage"] == {"inputs": 0.01, "outputs": 0.3}
    assert json.loads(plan.to_json())["layers"][0]["predicted_loss"] == 0.125
    with pytest.raises(PlanError, match="shrinkage"):
        Plan.from_json(plan.to_json().replace("0.3", "1.3"))
