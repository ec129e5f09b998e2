"""Plans: settings, decisions, JSON and hand-made mistakes."""

import json

import pytest
import torch
from torch import nn

from rmt_compress import analyze
from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.compression.plan_checking import check_plan
from rmt_compress.errors import PlanError, SettingsError
from rmt_compress.plan import LayerDecision, Plan, load_plan
from rmt_compress.planning.making import make_plan
from rmt_compress.planning.settings import PlanSettings


def spiked(rows, columns, spikes=3):
    """Noise of standard deviation 1 with `spikes` directions far above its edge."""
    u = torch.linalg.qr(torch.randn(rows, spikes))[0]
    v = torch.linalg.qr(torch.randn(columns, spikes))[0]
    strengths = 3 * (rows**0.5 + columns**0.5) * torch.arange(1.0, spikes + 1)
    return torch.randn(rows, columns) + (u * strengths) @ v.T


@pytest.fixture
def state():
    return {
        "fc1.weight": spiked(100, 200),
        "fc1.bias": torch.randn(100),
        "conv.weight": spiked(64, 288).reshape(64, 32, 3, 3),
        # Entries of very different size: a bulk that is no noise.
        "odd.weight": torch.randn(60, 80) * torch.logspace(0, 4, 60)[:, None],
        "embedding.weight": torch.randn(90, 50),
        "head.weight": torch.randn(10, 100),
        "head.bias": torch.randn(10),
        "counts.weight": torch.ones(40, 50, dtype=torch.int64),
    }


def layers_of(state):
    return open_checkpoint(state).layers()


def actions(plan):
    return {decision.name: decision.action for decision in plan.layers}


def test_default_plan(state):
    plan = make_plan(analyze(state))
    assert actions(plan) == {
        "fc1": "factorized",
        "fc1.bias": "skipped",
        "conv": "factorized",
        "odd": "kept",
        "embedding": "skipped",
        "head": "skipped",
        "head.bias": "skipped",
        "counts": "skipped",
    }
    decisions = plan.by_tensor
    assert decisions["fc1.weight"].rank == 3
    assert decisions["fc1.weight"].reason == "rank 3 of 100: 3 spikes, 0 of the bulk kept"
    assert "fit error" in decisions["odd.weight"].reason
    assert all(decision.reason for decision in plan.layers)
    assert not any(decision.sparsify or decision.sparsity for decision in plan.layers)


def test_bulk_share_and_multiple(state):
    analysis = analyze(state)
    assert make_plan(analysis, keep_bulk=0.1).by_tensor["fc1.weight"].rank == 3 + 9
    assert make_plan(analysis, keep_bulk=0.1, rank_multiple=8).by_tensor["fc1.weight"].rank == 16
    decision = make_plan(analysis, keep_bulk=0.1, rank_multiple=8).by_tensor["fc1.weight"]
    assert decision.reason == "rank 16 of 100: 3 spikes, 13 of the bulk kept"


@pytest.mark.parametrize("rule", ("energy:0.9", "gd14", "ratio:0.1", "rank:12"))
def test_other_rules_cut_without_asking_for_a_fit(state, rule):
    plan = make_plan(analyze(state), rule=rule)
    assert plan.by_tensor["odd.weight"].action == "factorized"
    assert rule in plan.by_tensor["odd.weight"].reason


def test_thresholds_of_the_fit_error(state):
    analysis = analyze(state)
    assert actions(make_plan(analysis, gof=0.0))["fc1"] == "kept"
    assert actions(make_plan(analysis, gof=1.0))["odd"] == "factorized"
    plan = make_plan(analysis, gof_conv=0.0)
    assert (actions(plan)["fc1"], actions(plan)["conv"]) == ("factorized", "kept")
    # Where nothing is said, the threshold of the analysis.
    assert actions(make_plan(analyze(state, gof=0.0)))["fc1"] == "kept"


@pytest.mark.parametrize("keep_bulk", (0.0, 0.3, 0.6, 0.7, 1.0))
@pytest.mark.parametrize("when", ("keep", "truncate"))
def test_no_plan_grows_a_layer(state, keep_bulk, when):
    for decision in make_plan(analyze(state), keep_bulk=keep_bulk, when_not_smaller=when).layers:
        rows, columns = decision.shape[0], torch.Size(decision.shape[1:]).numel()
        if decision.action == "factorized":
            assert decision.rank * (rows + columns) < rows * columns
        if decision.action == "truncated":
            assert when == "truncate"
            assert decision.rank * (rows + columns) >= rows * columns
            assert decision.rank < min(rows, columns)


