"""Stacks of experts, each against what its own matrix says alone, and mixtures that transformers builds."""

import json

import pytest
import torch
from safetensors.torch import save_file

import rmt_compress as rmt
from rmt_compress.cli.app import app
from tests.samples.seeds import repeatable

NAME = "block_sparse_moe.input_linear.weight"


@repeatable
def stack(experts=36, rows=96, columns=64, spikes=(5,)):
    """Noise and a few strong directions, others in every expert."""

    def expert(number):
        k = spikes[number % len(spikes)]
        u, v = (torch.linalg.qr(torch.randn(size, max(k, 1)))[0] for size in (rows, columns))
        return torch.randn(rows, columns) / columns**0.5 + (8 * u @ v.T if k else 0)

    return torch.stack([expert(number) for number in range(experts)])


def tails(weight, rank):
    """What the nearest matrices of this rank leave out, of each expert."""
    return torch.linalg.svdvals(weight.double())[:, rank:].square().sum(1).sqrt()


def test_every_expert_is_looked_at_by_itself():
    weight = stack(spikes=(2, 5, 0))
    (layer,) = rmt.analyze({NAME: weight}).analyzed
    assert (layer.kind, layer.matrix, layer.parameters) == ("stack", (96, 64), weight.numel())
    assert (layer.verdict, layer.fit.spikes) == ("mixed", 5)
    alone = [rmt.analyze({"a.weight": expert}).analyzed[0] for expert in weight]
    assert layer.spikes_shown == f"{min(a.fit.spikes for a in alone)}–5"
    assert layer.fit.gof == max(expert.fit.gof for expert in alone)
    shown = layer.to_json()["experts"]
    assert [expert["spikes"] for expert in shown] == [expert.fit.spikes for expert in alone]
    assert [expert["sigma2"] for expert in shown] == pytest.approx([expert.fit.sigma2 for expert in alone])


def test_noise_only_where_every_expert_is():
    # One expert of ten shows a spike by chance at the default beta, and a stack of many is never noise then.
    (noise,) = rmt.analyze({NAME: stack(spikes=(0,))}, beta=1e-5).analyzed
    assert noise.verdict == "noise"
    one = stack(spikes=(0,))
    one[7] = stack(1)[0]
    (layer,) = rmt.analyze({NAME: one}, beta=1e-5).analyzed
    assert (layer.verdict, layer.fit.spikes) == ("mixed", 5)


@pytest.mark.parametrize(("layout", "shape"), (("factorized", None), ("dense", (36, 96, 64))))
def test_all_experts_are_cut_to_the_rank_of_the_one_that_needs_most(tmp_path, layout, shape):
    weight = stack(spikes=(2, 5))
    save_file({NAME: weight}, tmp_path / "moe.safetensors")
    result = rmt.prune(tmp_path / "moe.safetensors", tmp_path / "s.safetensors", layout=layout)
    (decision,) = result.plan.layers
    assert (decision.action, decision.rank) == ("factorized", 5)
    stored = {name: info.shape for name, info in rmt.open_checkpoint(tmp_path / "s.safetensors").tensors.items()}
    stem = NAME.removesuffix("weight")
    factors = {f"{stem}down.weight": (36, 5, 64), f"{stem}up.weight": (36, 96, 5)}
    assert stored == ({NAME: shape} if shape else factors)
    dense = rmt.load_dense(tmp_path / "s.safetensors")[NAME]
    error = (dense - weight).double().flatten(1).norm(dim=1)
    torch.testing.assert_close(error, tails(weight, 5), rtol=1e-4, atol=1e-5)


def test_a_compressed_stack_says_that_it_is_factorized(tmp_path):
    rmt.save(
        rmt.compress({NAME: stack()}, plan := rmt.make_plan(rmt.analyze({NAME: stack()}))),
        tmp_path / "s.pt",
        plan=plan,
    )
    (pair,) = rmt.analyze(tmp_path / "s.pt").factorized
    assert (pair.matrix, len(pair.singular_values)) == ((96, 64), 5)


def test_a_damaged_expert_is_named():
    weight = stack(4)
    weight[2, 3, 3] = float("nan")
    (layer,) = rmt.analyze({NAME: weight}).damaged
    assert layer.reason == "expert 2: 1 of its entries are NaN or Inf"


def test_on_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    path = tmp_path / "moe.safetensors"
    save_file({NAME: stack(spikes=(2, 5))}, path)
    app(["analyze", str(path), "--csv", str(tmp_path / "t.csv")], standalone_mode=False)
    shown = capsys.readouterr().out
    assert "36×96×64" in shown
    assert "2–5/64" in shown
    app(["analyze", str(path), "--json"], standalone_mode=False)
    (layer,) = json.loads(capsys.readouterr().out)["layers"]
    assert len(layer["experts"]) == 36


