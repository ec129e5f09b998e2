"""Moments against loops and closed forms that share nothing with the way they are measured."""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from rmt_compress.networks.calibration.calibrating import calibrate
from tests.samples.sequential import ViT


def squares(outputs, generator):
    """A scalar without anything random."""
    return outputs.square().sum() / 2


def close(found, expected, tolerance=1e-6):
    error = (found - expected).norm() / expected.norm()
    assert error < tolerance, float(error)


def by_hand(model, batches, path, scalar=squares):
    """x and g, (vectors, n) and (vectors, m), of the Linear at `path`, by hooks of its own."""
    inputs, gradients = [], []
    model = copy.deepcopy(model)
    module = model.get_submodule(path)

    def hook(module, arguments, output):
        inputs.append(arguments[0].detach().flatten(0, -2).double())
        output.register_hook(lambda gradient: gradients.append(gradient.flatten(0, -2).double()))

    handle = module.register_forward_hook(hook)
    for batch in batches:
        scalar(model(batch), None).backward()
    handle.remove()
    return torch.cat(inputs), torch.cat(gradients)


def mlp():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, 5))


def test_moments_of_a_linear_gaussian_network_have_a_closed_form():
    model = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 4, bias=False))
    first, second = model[0].weight.double(), model[1].weight.double()
    data = torch.randn(50_000, 6)

    moments = calibrate(
        model, data.split(10_000), weighted=False, scalar=lambda y, _: (y * torch.tensor([1.0, 2, 3, 4])).sum()
    )

    direction = torch.tensor([1.0, 2, 3, 4], dtype=torch.float64)
    close(moments.layers["0.weight"].inputs, torch.eye(6, dtype=torch.float64), 0.02)
    expected = first @ first.T + torch.outer(model[0].bias, model[0].bias)
    close(moments.layers["1.weight"].inputs, expected.detach(), 0.02)
    close(moments.layers["1.weight"].mean, model[0].bias.detach().double(), 0.05)
    close(moments.layers["1.weight"].outputs, torch.outer(direction, direction))
    back = second.T @ direction
    close(moments.layers["0.weight"].outputs, torch.outer(back, back).detach())


def test_moments_are_those_of_a_plain_loop_in_float64():
    model = mlp()
    batches = [torch.randn(7, 6), torch.randn(4, 6)]

    moments = calibrate(model, batches, weighted=False, scalar=squares)

    for path in ("0", "2"):
        x, g = by_hand(model, batches, path)
        found = moments.layers[f"{path}.weight"]
        close(found.inputs, x.T @ x / 11)
        close(found.mean, x.mean(0))
        close(found.outputs, g.T @ g / 11)
        assert found.count == 11
        assert found.inputs.dtype == found.outputs.dtype == found.mean.dtype == torch.float64


def test_wide_layers_are_summed_block_by_block_without_loss():
    model = nn.Sequential(nn.Linear(300, 260), nn.Tanh(), nn.Linear(260, 3))
    batches = [torch.randn(500, 300) * 30]

    moments = calibrate(model, batches, weighted=False, scalar=squares)

    for path in ("0", "2"):
        x, g = by_hand(model, batches, path)
        close(moments.layers[f"{path}.weight"].inputs, x.T @ x / 500)
        close(moments.layers[f"{path}.weight"].outputs, g.T @ g / 500)
    assert torch.equal(moments.layers["0.weight"].inputs, moments.layers["0.weight"].inputs.T)


def test_drawn_classes_give_the_fisher_matrix_of_the_softmax():
    model = nn.Sequential(nn.Linear(5, 4))
    data = torch.randn(30_000, 5)

    found = calibrate(model, [data]).layers["0.weight"].outputs

    p = model(data).softmax(-1).double().detach()
    close(found, torch.diag(p.mean(0)) - p.T @ p / len(p), 0.02)


@pytest.mark.slow  # torch.func takes two seconds to wake up
def test_the_gradient_at_the_output_is_that_of_each_sample_alone():
    """Per-sample gradients of the weight by torch.func: of one sample it is g xᵀ."""
    model = mlp()
    data = torch.randn(9, 6)

    found = calibrate(model, [data], scalar=squares).layers["0.weight"]

    def loss(state, x):
        return functional_call(model, state, (x[None],)).square().sum() / 2

    state = {name: value.detach() for name, value in model.named_parameters()}
    each = vmap(grad(loss), in_dims=(None, 0))(state, data)["0.weight"]
    g = torch.einsum("nij,nj->ni", each, data) / data.square().sum(1, keepdim=True)
    close(found.outputs, (g.T @ g / 9).double(), 1e-5)


