"""Products whose tensor is stored (inputs, outputs), against the plain matrix product they stand for."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from rmt_compress.compression import compress_weight
from rmt_compress.layers import Layer, as_matrix, as_weight
from rmt_compress.layers.kinds import factor_shapes, untransposed
from rmt_compress.layers.splitting import join_factors
from rmt_compress.plan import LayerDecision

LAYER = Layer("fc", "fc.weight", "linear_transposed", (12, 7), "float32")


def decision(action, rank):
    return LayerDecision(
        name="fc", tensor="fc.weight", kind="linear_transposed", shape=(12, 7), action=action, rank=rank
    )


@pytest.fixture
def weight():
    return torch.randn(12, 7)


def test_rows_are_outputs(weight):
    assert LAYER.matrix == (7, 12)
    torch.testing.assert_close(as_matrix(LAYER, weight), weight.T)
    back = as_weight(LAYER, as_matrix(LAYER, weight))
    torch.testing.assert_close(back, weight)
    assert back.is_contiguous()


@pytest.mark.parametrize("rank", (1, 3, 7))
def test_factors_are_those_of_the_linear_that_computes_the_same(weight, rank):
    down, up = compress_weight(LAYER, decision("factorized", rank), weight)
    assert (tuple(down.shape), tuple(up.shape)) == ((rank, 12), (7, rank))
    assert factor_shapes("linear_transposed", (12, 7), rank) == ((rank, 12), (7, rank))
    u, s, vt = torch.linalg.svd(weight, full_matrices=False)
    truncated = (u[:, :rank] * s[:rank]) @ vt[:rank]
    inputs = torch.randn(5, 12)
    outputs = functional.linear(functional.linear(inputs, down), up)
    torch.testing.assert_close(outputs, inputs @ truncated, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        join_factors("linear_transposed", (12, 7), down, up), truncated, atol=1e-5, rtol=1e-5
    )
    cut = compress_weight(LAYER, decision("truncated", rank), weight)
    torch.testing.assert_close(cut, truncated, atol=1e-5, rtol=1e-5)


def test_a_layer_stored_transposed_has_as_many_parameters():
    assert LAYER.parameters == replace(LAYER, kind="linear").parameters == 84


@pytest.mark.parametrize(
    ("kind", "plain"),
    (
        ("linear_transposed", "linear"),
        ("conv_transpose2d", "conv2d"),
        ("conv3d", "conv3d"),
        ("embedding", "embedding"),
    ),
)
def test_kind_without_transposition(kind, plain):
    assert untransposed(kind) == plain
