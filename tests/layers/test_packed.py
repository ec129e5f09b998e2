"""Tensors that hold several matrices, against what torch's modules do with them."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from rmt_compress import analyze, compress, make_plan
from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.layers import infer_layers
from rmt_compress.layers.layer import TensorInfo


def sources(module):
    return module, module.state_dict()


def weights(source):
    checkpoint = open_checkpoint(source)
    return {layer.tensor: checkpoint.weight(layer) for layer in checkpoint.layers() if layer.part is not None}


def test_q_k_and_v_are_the_three_projections():
    attention = nn.MultiheadAttention(8, 2, bias=False)
    inputs = torch.randn(5, 8)
    expected = functional.linear(inputs, attention.in_proj_weight).chunk(3, dim=-1)
    for source in sources(attention):
        found = weights(source)
        assert list(found) == [f"in_proj_weight[{label}]" for label in "qkv"]
        for weight, outputs in zip(found.values(), expected, strict=True):
            torch.testing.assert_close(inputs @ weight.T, outputs)


@pytest.mark.parametrize(
    ("module", "gates"),
    (
        (nn.LSTM(6, 5), "ifgo"),
        (nn.LSTM(6, 5, proj_size=3), "ifgo"),
        (nn.LSTM(6, 5, bidirectional=True, num_layers=2), "ifgo"),
        (nn.LSTMCell(6, 5), "ifgo"),
        (nn.GRU(6, 5), "rzn"),
        (nn.GRUCell(6, 6), "rzn"),
    ),
)
def test_gates_are_the_rows_that_belong_to_them(module, gates):
    state = module.state_dict()
    for source in sources(module):
        found = weights(source)
        packed = [name for name in state if name.startswith(("weight_ih", "weight_hh"))]
        assert list(found) == [f"{name}[{gate}]" for name in packed for gate in gates]
        for name in packed:
            torch.testing.assert_close(torch.cat([found[f"{name}[{gate}]"] for gate in gates]), state[name])


def test_an_lstm_cell_computes_with_the_gates_as_labelled():
    cell = nn.LSTMCell(6, 5)
    found = weights(cell)
    bias = (cell.bias_ih + cell.bias_hh).chunk(4)
    x, h, c = torch.randn(3, 6), torch.randn(3, 5), torch.randn(3, 5)
    i, f, g, o = (
        x @ found[f"weight_ih[{gate}]"].T + h @ found[f"weight_hh[{gate}]"].T + bias[index]
        for index, gate in enumerate("ifgo")
    )
    state = f.sigmoid() * c + i.sigmoid() * g.tanh()
    hidden, memory = cell(x, (h, c))
    torch.testing.assert_close(memory, state)
    torch.testing.assert_close(hidden, o.sigmoid() * state.tanh())


@pytest.mark.parametrize(
    "shapes",
    (
        {"attn.in_proj_weight": (24, 9)},  # not three squares
        {"rnn.weight_ih_l0": (20, 6), "rnn.weight_hh_l0": (20, 20)},  # a plain RNN
        {"rnn.weight_ih_l0": (20, 6)},  # whose state's size nothing tells
        {"rnn.weight_hh_l0": (20, 0)},
    ),
)
def test_one_matrix_stays_one(shapes):
    tensors = {name: TensorInfo(name, shape, "float32", 0) for name, shape in shapes.items()}
    assert [layer.tensor for layer in infer_layers(tensors)] == list(shapes)


def test_parts_are_truncated_in_place_each_by_itself():
    attention = nn.MultiheadAttention(64, 4).eval()
    before = {name: tensor.clone() for name, tensor in attention.state_dict().items()}
    plan = make_plan(analyze(attention, exclude=("in_proj_weight[k]",)), rule="rank:7", when_not_smaller="truncate")
    small, state = compress(attention, plan), compress(attention.state_dict(), plan)
    for packed in (small.in_proj_weight.detach(), state["in_proj_weight"]):
        q, k, v = packed.chunk(3)
        assert torch.equal(k, before["in_proj_weight"][64:128])
        for cut, whole in ((q, before["in_proj_weight"][:64]), (v, before["in_proj_weight"][128:])):
            u, s, vt = torch.linalg.svd(whole.double())
            torch.testing.assert_close(cut.double(), (u[:, :7] * s[:7]) @ vt[:7], atol=1e-5, rtol=1e-5)
    inputs = torch.randn(2, 5, 64)
    assert small(inputs, inputs, inputs)[0].shape == inputs.shape
    assert all(torch.equal(tensor, before[name]) for name, tensor in attention.state_dict().items())
