"""Split modules against the modules they replace, and against an unfolded convolution."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, prune

from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.decomposition.svd import decompose
from rmt_compress.errors import CompressionError
from rmt_compress.layers.layer import Layer, as_matrix
from rmt_compress.layers.low_rank import module_refusal, split_module, split_module_empty
from rmt_compress.layers.splitting import (
    factor_names,
    factor_tensors,
    join_factors,
    split_refusal,
)

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
FEW = settings(max_examples=40)


def layer_of(module):
    return next(layer for layer in open_checkpoint(module).layers() if layer.tensor == "weight")


def split(module, rank=None):
    layer = layer_of(module)
    matrix = as_matrix(layer, module.weight.detach())
    found = decompose(matrix, rank)
    factors = factor_tensors(layer, *found.factors(found.rank))
    closest = best_of_rank(module.weight.detach(), rank)
    rounding = max(16 * torch.finfo(closest.dtype).eps, 1e-13)
    accuracy = {"rtol": 0, "atol": rounding * float(closest.abs().max())}
    torch.testing.assert_close(product_of(module, *factors), closest, **accuracy)
    torch.testing.assert_close(join_factors(layer.kind, layer.shape, *factors), closest, **accuracy)
    return split_module(module, *factors)


def product_of(module, down, up):
    """The weight for which two factors stand, entry by entry a sum over the rank r."""
    if isinstance(module, TRANSPOSED):
        return torch.einsum("ri,ro...->io...", down.flatten(1), up)
    return torch.einsum("or,ri...->oi...", up.flatten(1), down)


def best_of_rank(weight, rank):
    """The nearest weight whose (first dimension, all others) matrix has this rank: numpy's SVD, cut."""
    u, s, vt = np.linalg.svd(weight.flatten(1).double().numpy(), full_matrices=False)
    return torch.from_numpy((u[:, :rank] * s[:rank]) @ vt[:rank]).view_as(weight).to(weight.dtype)


def assert_same_outputs(module, inputs):
    pair = split(module)
    assert list(dict(pair.named_children())) == ["down", "up"]
    torch.testing.assert_close(pair(inputs), module(inputs), atol=2e-5, rtol=1e-5)


@FEW
@given(inputs=st.integers(1, 12), outputs=st.integers(1, 12), bias=st.booleans(), batch=st.integers(1, 3))
def test_linear_of_full_rank_gives_the_same_outputs(inputs, outputs, bias, batch):
    assert_same_outputs(nn.Linear(inputs, outputs, bias=bias), torch.randn(batch, 2, inputs))


@FEW
@given(data=st.data())
def test_convolution_of_full_rank_gives_the_same_outputs(data):
    dimensions = data.draw(st.sampled_from((1, 2, 3)))
    sizes = st.integers(1, 3)
    kernel, stride, dilation, padding = (
        tuple(data.draw(start) for _ in range(dimensions)) for start in (sizes, sizes, sizes, st.integers(0, 2))
    )
    padding = data.draw(st.sampled_from((padding, "same", "valid")))
    if padding == "same":
        # torch wants a stride of 1 here, and warns of even kernels.
        stride = (1,) * dimensions
        kernel = tuple(size - (size % 2 == 0) for size in kernel)
    module = CONVOLUTIONS[dimensions - 1](
        data.draw(st.integers(1, 4)),
        data.draw(st.integers(1, 6)),
        kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        bias=data.draw(st.booleans()),
        padding_mode=data.draw(st.sampled_from(("zeros", "reflect", "replicate", "circular"))),
    )
    assert_same_outputs(module, torch.randn(2, module.in_channels, *[7, 8, 9][:dimensions]))


@FEW
@given(data=st.data())
def test_transposed_convolution_of_full_rank_gives_the_same_outputs(data):
    dimensions = data.draw(st.sampled_from((1, 2, 3)))
    sizes = st.integers(1, 3)
    kernel, stride, dilation = (tuple(data.draw(sizes) for _ in range(dimensions)) for _ in range(3))
    output_padding = tuple(
        data.draw(st.integers(0, max(here, wide) - 1)) for here, wide in zip(stride, dilation, strict=True)
    )
    padding = tuple(data.draw(st.integers(0, 1)) for _ in range(dimensions))
    module = TRANSPOSED[dimensions - 1](
        data.draw(st.integers(1, 6)),
        data.draw(st.integers(1, 4)),
        kernel,
        stride=stride,
        padding=padding,
        output_padding=output_padding,
        dilation=dilation,
        bias=data.draw(st.booleans()),
    )
    inputs = torch.randn(2, module.in_channels, *[4, 5, 3][:dimensions])
    try:
        module(inputs)
    except RuntimeError:  # padding has eaten up the output
        assume(False)
    assert_same_outputs(module, inputs)


