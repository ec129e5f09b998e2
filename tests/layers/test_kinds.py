"""The records of the layer kinds, against torch's own modules."""

from typing import get_args

import pytest
import torch
from torch import nn

from rmt_compress.layers.kinds import KINDS, LayerKind, convolution, factor_shapes, kind_of
from rmt_compress.layers.low_rank import module_kind
from rmt_compress.layers.splitting import beside, factor_names, is_weight, module_path

MODULES = {
    "linear": nn.Linear(4, 6),
    "conv1d": nn.Conv1d(4, 6, 3),
    "conv2d": nn.Conv2d(4, 6, 3),
    "conv3d": nn.Conv3d(4, 6, 3),
    "conv_transpose1d": nn.ConvTranspose1d(4, 6, 3),
    "conv_transpose2d": nn.ConvTranspose2d(4, 6, 3),
    "conv_transpose3d": nn.ConvTranspose3d(4, 6, 3),
    "embedding": nn.Embedding(4, 6),
}


def test_every_kind_has_one_record():
    assert tuple(KINDS) == get_args(LayerKind)


@pytest.mark.parametrize("kind", MODULES)
def test_axes_are_those_of_torchs_own_module(kind):
    module, record = MODULES[kind], KINDS[kind]
    assert module_kind(module) == module_kind(module, exactly=True) == kind
    assert module.weight.dim() == record.axes
    if record.splits:
        assert module.weight.shape[record.outputs] == 6
        assert len(module.bias) == 6
        assert record.convolution == hasattr(module, "kernel_size")
        assert record.swaps == getattr(module, "transposed", False)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_come_back_from_their_matrices(kind):
    record = KINDS[kind]
    shape = (2, 3, 4, 5, 6)[: record.axes]
    if record.matrix(shape) is None:
        assert kind in ("vector", "unknown")
        return
    weight = torch.randn(shape)
    matrix = record.as_matrix(weight)
    # Of a stack they are as many as its first axis says.
    assert matrix.shape == (*shape[: record.stacked], *record.matrix(shape))
    assert matrix.data_ptr() == weight.data_ptr()
    back = record.as_weight(matrix.clone(), shape)
    assert back.is_contiguous()
    assert torch.equal(back, weight)


def test_what_is_stored_transposed_is_taken_for_the_plain_kind_of_the_same_axes():
    plain = {kind: record for kind, record in KINDS.items() if record.plain}
    assert plain.keys() == {kind for kind in KINDS if "transpose" in kind}
    for record in plain.values():
        assert (KINDS[record.plain].axes, KINDS[record.plain].outputs, record.outputs) == (record.axes, 0, 1)


def test_kinds_of_convolutions():
    assert convolution(4, transposed=False) == "conv2d"
    assert convolution(3, transposed=True) == "conv_transpose1d"
    assert convolution(2, transposed=False) is None
    assert convolution(6, transposed=True) is None


def test_kinds_of_classes_and_attributes():
    class OwnLinear(nn.Linear):
        pass

    assert module_kind(OwnLinear(2, 3)) == "linear"
    assert module_kind(OwnLinear(2, 3), exactly=True) is None
    assert module_kind(nn.Linear(2, 3), "bias") is None
    assert module_kind(nn.LSTM(2, 3), "weight_ih_l0") == module_kind(nn.GRUCell(2, 3), "weight_hh") == "recurrent"
    assert module_kind(nn.LSTM(2, 3), "bias_ih_l0") is None
    assert module_kind(nn.LayerNorm((2, 3)), "bias") == module_kind(nn.Bilinear(2, 3, 4)) == "unknown"
    assert module_kind(nn.ReLU()) is None
    assert kind_of({"EmbeddingBag"}, "weight") == "embedding"


def test_a_class_that_only_bears_the_name_of_torchs_is_none_of_them():
    own = type("Linear", (nn.Module,), {})
    assert module_kind(own()) is None


@pytest.mark.parametrize(("kind", "shape"), (("embedding", (4, 6)), ("linear", (4, 6, 1)), ("conv9d", (4, 6))))
def test_what_has_no_factors_is_named(kind, shape):
    with pytest.raises(ValueError, match=f"a {kind} weight of {len(shape)} dimensions has no factors"):
        factor_shapes(kind, shape, 2)


def test_names_around_a_weight():
    for weight, path, bias in (("a.fc.weight", "a.fc", "a.fc.bias"), ("weight", "", "bias")):
        assert is_weight(weight)
        assert module_path(weight) == path
        assert beside(weight, "bias") == bias
        assert module_path(module_path(factor_names(weight).down)) == path
    assert not is_weight("attention.in_proj_weight")