def test_when_not_smaller(state):
    analysis = analyze(state)
    kept = make_plan(analysis, keep_bulk=0.8).by_tensor["fc1.weight"]
    assert (kept.action, kept.rank) == ("kept", None)
    assert kept.reason == "a split at rank 80 would not be smaller (24,000 of 20,000 parameters)"
    truncated = make_plan(analysis, keep_bulk=0.8, when_not_smaller="truncate").by_tensor["fc1.weight"]
    assert (truncated.action, truncated.rank) == ("truncated", 80)
    full = make_plan(analysis, keep_bulk=1.0, when_not_smaller="truncate").by_tensor["fc1.weight"]
    assert full.action == "kept"


def test_weights_are_sparsified_and_nothing_else(state):
    state["positions"] = torch.randn(50, 60)
    state["broken.weight"] = torch.full((50, 60), float("nan"))
    for settings in ({"sparsify": 0.01}, {"sparsity": 0.9}):
        plan = make_plan(analyze(state), **settings)
        touched = {decision.name for decision in plan.layers if decision.sparsify or decision.sparsity}
        assert touched == {"fc1", "conv", "odd", "head"}
    plan = make_plan(analyze(state, exclude=("odd", "fc1")), sparsify=0.01)
    assert {decision.name for decision in plan.layers if decision.sparsify} == {"conv", "head"}


def test_tied_weights_are_left_alone():
    weight = spiked(100, 200)
    state = {"a.weight": weight, "b.weight": weight}
    for settings in ({}, {"when_not_smaller": "truncate"}, {"sparsify": 0.5}):
        (decision,) = make_plan(analyze(state), **settings).layers
        assert (decision.action, decision.changes) == ("kept", False)
        assert decision.reason == "tied to b.weight: a split would untie it"


def test_weights_that_torch_reads_past_the_layer_stay_whole():
    encoder = nn.TransformerEncoderLayer(64, 4, dim_feedforward=128, batch_first=True)
    decoder = nn.TransformerDecoderLayer(64, 4, dim_feedforward=128, batch_first=True)
    for source in (encoder, encoder.state_dict()):
        plan = make_plan(analyze(source), rule="rank:5")
        reasons = {decision.tensor: decision.reason for decision in plan.layers}
        assert {a for n, a in actions(plan).items() if n.startswith(("linear", "self_attn"))} <= {"kept", "skipped"}
        assert "nn.TransformerEncoderLayer, which reads" in reasons["linear1.weight"]
        assert "nn.MultiheadAttention, which reads" in reasons["self_attn.out_proj.weight"]
    plan = make_plan(analyze(decoder.state_dict()), rule="rank:5")
    assert actions(plan)["linear1"] == "factorized"
    assert actions(plan)["multihead_attn.out_proj"] == "kept"


def test_a_weight_that_its_bias_does_not_suit_stays_whole():
    state = {"odd.weight": torch.randn(64, 192), "odd.bias": torch.zeros(100)}
    decision = make_plan(analyze(state), rule="rank:5").layers[0]
    assert decision.action == "kept"
    assert "bias has 100 entries for 64 rows" in decision.reason


def test_packed_and_recurrent_weights_are_decided_one_by_one():
    model = nn.ModuleDict({"attention": nn.MultiheadAttention(64, 4), "lstm": nn.LSTM(40, 48)})
    for source in (model, model.state_dict()):
        kept = make_plan(analyze(source), rule="rank:5")
        assert set(actions(kept).values()) <= {"kept", "skipped"}
        assert "one tensor" in kept.by_tensor["attention.in_proj_weight[q]"].reason
        assert "all their gates" in kept.by_tensor["lstm.weight_hh_l0[f]"].reason
        cut = make_plan(analyze(source), rule="rank:5", when_not_smaller="truncate")
        names = {name for name, action in actions(cut).items() if action == "truncated"}
        expected = {f"attention.in_proj_weight[{label}]" for label in "qkv"}
        expected |= {f"lstm.weight_{place}_l0[{gate}]" for place in ("ih", "hh") for gate in "ifgo"}
        assert names == expected | {"attention.out_proj"}


