"""Folders whose weights transformers joins, cuts or turns as it loads them: put together, and calibrated."""

import pytest
import torch

import rmt_compress as rmt
from rmt_compress.analysis.run_settings import RunSettings
from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.decomposition.moments_file import load_moments, save_moments
from rmt_compress.errors import CheckpointError
from rmt_compress.networks.calibration_settings import CalibrationSettings
from rmt_compress.networks.loading import load_model
from rmt_compress.networks.streamed import block_by_block, stored_weights
from rmt_compress.networks.streamed.block_by_block import calibrate_stored
from rmt_compress.planning.budgets import BudgetSettings
from rmt_compress.pruning import unasked_calibration
from rmt_compress.pruning.budgeted import Request
from rmt_compress.pruning.road import prune
from rmt_compress.saving.library_conversions import conversions
from tests.calibration.test_block_by_block import BATCHES, LLAMA, assert_same
from tests.samples.renamed_families import small_network
from tests.samples.transformers_models import IDS, built, logits

transformers = pytest.importorskip("transformers", minversion="5")  # before, experts are layers of their own
mapping = pytest.importorskip("transformers.conversion_mapping")
loading = pytest.importorskip("transformers.core_model_loading")

EXPERTS = "model.layers.{}.block_sparse_moe.experts.{}.{}.weight"
MIXTURES = ("Qwen2Moe", "Qwen3Moe", "Olmoe", "DeepseekV2", "DeepseekV3", "Ernie4_5_Moe")


@pytest.fixture
def fits(monkeypatch):
    """Says of every network that it fits as a whole, or that none does."""

    def say(*, whole):
        for module in (block_by_block, unasked_calibration):
            monkeypatch.setattr(module, "fits_whole", lambda checkpoint, max_memory: whole)

    return say


def both_ways(folder, batches, fits, **options):
    fits(whole=True)
    whole = calibrate_stored(folder, batches, **options)
    fits(whole=False)
    return whole, calibrate_stored(folder, batches, max_memory="2GB", **options)


@pytest.fixture
def mixtral(tmp_path):
    built("mixtral").save_pretrained(tmp_path / "mixtral")
    return tmp_path / "mixtral"


def test_experts_have_their_part_of_the_moments_of_the_stack(mixtral, fits):
    whole, found = both_ways(mixtral, BATCHES, fits)
    assert found.record["blocks"] == LLAMA
    assert_same(found, whole)
    # Of the network, whose layers are stacks.
    stacks = rmt.calibrate(load_model(mixtral), BATCHES)
    for at in range(2):
        both, down = (
            stacks.layers[f"model.layers.{at}.mlp.experts.{name}"] for name in ("gate_up_proj", "down_proj")
        )
        width = both.outputs.shape[1] // 2
        for expert in range(3):
            w1, w2, w3 = (found.layers[EXPERTS.format(at, expert, name)] for name in ("w1", "w2", "w3"))
            assert w1.inputs is w3.inputs
            torch.testing.assert_close(w1.inputs, both.inputs[expert])
            torch.testing.assert_close(w1.outputs, both.outputs[expert, :width, :width])
            torch.testing.assert_close(w3.outputs, both.outputs[expert, width:, width:])
            torch.testing.assert_close(w2.mean, down.mean[expert])
            torch.testing.assert_close(w2.outputs, down.outputs[expert])
            assert w1.count == w2.count > 0
    counts = [found.layers[EXPERTS.format(0, expert, "w1")].count for expert in range(3)]
    assert round(sum(counts) / 3) == stacks.layers["model.layers.0.mlp.experts.gate_up_proj"].count


def test_an_expert_is_measured_alone_where_it_is_asked_for(mixtral, fits):
    asked = [EXPERTS.format(1, 2, "w3"), "model.layers.0.self_attn.q_proj.weight"]
    whole, found = both_ways(mixtral, BATCHES, fits, layers=asked)
    assert sorted(found.layers) == sorted(asked)
    assert_same(found, whole)


def test_an_expert_that_nothing_reaches_has_no_moments(mixtral, fits):
    whole, found = both_ways(mixtral, [{"input_ids": IDS[:1, :1]}], fits)
    assert_same(found, whole)
    missed = [name for name, why in found.left_out.items() if why == "did not run on the calibration inputs"]
    # One token goes to two of three.
    assert len(missed) == 2 * 3


@pytest.mark.parametrize("family", MIXTURES)
def test_families_of_mixtures(tmp_path, fits, family):
    cls = getattr(transformers, f"{family}ForCausalLM")
    config, _ = small_network(cls)
    config.num_experts_per_tok = 2  # DeepSeek V2 says none
    if hasattr(config, "qk_rope_head_dim"):
        config.head_dim, config.first_k_dense_replace = config.qk_rope_head_dim, 1
    cls(config).save_pretrained(tmp_path)
    whole, found = both_ways(tmp_path, BATCHES, fits)
    assert len(found.record["blocks"]) == 4
    assert_same(found, whole)
    with open_checkpoint(tmp_path) as checkpoint:
        experts = {name for name in checkpoint.tensors if ".experts." in name and name.endswith("weight")}
    assert experts <= found.layers.keys() | found.left_out.keys()
    assert experts & found.layers.keys()


