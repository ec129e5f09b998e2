"""Products stored as two factors, against the singular values of the product itself."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from rmt_compress import analyze, compress, make_plan, save
from rmt_compress.cli.app import app
from rmt_compress.decomposition.products import decompose_product, product_singular_values
from rmt_compress.layers import infer_layers
from rmt_compress.layers.kinds import factor_shapes
from rmt_compress.layers.layer import TensorInfo
from rmt_compress.layers.pairs import pair_matrices
from rmt_compress.layers.splitting import join_factors
from rmt_compress.spectrum import NonFiniteError, effective_rank
from tests.samples.seeds import repeatable


def factors(rows, columns, rank):
    return torch.randn(rank, columns), torch.randn(rows, rank)


@repeatable
def adapter():
    """As peft saves it: two targets of rank 8, one of which uses two directions."""
    first, second = factors(96, 64, 8), factors(64, 128, 8)
    second[1][:, 2:] *= 1e-6
    prefix = "base_model.model.layers.0"
    return {
        f"{prefix}.attn.q_proj.lora_A.weight": first[0],
        f"{prefix}.attn.q_proj.lora_B.weight": first[1],
        f"{prefix}.mlp.down_proj.lora_A.weight": second[0],
        f"{prefix}.mlp.down_proj.lora_B.weight": second[1],
    }


@pytest.mark.parametrize(
    ("kind", "shape"),
    (("linear", (30, 50)), ("conv2d", (30, 10, 3, 3)), ("conv_transpose2d", (30, 12, 3, 2))),
)
def test_singular_values_are_those_of_the_product(kind, shape):
    down, up = (torch.randn(size) for size in factor_shapes(kind, shape, 6))
    product = join_factors(kind, shape, down, up).reshape(shape[0], -1)
    expected = torch.linalg.svdvals(product.double())[:6].numpy()
    np.testing.assert_allclose(product_singular_values(*pair_matrices(down, up)), expected, rtol=1e-5)


def test_effective_rank_of_equal_and_of_one_value():
    assert effective_rank(np.ones(7)) == pytest.approx(7)
    assert effective_rank(np.array([3.0, 0, 0])) == pytest.approx(1)
    assert effective_rank(np.zeros(3)) == 0
    # By hand: shares 3/4 and 1/4.
    assert effective_rank(np.array([3.0, 1.0])) == pytest.approx(np.exp(0.75 * np.log(4 / 3) + 0.25 * np.log(4)))


def test_an_adapter_file_is_reported_by_its_products(tmp_path):
    path = tmp_path / "adapter_model.safetensors"
    save_file(adapter(), path)
    analysis = analyze(path)
    assert not analysis.analyzed
    first, second = analysis.factorized
    assert first.layer.name == "base_model.model.layers.0.attn.q_proj"
    assert (first.layer.matrix, len(first.singular_values)) == ((96, 64), 8)
    assert 6 < first.effective_rank < 8
    assert second.effective_rank == pytest.approx(2, abs=0.1)
    assert "rank 8 of 64×128, effective rank" in second.reason
    assert analysis.parameters == sum(tensor.numel() for tensor in adapter().values())
    reported = {layer["tensor"]: layer for layer in analysis.to_json()["layers"]}
    assert reported[second.layer.tensor]["factors"] == [second.layer.tensor, second.layer.pair.second]
    assert reported[second.layer.tensor]["spectral_norm"] == pytest.approx(second.singular_values[0])
    assert not any(decision.changes for decision in make_plan(analysis, sparsify=0.5).layers)


def test_on_the_command_line_an_adapter_is_no_failure(tmp_path, capsys):
    path = tmp_path / "adapter_model.safetensors"
    save_file(adapter(), path)
    app(["analyze", str(path)], standalone_mode=False)
    shown = capsys.readouterr().out
    assert "already factorized" in shown
    assert "2 factorized already" in shown
    assert "0 skipped" in shown
    app(["analyze", str(path), "--json"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out)["totals"]["layers_analyzed"] == 0


@pytest.mark.parametrize(
    ("first", "second", "name"),
    (
        ("q.lora_A.weight", "q.lora_B.weight", "q"),
        ("q.lora_A.mine.weight", "q.lora_B.mine.weight", "q.mine"),
        ("unet_to_q.lora_down.weight", "unet_to_q.lora_up.weight", "unet_to_q"),
        ("to_q_lora.down.weight", "to_q_lora.up.weight", "to_q_lora"),
    ),
)
def test_names_of_pairs(first, second, name):
    shapes = {second: (50, 4), first: (4, 40)}
    layers = infer_layers({name: TensorInfo(name, shape, "float32", 0) for name, shape in shapes.items()})
    other, pair = layers
    assert (pair.name, pair.kind, pair.matrix) == (name, "factors", (50, 40))
    assert other.skip_reason() == f"the other factor of {first}"


@pytest.mark.parametrize(
    "shapes",
    (
        {"a.lora_A.weight": (4, 40), "a.lora_B.weight": (50, 5)},  # ranks differ
        {"a.lora_A.weight": (40, 40), "a.lora_B.weight": (50, 40)},  # no low rank
        {"a_lora.down.weight": (4, 40), "a_lora.down.bias": (4,), "a_lora.up.weight": (50, 4)},  # something between
        {"a.down.weight": (4, 40), "a.up.weight": (50, 4)},  # a bottleneck, or a split that no manifest tells of
        {"a.lora_A.weight": (4, 40)},
        {"a.lora_A.weight": (0, 40), "a.lora_B.weight": (50, 0)},
    ),
)
def test_what_makes_no_pair(shapes):
    layers = infer_layers({name: TensorInfo(name, shape, "float32", 0) for name, shape in shapes.items()})
    assert all(layer.pair is None for layer in layers)


def test_our_own_files_are_recognised_and_live_modules_are_not(tmp_path):
    model = nn.Sequential(nn.Linear(64, 80), nn.ReLU(), nn.Linear(80, 50))
    plan = make_plan(analyze(model), rule="rank:6")
    small = compress(model, plan)
    # Names alone are no evidence: each factor is a layer, which a lower rank may cut again.
    assert [layer.name for layer in analyze(small.state_dict()).layers if layer.kind == "linear"] == [
        f"{layer}.{factor}" for layer in (0, 2) for factor in ("down", "up")
    ]
    save(small, tmp_path / "small.safetensors", plan=plan)
    first, _ = analyze(tmp_path / "small.safetensors").factorized
    assert (first.layer.name, first.layer.matrix) == ("0", (80, 64))
    expected = torch.linalg.svdvals(model[0].weight.detach().double())[:6].numpy()
    np.testing.assert_allclose(first.singular_values, expected, rtol=1e-5)
    # Training may split the factors of a live module again.
    assert not analyze(small).factorized


def test_nan_in_a_factor_is_named():
    state = adapter()
    state["base_model.model.layers.0.attn.q_proj.lora_B.weight"][3, 3] = float("nan")
    (damaged,) = analyze(state).damaged
    assert damaged.reason == "1 of its factors' entries are NaN or Inf"
    with pytest.raises(NonFiniteError):
        decompose_product(torch.full((2, 3), float("inf")), torch.ones(4, 2))


def test_a_product_that_is_zero():
    down, _ = factors(64, 64, 4)
    (layer,) = analyze({"q.lora_A.weight": down, "q.lora_B.weight": torch.zeros(64, 4)}).factorized
    assert layer.reason.endswith("but the product is zero")


def test_the_product_is_never_formed():
    """Two factors of a 10⁵ × 10⁵ matrix: the product would take 40 GB."""
    down, up = factors(100_000, 100_000, 4)
    (layer,) = analyze({"q.lora_A.weight": down, "q.lora_B.weight": up}).factorized
    assert layer.singular_values[0] < 150_000
