"""What a tensor is takes evidence; without it the tensor is kept, until the user says what it is."""

import json
import time

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import rmt_compress as rmt
from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.errors import SettingsError
from rmt_compress.layers import infer_layers
from rmt_compress.layers.layer import TensorInfo
from rmt_compress.layers.roles import KEPT_STACK, Config


def kinds_of(config=None, **shapes):
    infos = {name: TensorInfo(name, shape, "float32", 0) for name, shape in shapes.items()}
    return {layer.tensor: layer.kind for layer in infer_layers(infos, config=config or Config())}


@pytest.mark.parametrize(
    ("shapes", "kind"),
    (
        # Biases: of the weight's own shape, one entry per output, one row per expert.
        ({"a.weight": (96, 64), "a.bias": (96, 64)}, "unknown"),
        ({"a.weight": (8, 96, 64), "a.bias": (8, 96, 64)}, "unknown"),
        ({"a.weight": (96, 64), "a.bias": (96,)}, "linear"),
        ({"a.weight": (64, 48, 5), "a.bias": (64,)}, "conv1d"),
        ({"a.weight": (64, 48, 5), "a.bias": (48,)}, "conv_transpose1d"),
        ({"a.weight": (64, 48, 40), "a.bias": (64, 48)}, "stack"),
        # An nn.Bilinear has a bias like a Conv1d, but no kernel.
        ({"a.weight": (64, 48, 40), "a.bias": (64,)}, "unknown"),
        ({"a.weight": (64, 20, 20), "a.bias": (64,)}, "unknown"),
        ({"bilinear.weight": (64, 5, 5), "bilinear.bias": (64,)}, "unknown"),
        # Neighbours' widths.
        ({"a.weight": (64, 48, 5)}, "unknown"),
        ({"a.weight": (64, 48, 5), "b.weight": (48, 10, 3), "b.bias": (48,)}, "conv1d"),
        ({"a.weight": (64, 48, 5), "bn.weight": (64,), "bn.bias": (64,)}, "conv1d"),
        ({"x.a.weight": (64, 48, 9), "y.bn.weight": (64,), "y.bn.bias": (64,)}, "conv1d"),
        # Names of convolutions, of experts, of routers.
        ({"pos_conv_embed.conv.weight": (64, 4, 128)}, "conv1d"),
        ({"features.0.weight": (64, 3, 3, 3)}, "conv2d"),
        ({"rel_pos_table": (1, 64, 14, 14)}, "unknown"),
        ({"block_sparse_moe.input_linear.weight": (40, 96, 64)}, "stack"),
        ({"layers.0.mlp.experts.gate_up_proj": (4, 96, 64)}, "stack"),
        ({"experts.0.conv.weight": (40, 32, 3)}, "conv1d"),
        ({"mlp.w1": (40, 96, 64), "mlp.router.weight": (40, 64)}, "stack"),
        ({"mlp.w1": (40, 96, 64), "mlp.router.weight": (41, 64)}, "unknown"),
        ({"mlp.w1": (40, 96, 64), "mlp.w2": (40, 64, 96)}, "stack"),
        ({"mlp.w1": (40, 96, 64), "other.w2": (40, 64, 96)}, "unknown"),
        ({"experts.gate_up_proj": (4, 64, 192), "experts.gate_up_proj_bias": (4, 192)}, "stack"),
        # Norms and tables.
        ({"norm.weight": (96, 64)}, "unknown"),
        ({"norm_proj.weight": (96, 64)}, "linear"),
        ({"pos_embed": (197, 64)}, "unknown"),
        ({"visual.positional_embedding": (77, 64)}, "unknown"),
        ({"pos_embed": (1, 197, 64)}, "unknown"),
        ({"position_embeddings.weight": (512, 64)}, "embedding"),
        ({"linear_pos.weight": (64, 64)}, "linear"),
        ({"mlp.up.weight": (256, 64), "mlp.down.weight": (64, 256)}, "linear"),
        # Far more rows than anything else is wide: a table, unless its name says that it is a product.
        ({"items.weight": (9000, 64), "fc.weight": (64, 64)}, "embedding"),
        ({"fc.weight": (9000, 64), "items.weight": (64, 64)}, "linear"),
        ({"items.weight": (9000, 64), "next.weight": (64, 9000)}, "linear"),
        ({"items.weight": (9000, 64)}, "linear"),
    ),
)
def test_a_role_needs_evidence(shapes, kind):
    assert next(iter(kinds_of(**shapes).values())) == kind