def mixture(kind):
    transformers = pytest.importorskip("transformers", minversion="5")  # before, experts are layers of their own
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=120,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=4,
        tie_word_embeddings=False,
    )
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if "experts." in name:
                tensor.copy_(stack(4, *tensor.shape[1:]) * 0.1)
    return model


def outputs(model):
    with torch.no_grad():
        return model(torch.arange(24).reshape(2, 12)).logits


def at_full_rank(plan, layers):
    """The plan with every stack taken apart and put together again, nothing left out."""
    ranks = {layer.tensor: layer.fit.p for layer in layers if layer.kind == "stack"}
    return plan.model_copy(
        update={
            "layers": tuple(
                decision.model_copy(update={"action": "truncated", "rank": ranks[decision.tensor]})
                if decision.tensor in ranks
                else decision.model_copy(update={"action": "kept", "rank": None})
                for decision in plan.layers
            )
        }
    )


@pytest.mark.parametrize("kind", ("GraniteMoe", "Mixtral"))
def test_a_live_mixture_is_cut_in_place_with_the_reason_said(kind):
    model = mixture(kind)
    analysis = rmt.analyze(model)
    stacks = {layer.tensor: layer for layer in analysis.analyzed if layer.kind == "stack"}
    assert [name.rpartition(".")[2] for name in stacks] == ["gate_up_proj", "down_proj"]
    whole = rmt.compress(model, at_full_rank(rmt.make_plan(analysis), analysis.analyzed))
    assert not torch.equal(outputs(whole), outputs(model))  # it has been through the factors
    torch.testing.assert_close(outputs(whole), outputs(model), rtol=1e-5, atol=1e-5)
    done = []
    small = rmt.compress(model, rmt.make_plan(rmt.analyze(model, include=list(stacks))), outcomes=done)
    cut = {outcome.tensor: outcome for outcome in done if outcome.tensor in stacks}
    assert {outcome.action for outcome in cut.values()} == {"truncated"}
    assert all("cannot run factors" in outcome.reason for outcome in cut.values())
    for name, outcome in cut.items():
        before, after = model.get_parameter(name).detach(), small.get_parameter(name).detach()
        assert_cut(before, after, outcome.rank)
    assert outputs(small).isfinite().all()


def assert_cut(before, after, rank):
    assert rank < min(before.shape[1:])
    error = (after - before).double().flatten(1).norm(dim=1)
    torch.testing.assert_close(error, tails(before, rank), rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_a_folder_of_a_mixture_goes_there_and_back(tmp_path):
    transformers = pytest.importorskip("transformers")
    model = mixture("GraniteMoe")
    folder = tmp_path / "moe"
    model.save_pretrained(folder)
    analysis = rmt.analyze(folder)
    plan = rmt.make_plan(analysis)
    ranks = {decision.tensor: decision.rank for decision in plan.layers if decision.kind == "stack"}
    assert len(ranks) == 2

    rmt.prune(folder, tmp_path / "full", plan=at_full_rank(plan, analysis.analyzed), layout="dense")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "full").eval()
    torch.testing.assert_close(outputs(again), outputs(model), rtol=1e-5, atol=1e-5)

    rmt.prune(folder, tmp_path / "dense", layout="dense")
    rmt.prune(folder, tmp_path / "thin")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "dense").eval()
    before, dense, thin = (rmt.load_dense(tmp_path / name) for name in ("moe", "dense", "thin"))
    for name, rank in ranks.items():
        assert_cut(before[name], dense[name], rank)
        assert_cut(before[name], thin[name], rank)
    multiplied = type(model).from_pretrained(None, config=model.config, state_dict=thin).eval()
    torch.testing.assert_close(outputs(multiplied), outputs(again), rtol=1e-4, atol=1e-4)
    stored = rmt.open_checkpoint(tmp_path / "thin").tensors
    for name, rank in ranks.items():
        assert stored[name.removesuffix("weight") + "down.weight"].shape == (4, rank, before[name].shape[2])


def test_a_file_of_factors_loads_into_the_class_in_place(tmp_path):
    model = mixture("Mixtral")
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    names = [name for name in state if "experts." in name]
    plan = rmt.make_plan(rmt.analyze(state, include=names))
    assert {decision.action for decision in plan.layers if decision.tensor in names} == {"factorized"}
    rmt.save(rmt.compress(state, plan), tmp_path / "s.safetensors", plan=plan)
    loaded = rmt.load(tmp_path / "s.safetensors", mixture("Mixtral"))
    cut = rmt.compress(model, plan)  # the same plan on the module itself
    for name in names:
        torch.testing.assert_close(loaded.get_parameter(name), cut.get_parameter(name), rtol=1e-4, atol=1e-5)