def test_no_more_than_a_block_of_experts_is_in_memory(mixtral, fits, monkeypatch):
    fits(whole=False)
    held = []
    own = stored_weights.StoredWeights.read

    def read(self, places):
        own(self, places)
        weights = {id(p): p for p in self._model.parameters() if p.untyped_storage().nbytes() > p.element_size()}
        held.append(sum(weight.nbytes for weight in weights.values()))

    monkeypatch.setattr(stored_weights.StoredWeights, "read", read)
    calibrate_stored(mixtral, BATCHES, max_memory="2GB")
    weights = load_model(mixtral).model
    assert max(held) == sum(p.nbytes for p in weights.layers[0].parameters()) + weights.norm.weight.nbytes


def test_it_is_cut_with_these_moments(mixtral, tmp_path, fits):
    fits(whole=False)
    moments = calibrate_stored(mixtral, BATCHES, max_memory="2GB")
    save_moments(moments, tmp_path / "m")
    assert_same(load_moments(tmp_path / "m"), moments, rel=0)
    within = Request(BudgetSettings(keep=0.6), CalibrationSettings(), moments=tmp_path / "m")
    result = prune(mixtral, tmp_path / "small", within=within, running=RunSettings(max_memory="2GB"))
    assert result.verified == "unverified"
    assert result.budget["reached"]["keep"] <= 0.6
    assert result.plan.basis == "two-sided"
    cut = [each for each in result.plan.layers if each.changes and ".experts." in each.tensor]
    assert cut
    assert all(each.predicted_loss is not None for each in cut)
    left = logits(load_model(tmp_path / "small"), "mixtral")
    assert left.isfinite().all()
    assert not torch.equal(left, logits(built("mixtral"), "mixtral"))


class Doubled(loading.ConversionOps):
    """Changes entries."""

    def convert(self, input_dict, source_patterns, target_patterns, **_):
        ((_, (tensor,)),) = input_dict.items()
        return {target_patterns[0]: 2 * tensor}

    @property
    def reverse_op(self):
        return loading.Interleave(0)


QKV = [f"self_attn.{name}_proj.weight" for name in "qkv"]
STEPS = {
    "divided": (["self_attn.qkv.weight"], QKV, [loading.Chunk(0)]),
    "turned": (["o.weight"], ["o_proj.weight"], [loading.Transpose(0, 1)]),
    "permuted": (["q.weight"], ["q_proj.weight"], [loading.PermuteForRope()]),
    "joined and permuted": (
        ["w1.weight", "w3.weight"],
        ["up_proj.weight"],
        [loading.Concatenate(0), loading.Interleave(0)],
    ),
    "joined side by side": (["w1.weight", "w3.weight"], ["up_proj.weight"], [loading.Concatenate(1)]),
}


@pytest.fixture
def llama_loaded(monkeypatch, tmp_path):
    """A Llama whose folder the library loads with one more step."""

    def saved(sources, targets, operations):
        step = loading.WeightConverter([*sources], [*targets], operations)
        known = mapping._build_checkpoint_conversion_mapping() | {"LlamaForCausalLM": [step]}
        monkeypatch.setattr(mapping, "_checkpoint_conversion_mapping_cache", known)
        built("llama").save_pretrained(tmp_path / "llama")
        return tmp_path / "llama"

    return saved


@pytest.mark.parametrize("sort", STEPS)
def test_what_else_the_library_does(llama_loaded, fits, sort):
    folder = llama_loaded(*STEPS[sort])
    model = load_model(folder)
    state = model.state_dict()
    with open_checkpoint(folder) as checkpoint:
        found = conversions(checkpoint, model)
        assert len(found.made) == (6 if sort == "divided" else 2)
        for name, made in found.made.items():
            assert torch.equal(made.put_together(state[name].shape, torch.float32, checkpoint.read), state[name])
        strange = [name for name in checkpoint.tensors if name not in state]
    whole, streamed = both_ways(folder, BATCHES, fits)
    assert_same(streamed, whole)
    moments = rmt.calibrate(model, BATCHES)
    if sort in ("divided", "turned"):
        assert not {*strange} & streamed.layers.keys()
    else:
        assert {*strange} <= streamed.layers.keys()
    if sort == "permuted":
        first = "model.layers.0.self_attn.q"
        G = streamed.layers[f"{first}.weight"].outputs
        with open_checkpoint(folder) as checkpoint:
            turned = (state[f"{first}_proj.weight"][:, None] == checkpoint.read(f"{first}.weight")[None]).all(2)
        there = turned.int().argmax(0)
        assert not torch.equal(there, torch.arange(len(there)))
        torch.testing.assert_close(G, moments.layers[f"{first}_proj.weight"].outputs[there[:, None], there])
    if sort == "joined side by side":
        up = "model.layers.1.mlp.up_proj.weight"
        for name, own in (("w1", slice(0, 16)), ("w3", slice(16, 32))):
            part = streamed.layers[f"model.layers.1.mlp.{name}.weight"]
            torch.testing.assert_close(part.inputs, moments.layers[up].inputs[own, own])
            torch.testing.assert_close(part.mean, moments.layers[up].mean[own])
            torch.testing.assert_close(part.outputs, moments.layers[up].outputs)


def test_entries_that_are_changed_are_refused(llama_loaded, fits):
    folder = llama_loaded(["o.weight"], ["o_proj.weight"], [Doubled()])
    fits(whole=False)
    with pytest.raises(CheckpointError, match=r"nobody tells which rows and columns .* give more memory") as caught:
        calibrate_stored(folder, BATCHES, max_memory="2GB")
    assert "\n" not in str(caught.value)