def test_other_outputs_are_met_with_random_directions():
    """Of vᵀy with v ~ N(0, I) the gradients at the last layer have the identity as second moment."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Unflatten(1, (1, 2, 2)))

    moments = calibrate(model, [torch.randn(20_000, 3)], weighted=False)

    close(moments.layers["0.weight"].outputs, torch.eye(4, dtype=torch.float64), 0.03)
    assert moments.record["gradient"] == "a random direction of the output"


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 4, 3, stride=2, padding=1, dilation=2),
        nn.Conv2d(3, 4, (3, 5), padding="same"),
        nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular", bias=False),
        nn.Conv1d(3, 4, 4, stride=2, padding=2),
        nn.Conv3d(3, 4, 2, padding=1),
    ],
)
def test_patches_of_a_convolution_are_what_it_multiplies(layer):
    """y = W·patch + b at every place, so Σ y yᵀ follows from C and the mean alone."""
    axes = layer.weight.dim() - 2
    data = torch.randn(5, 3, *[(11,), (9, 8), (5, 4, 6)][axes - 1])

    found = calibrate(nn.Sequential(layer), [data], positions=None).layers["0.weight"]

    with torch.no_grad():
        y = layer(data).flatten(2).transpose(1, 2).flatten(0, 1).double()
    W = layer.weight.detach().flatten(1).double()
    b = torch.zeros(4, dtype=torch.float64) if layer.bias is None else layer.bias.detach().double()
    across = torch.outer(W @ found.mean, b)
    close(W @ found.inputs @ W.T + across + across.T + torch.outer(b, b), y.T @ y / len(y))
    assert found.count == len(y)


def test_the_gradients_of_a_convolution_are_summed_over_the_places_of_a_sample():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1))
    data = torch.randn(5, 3, 6, 6)

    found = calibrate(model, [data], scalar=squares).layers["0.weight"].outputs

    y = model(data).detach().double().flatten(2).transpose(1, 2).flatten(0, 1)
    close(found, y.T @ y / 5)


@pytest.mark.parametrize(
    "layer",
    [nn.ConvTranspose2d(3, 4, 3, 2, padding=1, output_padding=1), nn.ConvTranspose1d(3, 4, 5, 2, dilation=2)],
)
def test_a_transposed_convolution_reads_pixels_and_writes_patches(layer):
    axes = layer.weight.dim() - 2
    data = torch.randn(5, 3, *[(7,), (4, 5)][axes - 1])

    found = calibrate(nn.Sequential(layer), [data], scalar=squares, positions=None).layers["0.weight"]

    x = data.double().flatten(2).transpose(1, 2).flatten(0, 1)
    close(found.inputs, x.T @ x / len(x))
    # The gradient of the weight is Σ x gᵀ, so tr(C⁻¹ …) apart: for one place it gives g itself.
    G = torch.zeros_like(found.outputs)
    for sample in data:
        y = layer(sample[None])
        for place in range(sample[0].numel()):
            at = torch.zeros_like(sample).flatten(1)
            at[:, place] = torch.tensor([1.0, 0, 0])
            weight = layer.weight.detach().clone().requires_grad_()
            out = functional_of(layer)(at.reshape(sample[None].shape), weight)
            (g,) = torch.autograd.grad(out, weight, grad_outputs=y.detach())
            g = g[0].flatten().double()
            G += torch.outer(g, g) / 5
    close(found.outputs, G, 1e-5)


def functional_of(layer):
    function = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d}[layer.weight.dim() - 2]
    return lambda x, weight: function(
        x, weight, None, layer.stride, layer.padding, layer.output_padding, 1, layer.dilation
    )


def test_places_are_drawn_so_that_nothing_is_biased():
    model = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ConvTranspose2d(3, 2, 2, 2))
    data = torch.randn(800, 2, 6, 6) + torch.arange(6.0)

    few = calibrate(model, [data], scalar=squares, positions=5)
    all_of_them = calibrate(model, [data], scalar=squares, positions=None)

    for name, found in few.layers.items():
        assert found.count == 800 * 5
        close(found.inputs, all_of_them.layers[name].inputs, 0.05)
        close(found.outputs, all_of_them.layers[name].outputs, 0.05)


def test_padding_counts_for_nothing():
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(20, 6)
            self.inner = nn.Linear(6, 6)
            self.head = nn.Linear(6, 3)

        def forward(self, input_ids, attention_mask):
            hidden = self.inner(self.table(input_ids)) * attention_mask[..., None]
            return {"logits": self.head(hidden)}

    model = Pooled()
    ids = torch.randint(0, 20, (4, 7))
    mask = (torch.arange(7) < torch.tensor([7, 3, 5, 1])[:, None]).long()

    padded = calibrate(model, [{"input_ids": ids, "attention_mask": mask}], weighted=False)

    x = model.table(ids)[mask.bool()].detach().double()
    close(padded.layers["inner.weight"].inputs, x.T @ x / 16)
    assert padded.layers["inner.weight"].count == padded.record["samples"] == 16
    elsewhere = ids.clone()
    elsewhere[mask == 0] = 0
    other = calibrate(model, [{"input_ids": elsewhere, "attention_mask": mask}], weighted=False)
    for name, found in padded.layers.items():
        assert torch.equal(found.inputs, other.layers[name].inputs)
        assert torch.equal(found.outputs, other.layers[name].outputs)


def test_packed_projections_are_measured_one_by_one():
    """Against an attention written out with three Linears."""

    class Written(nn.Module):
        def __init__(self, packed):
            super().__init__()
            self.q, self.k, self.v = (nn.Linear(8, 8) for _ in range(3))
            self.out = packed.out_proj
            for layer, weight, bias in zip(
                (self.q, self.k, self.v), packed.in_proj_weight.chunk(3), packed.in_proj_bias.chunk(3), strict=True
            ):
                layer.weight.data, layer.bias.data = weight.detach(), bias.detach()

        def forward(self, x, y):
            q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in (self.q(x), self.k(y), self.v(y)))
            return self.out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x, y):
            return self.attention(x, y, y, need_weights=False)[0]

    packed = Around().eval()
    written = Written(packed.attention)
    batch = (torch.randn(3, 5, 8), torch.randn(3, 4, 8))

    found = calibrate(packed, [batch], scalar=squares).layers
    expected = calibrate(written, [batch], scalar=squares).layers

    names = {f"attention.in_proj_weight[{label}]": f"{label}.weight" for label in "qkv"}
    for name, other in (names | {"attention.out_proj.weight": "out.weight"}).items():
        close(found[name].inputs, expected[other].inputs)
        close(found[name].outputs, expected[other].outputs, 1e-5)
    key, value = (found[f"attention.in_proj_weight[{label}]"] for label in "kv")
    assert key.inputs is value.inputs
    assert key.inputs is not found["attention.in_proj_weight[q]"].inputs


def test_experts_are_measured_one_by_one():
    class Mixture(nn.Module):
        num_experts = 3

        def __init__(self, loop):
            super().__init__()
            self.experts = nn.Parameter(torch.randn(3, 4, 6))
            self.loop = loop

        def forward(self, x):
            chosen = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
            if self.loop:
                out = torch.zeros(len(x), 4)
                for expert in chosen.unique():
                    out[chosen == expert] = functional.linear(x[chosen == expert], self.experts[expert])
                return out
            return torch.bmm(x.reshape(3, -1, 6), self.experts.transpose(1, 2)).flatten(0, 1)

    data = torch.randn(30, 6)
    for loop in (True, False):
        model = Mixture(loop)
        chosen = (
            (data[:, 0] > 0).long() + (data[:, 1] > 0).long() if loop else torch.arange(3).repeat_interleave(10)
        )

        moments = calibrate(model, [data], scalar=squares, weighted=False)

        found = moments.layers["experts"]
        for expert in range(3):
            x = data[chosen == expert].double()
            g = x @ model.experts[expert].detach().double().T
            close(found.inputs[expert], x.T @ x / len(x))
            close(found.mean[expert], x.mean(0))
            close(found.outputs[expert], g.T @ g / 30)
        assert moments.record["uses"] == {"experts": chosen.bincount().tolist()}
        assert found.count == 10


def test_layers_that_read_one_tensor_share_its_moments():
    moments = calibrate(ViT().eval(), [torch.randn(2, 3, 32, 32)]).layers
    q, k, v = (moments[f"layers.0.self_attention.in_proj_weight[{label}]"] for label in "qkv")
    assert q.inputs is k.inputs is v.inputs
    assert moments["layers.0.mlp.0.weight"].inputs is not q.inputs


def test_what_shares_an_input_in_one_batch_alone_is_measured_alone():
    class Switch(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x):
            return self.a(x) + self.b(x if len(x) == 5 else x + 1)

    batches = [torch.randn(5, 4), torch.randn(6, 4)]
    found = calibrate(Switch(), batches, weighted=False).layers
    x = torch.cat([batches[0], batches[1] + 1]).double()
    close(found["b.weight"].inputs, x.T @ x / 11)
    x = torch.cat(batches).double()
    close(found["a.weight"].inputs, x.T @ x / 11)