@pytest.mark.parametrize("rank", (1, 3, 8))
def test_convolution_is_the_unfolded_matrix_product(rank):
    module = nn.Conv2d(4, 8, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2))
    inputs = torch.randn(2, 4, 9, 10)
    patches = functional.unfold(inputs, (3, 2), dilation=(1, 2), padding=(1, 2), stride=(2, 1))
    u, s, vt = torch.linalg.svd(module.weight.detach().reshape(8, 24), full_matrices=False)
    truncated = (u[:, :rank] * s[:rank]) @ vt[:rank]
    result = split(module, rank)(inputs)
    expected = (truncated @ patches + module.bias.detach()[:, None]).reshape(result.shape)
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)


def test_transposed_convolution_is_the_folded_matrix_product():
    module = nn.ConvTranspose2d(8, 3, 3, stride=2, padding=1, output_padding=1)
    inputs = torch.randn(2, 8, 5, 4)
    # In float64: the third and fourth singular values may lie near to each other, where rounding shows.
    u, s, vt = torch.linalg.svd(module.weight.detach().double().reshape(8, 27), full_matrices=False)
    truncated = (u[:, :3] * s[:3]) @ vt[:3]
    result = split(module, 3)(inputs)
    columns = truncated.T @ inputs.double().flatten(2)
    expected = functional.fold(columns, result.shape[2:], 3, padding=1, stride=2) + module.bias[:, None, None]
    torch.testing.assert_close(result.double(), expected, atol=1e-5, rtol=1e-5)


def test_where_everything_goes():
    pair = split(nn.Conv2d(4, 8, 3, stride=2, padding=1, dilation=2, padding_mode="circular"), 2)
    down, up = pair.down, pair.up
    assert type(down) is type(up) is nn.Conv2d
    assert (down.in_channels, down.out_channels, up.in_channels, up.out_channels) == (4, 2, 2, 8)
    assert (down.kernel_size, up.kernel_size) == ((3, 3), (1, 1))
    assert (down.stride, down.padding, down.dilation, down.padding_mode) == ((2, 2), (1, 1), (2, 2), "circular")
    assert (up.stride, up.padding, up.dilation, up.padding_mode) == ((1, 1), (0, 0), (1, 1), "zeros")
    assert down.bias is None
    assert up.bias is not None

    pair = split(nn.ConvTranspose2d(8, 4, 3, stride=2, padding=1, output_padding=1), 2)
    assert type(pair.down) is nn.Conv2d
    assert type(pair.up) is nn.ConvTranspose2d
    assert (pair.down.kernel_size, pair.up.stride, pair.up.output_padding) == ((1, 1), (2, 2), (1, 1))
    assert pair.down.bias is None
    assert pair.up.bias is not None


@pytest.mark.parametrize("training", (True, False))
@pytest.mark.parametrize("weight_learns", (True, False))
@pytest.mark.parametrize("bias_learns", (True, False))
def test_mode_and_requires_grad_are_kept(training, weight_learns, bias_learns):
    module = nn.Linear(6, 8).train(training)
    module.weight.requires_grad_(weight_learns)
    module.bias.requires_grad_(bias_learns)
    for pair in (split(module, 2), split_module_empty(module, 2)):
        assert all(part.training == training for part in pair.modules())
        assert pair.down.weight.requires_grad == weight_learns
        assert pair.up.weight.requires_grad == weight_learns
        assert pair.up.bias.requires_grad == bias_learns
    assert split(module, 2).up.bias is module.bias


@pytest.mark.parametrize("dtype", (torch.float64, torch.bfloat16, torch.float16))
def test_type_is_kept(dtype):
    pair = split(nn.Linear(6, 8, dtype=dtype), 2)
    assert {parameter.dtype for parameter in pair.parameters()} == {dtype}


@pytest.mark.parametrize("module", (nn.Linear(9, 7), nn.Conv1d(5, 7, 3), nn.ConvTranspose3d(7, 5, 2, bias=False)))
def test_empty_split_takes_no_memory_and_is_filled_from_a_state_dict(module):
    empty = split_module_empty(module, 4)
    assert all(parameter.is_meta for parameter in empty.parameters())
    full = split(module, 4)
    empty.load_state_dict(full.state_dict(), assign=True)
    inputs = torch.randn(2, 9) if isinstance(module, nn.Linear) else torch.randn(1, module.in_channels, 6, 6, 6)
    inputs = inputs[..., 0, 0] if isinstance(module, nn.Conv1d) else inputs
    assert torch.equal(empty(inputs), full(inputs))


