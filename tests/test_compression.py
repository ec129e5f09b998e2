"""Plans carried out on modules, state dicts and files: the same tensors, and nothing else changed."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import parametrizations

from rmt_compress import analyze
from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.compression import (
    Compressed,
    compress,
    compress_weight,
)
from rmt_compress.errors import CompressionError, PlanError
from rmt_compress.layers import Layer
from rmt_compress.plan import LayerDecision, Plan
from rmt_compress.planning.making import make_plan


class Net(nn.Module):
    """Something of everything."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(16, 64, 3, stride=2, padding="valid")
        self.norm = nn.BatchNorm2d(64)
        self.back = nn.ConvTranspose2d(64, 48, 3, stride=2, bias=False)
        self.fc = nn.Linear(48, 96)
        self.out = nn.Linear(96, 10)

    def forward(self, inputs):
        hidden = self.back(self.norm(self.conv(inputs)).relu()).mean((2, 3))
        return self.out(self.fc(hidden).relu())


@pytest.fixture
def net():
    return Net().eval()


def plan_of(source, **settings):
    return make_plan(analyze(source), **({"rule": "rank:20"} | settings))


def decide(tensor, kind, shape, **changes):
    return LayerDecision(name=tensor, tensor=tensor, kind=kind, shape=shape, **changes)


def truncated(weight, rank):
    u, s, vt = np.linalg.svd(weight.detach().double().flatten(1).numpy(), full_matrices=False)
    return torch.from_numpy((u[:, :rank] * s[:rank]) @ vt[:rank]).reshape(weight.shape).float()


INPUTS = (2, 16, 9, 9)


def test_module_of_stock_layers(net):
    small = compress(net, plan_of(net))
    assert [name for name, _ in small.named_modules() if name.count(".") == 1] == [
        f"{name}.{part}" for name in ("conv", "back", "fc") for part in ("down", "up")
    ]
    assert type(small.conv) is nn.Sequential
    assert type(small.out) is nn.Linear
    # A dense network with the truncated weights is what it computes.
    for name in ("conv", "back", "fc"):
        weight = net.get_submodule(name).weight
        weight.data = truncated(weight, 20)
    inputs = torch.randn(INPUTS)
    torch.testing.assert_close(small(inputs), net(inputs), atol=1e-5, rtol=1e-4)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in Net().parameters())