@pytest.mark.slow
@pytest.mark.parametrize("shape", ((5, 40, 9), (40, 50, 60), (9000, 64), (9000, 64, 9)))
def test_many_tensors_take_no_hostile_time(shape):
    names = [f"block{number}.{end}" for number in range(3_000) for end in ("w", "a.weight", "gate.weight")]
    infos = {name: TensorInfo(name, shape, "float32", 0) for name in names}
    started = time.process_time()
    assert len(infer_layers(infos)) == len(infos)
    # Where every tensor is held against every other it is minutes.
    assert time.process_time() - started < 4


def test_config_json_is_evidence(tmp_path):
    shapes = {"tok.weight": (500, 64), "lm_head.weight": (500, 64), "odd.w": (12, 96, 64)}
    assert list(kinds_of(**shapes).values()) == ["linear", "linear", "unknown"]
    said = Config(vocabularies=frozenset({500}), experts=frozenset({12}))
    assert list(kinds_of(said, **shapes).values()) == ["embedding", "linear", "stack"]
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, tmp_path / "model.safetensors")
    text = {"model_type": "own", "text_config": {"vocab_size": 500, "num_local_experts": 12}}
    (tmp_path / "config.json").write_text(json.dumps(text), encoding="utf-8")
    for path in (tmp_path, tmp_path / "model.safetensors"):
        assert open_checkpoint(path).config == said
    (tmp_path / "config.json").write_text("no json", encoding="utf-8")
    assert open_checkpoint(tmp_path).config == Config()


def test_a_norm_over_two_axes_is_left_alone(tmp_path):
    net = nn.ModuleDict({"fc": nn.Linear(64, 128), "ln": nn.LayerNorm([96, 64])})
    torch.save(net.state_dict(), tmp_path / "net.pt")
    for layout in ("factorized", "dense"):
        result = rmt.prune(tmp_path / "net.pt", tmp_path / "s.safetensors", layout=layout, force=True)
        actions = {decision.name: decision.action for decision in result.plan.layers}
        assert actions == {"fc": "factorized", "fc.bias": "skipped", "ln": "skipped", "ln.bias": "skipped"}
        assert torch.equal(load_file(tmp_path / "s.safetensors")["ln.weight"], net["ln"].weight)


def test_a_tensor_without_evidence_is_kept_until_the_user_says_what_it_is(tmp_path):
    state = {"odd": torch.randn(40, 96, 64), "up.weight": torch.randn(96, 64)}
    found = rmt.analyze(state)
    assert [(layer.name, layer.reason) for layer in found.skipped] == [("odd", KEPT_STACK)]
    told = rmt.analyze(state, treat_as=["stack:odd", "skip:up"])
    assert [(layer.name, layer.kind) for layer in told.analyzed] == [("odd", "stack")]
    plan = rmt.make_plan(told)
    # The plan knows it, so that whoever carries it out need not say it again.
    small = rmt.compress(state, plan)
    assert {name: tuple(tensor.shape) for name, tensor in small.items()} == {
        "odd.down.weight": (40, plan.layers[0].rank, 64),
        "odd.up.weight": (40, 96, plan.layers[0].rank),
        "up.weight": (96, 64),
    }


@pytest.mark.parametrize(
    ("treatment", "message"),
    (
        ("stack", "treat-as takes KIND:GLOB with KIND one of linear, .*, skip, got 'stack'"),
        ("tensor:odd", "treat-as takes KIND:GLOB"),
        ("stack:nothing", "treat-as stack:nothing: matches no layer; the layers are odd"),
        ("linear:odd", "treat-as linear:odd: odd is 40×96×64, a linear weight has 2 axes"),
    ),
)
def test_what_cannot_be_treated_so_is_said_in_one_line(treatment, message):
    with pytest.raises(SettingsError, match=message):
        rmt.analyze({"odd": torch.randn(40, 96, 64)}, treat_as=[treatment])


def test_what_a_class_says_no_user_may_change():
    with pytest.raises(SettingsError, match="weight is known to be of kind unknown by its class"):
        rmt.analyze(nn.LayerNorm((96, 64)), treat_as=["linear:*weight"])
    bilinear = rmt.analyze(nn.Bilinear(64, 48, 40))
    assert not bilinear.analyzed
    assert "Bilinear, no product or convolution" in bilinear.skipped[0].reason
