"""Norms of layers against the operators themselves, written out as matrices, and against power iteration."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rmt_compress.certificates.lipschitz import constant_of, mean_gain
from rmt_compress.certificates.operator_norms import convolution_norm, spectral_norm
from rmt_compress.certificates.units import channel_scales, layer_gain, operator_of, split_rank
from rmt_compress.layers.low_rank import split_module


def matrix_of(module, shape):
    """The linear part of a module on one sample of this shape, as a matrix in float64."""
    module = module.double().eval()
    with torch.no_grad():
        zero = module(torch.zeros(1, *shape, dtype=torch.float64))
        units = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)
        return (module(units) - zero).flatten(1).T


CONVOLUTIONS = (
    (nn.Conv2d(3, 4, 3, padding=1), (3, 7, 6)),
    (nn.Conv2d(3, 4, 3, stride=2, padding=1), (3, 8, 5)),
    (nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(2, 0), dilation=(1, 2), groups=2), (4, 9, 5)),
    (nn.Conv1d(2, 5, 5, stride=3, padding=2), (2, 12)),
    (nn.Conv3d(2, 3, 2, stride=(2, 1, 1), padding=(0, 1, 1)), (2, 4, 4, 3)),
    (nn.Conv2d(6, 3, 1, stride=2), (6, 5, 5)),
    (nn.Conv2d(3, 3, 3, padding="same"), (3, 2, 2)),
    (nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), (3, 5, 4)),
    (nn.Conv2d(3, 4, 3, padding=2, padding_mode="reflect", stride=2), (3, 5, 6)),
    (nn.Conv2d(3, 4, 3, padding=(2, 1), padding_mode="replicate"), (3, 5, 4)),
    (nn.Linear(7, 5), (7,)),
    (nn.Linear(7, 5, bias=False), (3, 7)),
)


@pytest.mark.parametrize(("module", "shape"), CONVOLUTIONS, ids=lambda value: str(value)[:40])
def test_a_layer_stretches_no_more_than_its_gain(module, shape):
    module.reset_parameters()
    matrix = matrix_of(module, shape)
    gain = layer_gain(operator_of(module), (1, *shape))
    true = torch.linalg.matrix_norm(matrix, 2).item(), matrix.abs().sum(1).max().item()
    assert true[0] <= gain.two
    assert true[1] <= gain.largest
    # Borders and corners that are repeated count as if all pixels were; nothing is looser than that.
    assert gain.two <= (2 if getattr(module, "padding_mode", "zeros") == "zeros" else 4) * true[0]


def test_a_circle_of_the_size_of_the_image_is_exact():
    """Where nothing lies outside, the operator is circular itself (Sedghi, Gupta, Long 2019)."""
    weight = torch.randn(4, 3, 3, 3)
    module = nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular", bias=False)
    module.weight = nn.Parameter(weight)
    matrix = matrix_of(module, (3, 6, 6))
    bound = convolution_norm(weight, (4, 4), (1, 1), (1, 1))
    assert bound == pytest.approx(torch.linalg.matrix_norm(matrix, 2).item(), rel=1e-6)


@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 3), st.integers(1, 2), st.integers(2, 6))
@settings(max_examples=25)
def test_random_convolutions(seed, taps, stride, dilation, pixels):
    torch.manual_seed(seed)
    module = nn.Conv1d(2, 3, taps, stride, dilation * (taps - 1), dilation)
    true = torch.linalg.matrix_norm(matrix_of(module, (2, pixels)), 2).item()
    assert true <= layer_gain(operator_of(module), (1, 2, pixels)).two


@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 9))
@settings(max_examples=25)
def test_a_matrix_is_exact(seed, rows, columns):
    torch.manual_seed(seed)
    matrix = torch.randn(rows, columns).double()
    assert spectral_norm(matrix) == pytest.approx(torch.linalg.svdvals(matrix)[0].item(), rel=1e-8)


@pytest.mark.parametrize("stock", (nn.Linear(9, 8), nn.Conv2d(5, 8, 3, stride=2, padding=1)))
def test_two_layers_of_a_split_count_as_their_product_with_the_norm_behind(stock):
    stock.reset_parameters()
    columns = stock.weight[0].numel()
    down, up = torch.randn(3, columns), torch.randn(8, 3)
    shapes = (down, up) if isinstance(stock, nn.Linear) else (down.reshape(3, 5, 3, 3), up.reshape(8, 3, 1, 1))
    shape = (9,) if isinstance(stock, nn.Linear) else (5, 7, 7)
    norm = (nn.BatchNorm1d if isinstance(stock, nn.Linear) else nn.BatchNorm2d)(8).eval()
    nn.init.normal_(norm.weight)
    nn.init.uniform_(norm.running_var, 0.1, 3)
    split = split_module(stock, *shapes)
    assert split_rank(split) == 3
    gain = layer_gain(operator_of(split), (1, *shape), channel_scales(norm))
    matrix = matrix_of(nn.Sequential(split, norm), shape)
    true = torch.linalg.matrix_norm(matrix, 2).item()
    assert true <= gain.two <= 1.2 * true
    assert matrix.abs().sum(1).max().item() <= gain.largest


POOLS = (
    (nn.AvgPool2d(2), (2, 6, 6)),
    (nn.AvgPool2d(3, stride=1, padding=1), (1, 5, 5)),
    (nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False), (1, 6, 6)),
    (nn.AvgPool1d(3, ceil_mode=True), (2, 7)),
    (nn.AdaptiveAvgPool2d(1), (3, 4, 5)),
    (nn.AdaptiveAvgPool2d((2, None)), (1, 4, 3)),
)


@pytest.mark.parametrize(("module", "shape"), POOLS, ids=lambda value: str(value)[:40])
def test_means_stretch_no_more_than_their_constant(module, shape):
    matrix = matrix_of(module, shape)
    gain = constant_of(module, (1, *shape))
    assert torch.linalg.matrix_norm(matrix, 2).item() <= gain.two + 1e-12
    assert matrix.abs().sum(1).max().item() <= gain.largest + 1e-12


@pytest.mark.parametrize(
    "module",
    (
        *(nn.ReLU(), nn.ReLU6(), nn.Hardtanh(), nn.Tanh(), nn.Softsign(), nn.LogSigmoid(), nn.Tanhshrink()),
        *(nn.Softshrink(), nn.Sigmoid(), nn.Hardsigmoid(), nn.Hardswish(), nn.GELU(), nn.GELU("tanh"), nn.SiLU()),
        *(
            nn.Mish(),
            nn.LeakyReLU(1.7),
            nn.PReLU(init=-2.0),
            nn.ELU(2.0),
            nn.ELU(-3.0),
            nn.CELU(0.5),
            nn.Softplus(3.0),
        ),
    ),
    ids=str,
)
def test_slopes_of_activations(module):
    points = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    values = module.double()(points).detach()
    steepest = ((values[1:] - values[:-1]) / (points[1:] - points[:-1])).abs().max().item()
    gain = constant_of(module, (1, 3))
    assert steepest <= gain.two + 1e-9
    assert gain.two <= steepest + 1e-3
    assert gain.largest == gain.two


@pytest.mark.parametrize("module", (nn.CELU(-1.0), nn.Softplus(-1.0), nn.Softplus(1.0, threshold=1.0)), ids=str)
def test_what_jumps_or_grows_without_limit_has_no_constant(module):
    assert constant_of(module, (1, 3)) is None


@pytest.mark.parametrize(
    "module", (nn.MaxPool2d(2), nn.MaxPool2d(3, 2, 1), nn.MaxPool1d(3, 1, dilation=2)), ids=str
)
def test_maxima_stretch_no_more_than_their_constant(module):
    shape = (1, 9, 9) if isinstance(module, nn.MaxPool2d) else (1, 12)
    x = torch.randn(500, *shape).double()
    # One entry moved far: it becomes the maximum of every window that it lies in.
    y = x.clone()
    y.flatten(1)[torch.arange(500), torch.randint(x[0].numel(), (500,))] += 50
    moved = (module(y) - module(x)).flatten(1).norm(dim=1) / (y - x).flatten(1).norm(dim=1)
    assert moved.max().item() <= constant_of(module, (1, *shape)).two
    assert moved.max().item() > 0.9 * constant_of(module, (1, *shape)).two - 0.05


def test_a_mean_over_axes():
    assert mean_gain((2, 3, 4, 5), (2, 3)) == pytest.approx((1 / math.sqrt(20), 1))


def test_what_has_no_constant():
    for module in (nn.LayerNorm(3), nn.Softmax(1), nn.AdaptiveAvgPool2d(3), nn.AvgPool2d(2, divisor_override=3)):
        assert constant_of(module, (1, 2, 4, 4)) is None
    assert operator_of(nn.ConvTranspose2d(2, 3, 3)) is None
    assert channel_scales(nn.BatchNorm2d(3, track_running_stats=False)) is None