@pytest.mark.parametrize(
    ("settings", "problems"),
    (
        ({"gof": 2.0, "keep_bulk": -1.0}, ["gof must lie between 0 and 1, got 2", "keep-bulk must lie"]),
        ({"gof_conv": float("nan")}, ["gof-conv must lie"]),
        ({"rule": "magic"}, ["the rule must be bema, energy:SHARE, gd14, ratio:SHARE or rank:COUNT, got 'magic'"]),
        ({"rule": "energy"}, ["the rule must be"]),
        ({"rule": "gd14:3"}, ["the rule must be"]),
        ({"rule": "energy:much"}, ["the rule must be"]),
        ({"rule": "energy:0"}, ["energy:SHARE needs a share above 0"]),
        ({"rule": "ratio:1.5"}, ["ratio:SHARE needs a share above 0 and at most 1, got 1.5"]),
        ({"rule": "rank:0"}, ["rank:COUNT needs a whole number"]),
        ({"rule": "rank:2.5"}, ["rank:COUNT needs a whole number"]),
        ({"rule": "rank:inf"}, ["rank:COUNT needs a whole number"]),
        ({"rule": "gd14", "keep_bulk": 0.1}, ["keep-bulk belongs to the rule bema, not to gd14"]),
        ({"rank_multiple": 0}, ["rank-multiple must be at least 1"]),
        ({"when_not_smaller": "grow"}, ["when-not-smaller must be keep or truncate, got 'grow'"]),
        ({"sparsify": -1.0}, ["sparsify must be a threshold"]),
        ({"sparsify": float("inf")}, ["sparsify must be a threshold"]),
        ({"sparsity": 1.0}, ["sparsity must lie in [0, 1)"]),
        ({"sparsify": 0.1, "sparsity": 0.5}, ["two ways to choose a threshold"]),
    ),
)
def test_settings_name_every_problem_at_once(settings, problems):
    with pytest.raises(SettingsError) as caught:
        PlanSettings(**settings)
    assert len(caught.value.problems) == len(problems)
    for found, expected in zip(caught.value.problems, problems, strict=True):
        assert expected in found


def test_json_round_trip(state, tmp_path):
    plan = make_plan(analyze(state), keep_bulk=0.1, sparsify=0.01, gof_conv=0.2)
    path = tmp_path / "plan.json"
    path.write_text(plan.to_json(), encoding="utf-8")
    assert load_plan(path) == plan
    content = json.loads(plan.to_json())
    assert content["schema"] == "rmt-compress/plan/1"
    assert content["settings"]["gof_conv"] == 0.2
    assert content["layers"][0] == {
        "name": "fc1",
        "tensor": "fc1.weight",
        "kind": "linear",
        "shape": [100, 200],
        "action": "factorized",
        "rank": 12,
        "sparsify": 0.01,
        "reason": "rank 12 of 100: 3 spikes, 9 of the bulk kept",
    }
    check_plan(plan, layers_of(state))


def test_a_plan_may_be_written_by_hand():
    text = """{"schema": "rmt-compress/plan/1", "layers": [
        {"name": "fc1", "tensor": "fc1.weight", "kind": "linear", "shape": [30, 40],
         "action": "factorized", "rank": 5}
    ]}"""
    plan = Plan.from_json(text)
    check_plan(plan, layers_of({"fc1.weight": torch.zeros(30, 40)}))
    assert plan.layers[0].reason == ""


def test_malformed_json_names_every_field(state):
    content = json.loads(make_plan(analyze(state)).to_json())
    content["layers"][0]["rank"] = 0
    content["layers"][1]["action"] = "delete"
    content["layers"][2]["colour"] = "blue"
    content["layers"][3]["sparsify"] = -1
    with pytest.raises(PlanError, match=r"^edited\.json: is no plan: ") as caught:
        Plan.from_json(json.dumps(content), origin="edited.json")
    for place in ("layers.0.rank", "layers.1.action", "layers.2.colour", "layers.3.sparsify"):
        assert place in str(caught.value)


@pytest.mark.parametrize("text", ("", "[]", "{}", '{"schema": "rmt-compress/plan/2", "layers": []}', "nonsense"))
def test_what_is_no_plan_at_all(text, tmp_path):
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(PlanError, match=r"plan\.json: is no plan"):
        load_plan(tmp_path / "plan.json")


def test_unreadable_plan(tmp_path):
    with pytest.raises(PlanError, match=r"absent\.json: cannot be read as a plan: No such file or directory$"):
        load_plan(tmp_path / "absent.json")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PlanError, match="cannot be read as a plan"):
        load_plan(tmp_path / "binary")