class OwnLinear(nn.Linear):
    def forward(self, inputs):
        return super().forward(inputs).relu()


def replaced_forward():
    module = nn.Linear(4, 4)
    module.forward = lambda inputs: inputs
    return module


def hooked(register):
    module = nn.Linear(4, 4)
    getattr(module, register)(lambda *_: None)
    return module


def with_buffer():
    module = nn.Linear(4, 4)
    module.register_buffer("scale", torch.ones(1))
    return module


@pytest.mark.parametrize(
    ("module", "message"),
    (
        (OwnLinear(4, 4), "is of class OwnLinear, not one of torch's Linear"),
        (nn.Embedding(4, 4), "is of class Embedding, not one of torch's Linear"),
        (parametrizations.weight_norm(nn.Linear(4, 4)), "is parametrized; torch.nn.utils.parametrize"),
        (prune.l1_unstructured(nn.Linear(4, 4), "weight", 0.5), r"carries hooks \(forward_pre_hooks\)"),
        (hooked("register_forward_hook"), r"carries hooks \(forward_hooks\)"),
        (hooked("register_forward_pre_hook"), r"carries hooks \(forward_pre_hooks\)"),
        (hooked("register_full_backward_hook"), r"carries hooks \(backward_hooks\)"),
        (hooked("_register_state_dict_hook"), r"carries hooks \(state_dict_hooks\)"),
        (replaced_forward(), "has had its forward replaced"),
        (with_buffer(), "holds tensors beside weight and bias"),
        (nn.Conv2d(4, 4, 3, groups=2), "is a convolution of 2 groups"),
    ),
)
def test_refused_modules_are_named_with_the_way_out(module, message):
    with pytest.raises(CompressionError, match=rf"^encoder\.fc: {message}.*exclude"):
        split_module_empty(module, 2, name="encoder.fc")


def test_stock_modules_are_not_refused():
    for module in (nn.Linear(4, 4), nn.Conv2d(4, 4, 3), nn.ConvTranspose1d(4, 4, 3, bias=False)):
        assert module_refusal(module) is None


def test_factors_of_another_kind_of_layer_are_refused():
    with pytest.raises(CompressionError, match=r"fc: its down factor would be \(2, 4\), not \(2, 5\)"):
        split_module(nn.Linear(4, 6), torch.ones(2, 5), torch.ones(6, 2), name="fc")


def test_names_of_factors():
    assert factor_names("fc1.weight") == ("fc1.down.weight", "fc1.up.weight", "fc1.up.bias")
    assert factor_names("weight") == ("down.weight", "up.weight", "up.bias")
    for name in ("attention.in_proj_weight", "fc1.bias", "head"):
        with pytest.raises(ValueError, match="not the weight of a layer"):
            factor_names(name)


def test_parameters_of_a_split():
    assert Layer("a", "a.weight", "linear", (30, 50), "float32").factor_parameters(4) == sum(
        p.numel() for p in split(nn.Linear(50, 30, bias=False), 4).parameters()
    )


@pytest.mark.parametrize(
    ("changes", "refusal"),
    (
        ({}, None),
        ({"kind": "conv2d", "shape": (8, 4, 3, 3)}, None),
        ({"kind": "embedding"}, "of kind embedding cannot be split"),
        ({"kind": "recurrent"}, "of kind recurrent cannot be split"),
        ({"aliases": ("head.weight",)}, "tied to head.weight"),
        ({"aliases": ("head.weight",), "shared": True}, None),
        ({"tensor": "in_proj_weight"}, "part of a larger one"),
        ({"kind": "conv2d", "shape": (8, 4, 3, 3), "groups": 2}, "2 groups"),
        ({"kind": "conv2d", "shape": (8, 1, 3, 3)}, "depthwise"),
        ({"why_whole": "its parent reads it"}, "its parent reads it"),
    ),
)
def test_layers_that_cannot_be_split(changes, refusal):
    layer = Layer(
        **{"name": "fc", "tensor": "fc.weight", "kind": "linear", "shape": (8, 8), "dtype": "float32"} | changes
    )
    found = split_refusal(layer)
    assert found == refusal if refusal is None else refusal in found
