"""Which layer a named tensor belongs to, checked against real torch modules."""

import time

import pytest
import torch
from torch import nn

from rmt_compress.layers import infer_layers
from rmt_compress.layers.layer import TensorInfo


def layers_of(module: nn.Module, ties=None):
    state = module.state_dict()
    infos = {
        name: TensorInfo(name, tuple(t.shape), str(t.dtype).removeprefix("torch."), t.nbytes)
        for name, t in state.items()
    }
    return {layer.name: layer for layer in infer_layers(infos, ties)}


class Everything(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 4)
        self.plain = nn.Linear(6, 4, bias=False)
        self.conv1 = nn.Conv1d(3, 8, 5)
        self.conv2 = nn.Conv2d(3, 8, 5)
        self.conv3 = nn.Conv3d(3, 8, 5)
        self.up = nn.ConvTranspose2d(8, 3, 4)
        self.norm = nn.BatchNorm2d(8)
        self.rnn = nn.LSTM(5, 7, bidirectional=True)
        self.embed_tokens = nn.Embedding(11, 5)
        self.position_embeddings = nn.Embedding(11, 5)


@pytest.mark.parametrize(
    ("name", "kind", "matrix", "bias"),
    (
        ("fc", "linear", (4, 6), "fc.bias"),
        ("plain", "linear", (4, 6), None),
        ("conv1", "conv1d", (8, 15), "conv1.bias"),
        ("conv2", "conv2d", (8, 75), "conv2.bias"),
        ("conv3", "conv3d", (8, 375), "conv3.bias"),
        ("up", "conv_transpose2d", (8, 48), "up.bias"),
        ("rnn.weight_ih_l0[i]", "recurrent", (7, 5), "rnn.bias_ih_l0"),
        ("rnn.weight_hh_l0_reverse[o]", "recurrent", (7, 7), "rnn.bias_hh_l0_reverse"),
        ("embed_tokens", "embedding", (11, 5), None),
        ("position_embeddings", "embedding", (11, 5), None),
        ("norm", "vector", None, "norm.bias"),
        ("fc.bias", "vector", None, None),
        ("norm.num_batches_tracked", "vector", None, None),
    ),
)
def test_kind_matrix_and_bias(name, kind, matrix, bias):
    layer = layers_of(Everything())[name]
    assert (layer.kind, layer.matrix, layer.bias) == (kind, matrix, bias)


def test_every_tensor_is_listed_in_order_and_covered():
    module = Everything()
    assert list(dict.fromkeys(layer.stored for layer in layers_of(module).values())) == list(module.state_dict())
    assert sum(layer.parameters for layer in layers_of(module).values()) == sum(
        tensor.numel() for tensor in module.state_dict().values()
    )


def test_tied_weight_is_one_layer_with_two_names():
    module = nn.ModuleDict({"embed": nn.Embedding(50, 8), "head": nn.Linear(8, 50, bias=False)})
    layers = layers_of(module, ties={"embed.weight": ("head.weight",)})
    assert set(layers) == {"embed"}
    # An embedding that is also an output head acts as a matrix.
    assert layers["embed"].kind == "linear"
    assert layers["embed"].aliases == ("head.weight",)


@pytest.mark.parametrize(
    ("shape", "dtype", "options", "reason"),
    (
        ((64, 64), "float32", {}, None),
        ((64,), "float32", {}, "vector"),
        ((64, 64), "int8", {}, "int8"),
        ((64, 31), "float32", {"min_size": 32}, "31 is below 32"),
        ((64, 31), "float32", {"min_size": 20}, None),
        ((64, 0), "float32", {}, "empty"),
        ((2,) * 6, "float32", {}, "6-d"),
    ),
)
def test_skip_reason(shape, dtype, options, reason):
    (layer,) = infer_layers({"a.weight": TensorInfo("a.weight", shape, dtype, 0)})
    found = layer.skip_reason(**options)
    assert (found is None) if reason is None else (reason in found)


def test_embeddings_and_groups():
    (layer,) = infer_layers({"wte.weight": TensorInfo("wte.weight", (99, 64), "float32", 0)})
    assert "on request" in layer.skip_reason()
    assert layer.skip_reason(embeddings=True) is None


def test_as_matrix_needs_a_matrix():
    from rmt_compress.layers import as_matrix

    (layer,) = infer_layers({"b": TensorInfo("b", (3,), "float32", 0)})
    with pytest.raises(ValueError, match="no matrix"):
        as_matrix(layer, torch.zeros(3))


def test_a_bare_module_has_no_prefix():
    layers = layers_of(nn.Linear(40, 50))
    assert layers["weight"].bias == "bias"
    assert layers["weight"].kind == "linear"


def state_of(**shapes):
    return {name: TensorInfo(name, shape, "float32", 0) for name, shape in shapes.items()}


def gpt2(*, transposed, bias=True):
    """Shapes of one block of width 40, as transformers' Conv1D and as nn.Linear store it."""
    outputs = {"attn.c_attn": 120, "attn.c_proj": 40, "mlp.c_fc": 160, "mlp.c_proj": 40}
    inputs = {"attn.c_attn": 40, "attn.c_proj": 40, "mlp.c_fc": 40, "mlp.c_proj": 160}
    shapes = {}
    for name, count in outputs.items():
        shapes[f"h.0.{name}.weight"] = (inputs[name], count) if transposed else (count, inputs[name])
        if bias:
            shapes[f"h.0.{name}.bias"] = (count,)
    return state_of(**shapes)


@pytest.mark.parametrize(
    ("tensors", "kind"),
    (
        (gpt2(transposed=True), "linear_transposed"),
        (gpt2(transposed=False), "linear"),  # GPT-BigCode, OpenAI's CLIP
        (gpt2(transposed=False, bias=False), "linear"),  # nanoGPT
    ),
)
def test_products_of_gpt2_are_told_by_their_biases_the_square_one_by_its_neighbours(tensors, kind):
    found = {layer.name: layer for layer in infer_layers(tensors) if layer.kind != "vector"}
    assert {layer.kind for layer in found.values()} == {kind}
    assert found["h.0.attn.c_attn"].matrix == (120, 40)


def test_a_square_product_alone_is_a_linear():
    tensors = state_of(**{"attn.c_proj.weight": (40, 40), "attn.c_proj.bias": (40,)})
    assert infer_layers(tensors)[0].kind == "linear"


@pytest.mark.parametrize("part", ("x_embed_", "down.", "parametrizations.1.", "weight_", "a_scale."))
def test_names_of_hostile_length_take_no_hostile_time(part):
    tensors = state_of(**{part * 20_000 + end: (40, 50) for end in ("down.weight", "up.weight", "w_v", "w_scale")})
    started = time.process_time()
    infer_layers(tensors)
    # Where the time grows with the square of the length it is a minute and more.
    assert time.process_time() - started < 10