def edited(state, name, /, **changes):
    plan = make_plan(analyze(state))
    layers = [
        decision.model_copy(update=changes) if decision.tensor == name else decision for decision in plan.layers
    ]
    return plan.model_copy(update={"layers": tuple(layers)})


@pytest.mark.parametrize(
    ("tensor", "changes", "problem"),
    (
        ("fc1.weight", {"tensor": "fc9.weight"}, "no tensor fc9.weight in the checkpoint"),
        ("fc1.weight", {"tensor": "head.weight"}, "head.weight is 10×100 here, 100×200 in the plan"),
        ("fc1.weight", {"shape": (100, 201)}, "fc1.weight is 100×200 here, 100×201 in the plan"),
        ("fc1.weight", {"rank": None}, "a factorized layer needs a rank"),
        ("fc1.weight", {"rank": 67}, "a split at rank 67 would not be smaller"),
        ("fc1.weight", {"rank": 101}, "rank 101 is above its 100 singular values"),
        ("fc1.weight", {"action": "kept"}, "a kept layer has no rank"),
        ("fc1.weight", {"kind": "conv2d"}, "is of kind linear here, conv2d in the plan"),
        ("fc1.bias", {"action": "factorized", "rank": 1}, "cannot be factorized: a vector"),
        ("fc1.bias", {"sparsify": 0.1}, "no entry of a tensor of kind vector may be zeroed"),
        ("embedding.weight", {"sparsity": 0.1}, "no entry of a tensor of kind embedding may be zeroed"),
        ("embedding.weight", {"action": "factorized", "rank": 3}, "of kind embedding cannot be split"),
        ("counts.weight", {"action": "truncated", "rank": 3}, "cannot be truncated: stored as int64"),
        ("counts.weight", {"sparsify": 0.1}, "may be zeroed: stored as int64"),
        ("fc1.weight", {"sparsify": 0.1, "sparsity": 0.1}, "two ways to choose a threshold"),
    ),
)
def test_hand_made_mistakes(state, tensor, changes, problem):
    with pytest.raises(PlanError, match=r"^plan\.json does not suit this checkpoint: ") as caught:
        check_plan(edited(state, tensor, **changes), layers_of(state), origin="plan.json")
    assert problem in str(caught.value)


def test_all_mistakes_are_named_at_once(state):
    plan = Plan(
        layers=tuple(
            LayerDecision(name=str(i), tensor=f"{i}.weight", kind="linear", shape=(3, 3), action="kept")
            for i in range(7)
        )
    )
    with pytest.raises(PlanError, match=r"no tensor 0\.weight.*no tensor 4\.weight.*; and 2 more$"):
        check_plan(plan, layers_of(state))


def test_a_layer_decided_twice(state):
    plan = make_plan(analyze(state))
    with pytest.raises(PlanError, match=r"fc1\.weight is decided twice"):
        check_plan(Plan(layers=(*plan.layers, plan.layers[0])), layers_of(state))


def test_a_layer_named_by_its_other_name(state):
    plan = make_plan(analyze(state))
    tied = {"other.weight": state["fc1.weight"], **state}
    with pytest.raises(PlanError, match=r"fc1\.weight is another name of other\.weight: decide that one"):
        check_plan(plan, layers_of(tied))


def test_a_plan_may_know_a_transposed_convolution(state):
    check_plan(edited(state, "conv.weight", kind="conv_transpose2d"), layers_of(state))


def test_the_text_of_a_plan_is_made_to_be_edited(state):
    """A line per layer, without what is not set; the layout of older texts is read as before."""
    plan = make_plan(analyze(state))
    text = plan.to_json()
    assert "null" not in text.partition('"layers"')[2]
    lines = text.partition('"layers": [')[2].strip().splitlines()[: len(plan.layers)]
    assert [json.loads(line.strip().rstrip(","))["name"] for line in lines] == [each.name for each in plan.layers]
    assert Plan.from_json(json.dumps(plan.model_dump(mode="json", by_alias=True), indent=2)) == plan
    empty = Plan(layers=())
    assert Plan.from_json(empty.to_json()) == empty


def test_a_rule_that_is_no_text_is_refused_in_one_line(state):
    with pytest.raises(SettingsError, match="the rule must be text, bema"):
        make_plan(analyze(state), rule=lambda layer: 3)