def test_the_module_is_copied_unless_told_otherwise(net):
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    plan = plan_of(net, sparsify=0.01, when_not_smaller="truncate")
    small = compress(net, plan)
    assert small is not net
    assert list(net.state_dict()) == list(before)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert compress(net, plan, inplace=True) is net
    assert list(net.state_dict()) == list(small.state_dict())
    assert all(torch.equal(tensor, small.state_dict()[name]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize("layout", ("factorized", "dense"))
@pytest.mark.parametrize(
    "settings", ({}, {"sparsify": 0.02}, {"sparsity": 0.7}, {"rule": "ratio:0.9", "when_not_smaller": "truncate"})
)
def test_module_state_dict_and_file_give_the_same(net, tmp_path, layout, settings):
    path = tmp_path / "net.safetensors"
    save_file(net.state_dict(), path)
    plan = plan_of(net, **settings)
    module = compress(net, plan, layout=layout).state_dict()
    # Neither names nor shapes of a file tell that `back` is transposed; the plan of the module does.
    for source in (net.state_dict(), path):
        state = compress(source, plan, layout=layout)
        assert sorted(state) == sorted(module)
        for name, tensor in module.items():
            assert torch.equal(state[name], tensor), name
    assert list(compress(net.state_dict(), plan, layout=layout)) == list(module)


def test_dense_layout_keeps_names_shapes_and_types(net):
    net = net.half()
    plan = plan_of(net)
    dense = compress(net.state_dict(), plan, layout="dense")
    assert {name: (t.shape, t.dtype) for name, t in dense.items()} == {
        name: (t.shape, t.dtype) for name, t in net.state_dict().items()
    }
    matrix = dense["fc.weight"].float()
    torch.testing.assert_close(matrix, truncated(net.fc.weight, 20), atol=2e-3, rtol=0)


@pytest.mark.parametrize("dtype", (torch.float64, torch.bfloat16, torch.float16))
def test_types_are_kept(net, dtype):
    small = compress(net.to(dtype), plan_of(net.to(dtype), sparsify=0.01))
    assert {parameter.dtype for parameter in small.parameters()} == {dtype}


def test_training_mode_and_requires_grad_are_kept(net):
    net.train()
    net.conv.weight.requires_grad_(False)
    net.fc.bias.requires_grad_(False)
    small = compress(net, plan_of(net))
    assert all(module.training for module in small.modules())
    learns = {name: parameter.requires_grad for name, parameter in small.named_parameters()}
    assert not any((learns["conv.down.weight"], learns["conv.up.weight"], learns["fc.up.bias"]))
    assert all((learns["conv.up.bias"], learns["fc.down.weight"], learns["fc.up.weight"]))
    small(torch.randn(INPUTS)).sum().backward()
    assert small.fc.down.weight.grad is not None


def test_a_single_layer_becomes_two():
    layer = nn.Linear(40, 50)
    small = compress(layer, plan_of(layer), inplace=True)
    assert list(small.state_dict()) == ["down.weight", "up.weight", "up.bias"]


class Twice(nn.Module):
    """A layer in two places under two parents, and a weight tied to an embedding."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Linear(64, 64), nn.ReLU())
        self.second = nn.ModuleDict({"again": self.first[0]})
        self.table = nn.Embedding(70, 64)
        self.head = nn.Linear(64, 70, bias=False)
        self.head.weight = self.table.weight


def test_shared_modules_stay_shared_and_ties_stay_tied():
    module = Twice()
    small = compress(module, plan_of(module))
    assert type(small.first[0]) is nn.Sequential
    assert small.first[0] is small.second["again"]
    assert small.head.weight is small.table.weight
    assert torch.equal(small.head.weight, module.head.weight)
    assert sum(1 for _ in small.parameters()) == 4


def test_tensors_of_a_shared_module_come_once():
    module = Twice()
    plan = plan_of(module)
    with open_checkpoint(module) as checkpoint:
        view = Compressed(checkpoint, plan)
        ties, outline = view.ties, view.tensors
        names = [name for name in outline if not any(name in others for others in ties.values())]
        assert all(torch.equal(view.read(first), view.read(other)) for first, (other,) in ties.items())
    assert names == ["first.0.down.weight", "first.0.up.weight", "first.0.up.bias", "table.weight"]
    assert ties == {
        "first.0.down.weight": ("second.again.down.weight",),
        "first.0.up.weight": ("second.again.up.weight",),
        "first.0.up.bias": ("second.again.up.bias",),
        "table.weight": ("head.weight",),
    }
    assert sorted(outline) == sorted(compress(module, plan).state_dict())


def test_a_state_dict_cannot_tell_a_shared_module_from_tied_weights():
    module = Twice()
    with pytest.raises(PlanError, match=r"first\.0\.weight: tied to second\.again\.weight"):
        compress(module.state_dict(), plan_of(module))
    plan = plan_of(module.state_dict())
    assert all(decision.action in ("kept", "skipped") for decision in plan.layers)


def test_weights_in_one_piece_are_changed_in_place():
    module = Twice()
    weight = module.head.weight
    decision = decide("table.weight", "linear", (70, 64), action="truncated", rank=5)
    compress(module, Plan(layers=(decision,)), inplace=True)
    assert module.head.weight is module.table.weight is weight
    torch.testing.assert_close(int(torch.linalg.matrix_rank(weight.detach(), rtol=1e-4)), 5)


def test_torch_transformers_still_run():
    module = nn.Transformer(64, 4, 2, 2, dim_feedforward=128, batch_first=True).eval()
    plan = plan_of(module, when_not_smaller="truncate")
    small = compress(module, plan)
    assert type(small.decoder.layers[0].linear1) is nn.Sequential
    with torch.no_grad():
        # Evaluation mode takes the encoder's fast path, which reads the weights past their layers.
        assert small(torch.randn(2, 5, 64), torch.randn(2, 3, 64)).isfinite().all()


class OwnLinear(nn.Linear):
    pass


def test_everything_that_cannot_be_replaced_is_named_and_nothing_changed():
    module = nn.Sequential(
        OrderedDict(
            good=nn.Linear(40, 50),
            hooked=nn.Linear(50, 60),
            normed=parametrizations.weight_norm(nn.Linear(60, 40)),
            own=OwnLinear(40, 40),
        )
    )
    module.hooked.register_forward_hook(lambda *_: None)
    plan = plan_of(module, rule="rank:10")
    with pytest.raises(CompressionError) as caught:
        compress(module, plan, inplace=True)
    for text in ("hooked: carries hooks", "own: is of class OwnLinear", "exclude"):
        assert text in str(caught.value)
    assert "good" not in str(caught.value)
    assert type(module.good) is nn.Linear
    assert "parametrized" in plan.by_tensor["normed.weight"].reason
    left_out = make_plan(analyze(module, exclude=("hooked", "own")), rule="rank:10")
    assert type(compress(module, left_out).good) is nn.Sequential


def test_a_parametrized_weight_cannot_be_set():
    module = nn.Sequential(parametrizations.weight_norm(nn.Linear(60, 40)))
    decision = decide("0.weight", "linear", (40, 60), action="kept", sparsify=0.1)
    with pytest.raises(PlanError, match=r"0\.weight: none .* may be zeroed: parametrized; to cut it"):
        compress(module, Plan(layers=(decision,)))


def test_a_module_that_cannot_be_copied():
    module = nn.Sequential(nn.Linear(40, 50))
    module.cache = torch.ones(3, requires_grad=True) * 2
    with pytest.raises(CompressionError, match=r"Sequential cannot be copied .* in place \(inplace=True\)"):
        compress(module, plan_of(module))
    assert type(compress(module, plan_of(module), inplace=True)[0]) is nn.Sequential


def test_a_plan_for_another_model(net):
    plan = plan_of(nn.Sequential(nn.Linear(40, 50)))
    with pytest.raises(PlanError, match=r"no tensor 0\.weight in the checkpoint"):
        compress(net, plan)
    with open_checkpoint(net) as checkpoint, pytest.raises(PlanError, match="no tensor"):
        Compressed(checkpoint, plan)  # before a tensor is asked for


def test_a_file_taken_for_another_kind_of_layer():
    """Square in channels: the names and shapes of a transposed convolution are those of a plain one."""
    module = nn.Sequential(nn.ConvTranspose2d(40, 40, 3))
    with pytest.raises(PlanError, match="is of kind conv_transpose2d here, conv2d in the plan"):
        compress(module, plan_of(module.state_dict()))
    plain = nn.Sequential(nn.Conv2d(40, 48, 3))
    decision = decide("0.weight", "conv_transpose2d", (48, 40, 3, 3), action="factorized", rank=5)
    with pytest.raises(CompressionError, match="takes it for another kind of layer"):
        compress(plain, Plan(layers=(decision,)))


def test_nan_is_named():
    state = {"fc.weight": torch.full((40, 50), float("nan"))}
    decision = decide("fc.weight", "linear", (40, 50), action="factorized", rank=5)
    with pytest.raises(CompressionError, match=r"fc\.weight: holds NaN or Inf"):
        compress(state, Plan(layers=(decision,)))


def test_names_that_meet():
    state = {"fc.weight": torch.randn(40, 50), "fc.down.weight": torch.randn(3, 3)}
    with pytest.raises(CompressionError, match=r"fc\.down\.weight would stand for two tensors"):
        compress(state, plan_of(state))


def test_what_the_plan_does_not_name_is_kept(net):
    state = net.state_dict()
    outcomes = []
    result = compress(state, Plan(layers=()), outcomes=outcomes)
    assert list(result) == list(state)
    assert all(result[name].data_ptr() == state[name].data_ptr() for name in state)
    assert {(outcome.action, outcome.reason) for outcome in outcomes} == {("kept", "not in the plan")}


def test_outline_says_what_will_come(net):
    for layout in ("factorized", "dense"):
        with open_checkpoint(net) as checkpoint:
            plan = plan_of(net, sparsify=0.01)
            view = Compressed(checkpoint, plan, layout=layout)
            outline = view.tensors
            tensors = {name: view.read(name) for name in outline}
        assert outline.keys() == compress(net, plan, layout=layout).state_dict().keys()
        for name, tensor in tensors.items():
            assert outline[name].name == name
            assert outline[name].shape == tensor.shape
            assert outline[name].nbytes == tensor.numel() * tensor.element_size()
            assert tensor.is_contiguous()


@pytest.mark.parametrize("as_module", (True, False))
def test_outcomes_and_progress(net, as_module):
    plan = plan_of(net, sparsity=0.6)
    outcomes, calls = [], []
    source = net if as_module else net.state_dict()
    result = compress(source, plan, outcomes=outcomes, progress=lambda *call: calls.append(call))
    state = result.state_dict() if as_module else result
    assert [outcome.tensor for outcome in outcomes] == list(net.state_dict())
    by_name = {outcome.name: outcome for outcome in outcomes}
    fc = by_name["fc"]
    assert (fc.action, fc.rank, fc.reason) == ("factorized", 20, "rank 20 of 48: rank:20")
    assert (fc.parameters, fc.parameters_after) == (48 * 96, 20 * (48 + 96))
    assert fc.nonzeros == fc.parameters_after - int(0.6 * fc.parameters_after)
    assert by_name["out"].action == "skipped"
    assert by_name["out"].nonzeros == 960 - 576
    assert sum(outcome.parameters_after for outcome in outcomes) == sum(t.numel() for t in state.values())
    assert sum(outcome.nonzeros for outcome in outcomes) == sum(int(t.count_nonzero()) for t in state.values())
    assert [call[:2] for call in calls] == [(i, len(outcomes)) for i in range(1, len(outcomes) + 1)]
    assert fc.to_json()["nonzeros"] == fc.nonzeros


def test_dense_outcome_is_called_truncated(net):
    outcomes = []
    compress(net, plan_of(net), layout="dense", outcomes=outcomes)
    fc = next(outcome for outcome in outcomes if outcome.name == "fc")
    assert (fc.action, fc.rank, fc.parameters_after) == ("truncated", 20, 48 * 96)


def test_sparsified_factors_against_numpy(net):
    sparse = compress(net.state_dict(), plan_of(net, sparsify=0.05))
    plain = compress(net.state_dict(), plan_of(net))
    for name, tensor in plain.items():
        expected = tensor.numpy()
        if name.endswith("weight") and not name.startswith("norm"):
            expected = np.where(np.abs(expected) < 0.05, 0, expected)
        np.testing.assert_array_equal(sparse[name].numpy(), expected)


def test_quantile_goes_over_both_factors_together():
    layer = Layer("fc", "fc.weight", "linear", (30, 300), "float32")
    weight = torch.randn(30, 300)
    decision = decide("fc.weight", "linear", (30, 300), action="factorized", rank=10, sparsity=0.5)
    down, up = compress_weight(layer, decision, weight)
    assert int((down == 0).sum() + (up == 0).sum()) == 10 * 330 // 2
    kept = min(float(part[part != 0].abs().min()) for part in (down, up))
    plain = compress_weight(layer, decision.model_copy(update={"sparsity": None}), weight)
    assert sum(int((part.abs() < kept).sum()) for part in plain) == 10 * 330 // 2


def test_sparsified_dense_layout_zeroes_the_product():
    state = {"fc.weight": torch.randn(40, 50)}
    dense = compress(state, plan_of(state, sparsify=0.3), layout="dense")["fc.weight"]
    product = compress(state, plan_of(state), layout="dense")["fc.weight"]
    assert torch.equal(dense, product.masked_fill(product.abs() < 0.3, 0))


def test_one_tensor_in_memory_at_a_time(net):
    """A tensor is read when it is asked for, and once for both of its factors where they are asked for in order."""
    state = net.state_dict()
    checkpoint = open_checkpoint(state)
    read = []
    original = checkpoint.read
    checkpoint.read = lambda name: read.append(name) or original(name)
    view = Compressed(checkpoint, plan_of(net))
    assert list(view.tensors)[:3] == ["conv.down.weight", "conv.up.weight", "conv.up.bias"]
    assert read == []
    factors = [view.read(name) for name in list(view.tensors)[:3]]
    assert read == ["conv.weight", "conv.bias"]
    assert torch.equal(view.read("conv.up.weight"), factors[1])  # out of order: made again
    assert read == ["conv.weight", "conv.bias", "conv.weight"]


def test_what_cannot_be_compressed():
    with pytest.raises(TypeError, match="not int"):
        compress(3, Plan(layers=()))
