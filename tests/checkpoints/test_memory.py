from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.errors import CheckpointError
from tests.samples.contents import assert_holds


class _Every(nn.Module):
    """One layer of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.unbiased = nn.Linear(4, 3, bias=False)
        self.conv1 = nn.Conv1d(4, 6, 3, groups=2)
        self.conv2 = nn.Conv2d(4, 4, 3, groups=4)
        self.conv3 = nn.Conv3d(2, 4, 3)
        # Square: from the shapes alone these look like plain convolutions.
        self.up1 = nn.ConvTranspose1d(4, 4, 3)
        self.up2 = nn.ConvTranspose2d(4, 4, 3, groups=2)
        self.up3 = nn.ConvTranspose3d(4, 4, 3)
        self.lstm = nn.LSTM(4, 5, num_layers=2, bidirectional=True, proj_size=2)
        self.gru = nn.GRU(4, 5)
        self.cell = nn.RNNCell(4, 5)
        self.words = nn.Embedding(7, 4)
        self.bag = nn.EmbeddingBag(7, 4)
        self.attention = nn.MultiheadAttention(4, 2)
        self.bilinear = nn.Bilinear(2, 3, 4)
        self.norm = nn.LayerNorm((3, 4))
        self.batch_norm = nn.BatchNorm2d(4)
        self.table = nn.Parameter(torch.ones(3, 3))
        self.register_buffer("mask", torch.ones(3, 3))
        self.register_buffer("scratch", torch.ones(3, 3), persistent=False)


def test_a_state_dict(state: dict[str, torch.Tensor]) -> None:
    assert_holds(state, state)
    with open_checkpoint(state) as checkpoint:
        assert checkpoint.path is None
        assert checkpoint.format == "state dict"
        assert checkpoint.read("fc.weight").data_ptr() == state["fc.weight"].data_ptr()
        with pytest.raises(CheckpointError, match="this state dict: holds no tensor 'v'"):
            checkpoint.read("v")


def test_a_training_checkpoint_in_memory(state: dict[str, torch.Tensor]) -> None:
    saved = {"model": state, "epoch": 3}
    assert_holds(saved, state)
    assert open_checkpoint(saved).notes == ("Took 'model'; left alone: epoch (number).",)


def test_ties_and_meta_tensors_of_a_state_dict() -> None:
    table = torch.ones(3, 3)
    meta = torch.empty(3, 3, device="meta")
    state = {"a.weight": table, "b.weight": table, "c.weight": meta, "d.weight": meta, "e.weight": table.clone()}
    checkpoint = open_checkpoint(state)
    assert checkpoint.ties == {"a.weight": ("b.weight",), "c.weight": ("d.weight",)}
    assert checkpoint.parameters == 27
    with pytest.raises(CheckpointError, match=r"c\.weight has no values"):
        checkpoint.read("c.weight")


def test_a_module_holds_what_its_state_dict_holds() -> None:
    module = _Every()
    assert_holds(module, module.state_dict())
    assert list(open_checkpoint(module).tensors) == list(module.state_dict())


def test_a_module_says_kinds_groups_and_biases() -> None:
    layers = {layer.tensor: layer for layer in open_checkpoint(_Every()).layers()}
    kinds = {name.removesuffix(".weight"): layer.kind for name, layer in layers.items() if layer.kind != "vector"}
    recurrent = {name: kind for name, kind in kinds.items() if name.split(".")[0] in ("lstm", "gru", "cell")}
    # Four gates of ih and hh in four places, and hr there; three of two; an RNN has one.
    assert len(recurrent) == 4 * (2 * 4 + 1) + 2 * 3 + 2
    assert set(recurrent.values()) == {"recurrent"}
    assert {name: kind for name, kind in kinds.items() if name not in recurrent} == {
        "linear": "linear",
        "unbiased": "linear",
        "conv1": "conv1d",
        "conv2": "conv2d",
        "conv3": "conv3d",
        "up1": "conv_transpose1d",
        "up2": "conv_transpose2d",
        "up3": "conv_transpose3d",
        "words": "embedding",
        "bag": "embedding",
        **{f"attention.in_proj_weight[{label}]": "linear" for label in "qkv"},
        "attention.out_proj": "linear",
        "bilinear": "unknown",
        "norm": "unknown",
        "norm.bias": "unknown",
        "table": "linear",
        "mask": "linear",
    }
    assert layers["mask"].skip_reason(min_size=1) == "a buffer, not a learned weight"
    groups = {name.removesuffix(".weight"): layer.groups for name, layer in layers.items() if layer.groups > 1}
    assert groups == {"conv1": 2, "conv2": 4, "up2": 2}
    assert layers["linear.weight"].bias == "linear.bias"
    assert layers["unbiased.weight"].bias is None
    assert layers["cell.weight_ih"].bias is None


def test_a_lone_layer_is_a_module_too() -> None:
    weight, bias = open_checkpoint(nn.Linear(4, 3)).layers()
    assert (weight.tensor, weight.kind, weight.bias) == ("weight", "linear", "bias")
    assert bias.kind == "vector"


def test_tied_parameters_and_shared_modules() -> None:
    shared = nn.Linear(4, 4)
    model = nn.ModuleDict(
        {"embed": nn.Embedding(7, 4), "first": shared, "second": shared, "head": nn.Linear(4, 7, bias=False)}
    )
    model["head"].weight = model["embed"].weight
    checkpoint = open_checkpoint(model)
    assert set(checkpoint.tensors) == set(model.state_dict())
    assert checkpoint.ties == {
        "embed.weight": ("head.weight",),
        "first.weight": ("second.weight",),
        "first.bias": ("second.bias",),
    }
    layers = {layer.name: layer for layer in checkpoint.layers()}
    assert layers["embed"].kind == "linear"
    assert layers["embed"].aliases == ("head.weight",)
    assert checkpoint.parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("parametrization", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_a_parametrized_weight_is_the_effective_one(
    parametrization: Callable[[nn.Module], nn.Module],
) -> None:
    layer = nn.Linear(6, 5)
    parametrization(layer)
    model = nn.ModuleDict({"first": layer, "second": layer, "plain": nn.Linear(2, 2)}).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    checkpoint = open_checkpoint(model)
    assert set(checkpoint.tensors) == {
        f"{name}.{tensor}" for name in ("first", "second", "plain") for tensor in ("weight", "bias")
    }
    assert checkpoint.ties == {"first.weight": ("second.weight",), "first.bias": ("second.bias",)}
    values = checkpoint.read("first.weight")
    # Looking changes nothing: spectral normalisation iterates whenever its weight is asked for in training.
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(module.training for module in model.modules())
    model.eval()
    assert torch.equal(values, layer.weight)
    assert not values.requires_grad
    kinds = {layer.tensor: (layer.kind, layer.bias) for layer in checkpoint.layers()}
    assert kinds["first.weight"] == ("linear", "first.bias")


def test_lazy_meta_and_empty_modules(refusal: Callable[..., str]) -> None:
    assert "LazyLinear has no shape yet" in refusal(nn.Sequential(nn.LazyLinear(3)))
    assert "no tensors" in refusal(nn.ReLU())
    assert "nothing at all" in refusal({})
    with torch.device("meta"):
        checkpoint = open_checkpoint(nn.Linear(64, 64))
    weight, _ = checkpoint.layers()
    assert "meta device" in (weight.skip_reason() or "")
    with pytest.raises(CheckpointError, match="weight has no values"):
        checkpoint.read("weight")


def test_a_compiled_module_keeps_its_names() -> None:
    wrapped = nn.Module()
    wrapped.add_module("_orig_mod", nn.Linear(2, 2))
    assert_holds(wrapped, wrapped.state_dict())
