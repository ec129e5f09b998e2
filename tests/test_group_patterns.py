"""K of every N entries kept: the choice, the parts that are stored, and every reader of such a file."""

import itertools
import json
import re

import pytest
import torch
from torch import nn

import rmt_compress as rmt
from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.decomposition.group_choice import kept_by_inputs, kept_by_magnitude
from rmt_compress.decomposition.moments import LayerMoments, Moments
from rmt_compress.errors import CheckpointError, PlanError, SettingsError
from rmt_compress.layers.group_patterns import Pattern, decode, encode, encode_if_smaller, pattern_called
from rmt_compress.layers.modeling_factorized import _decode
from rmt_compress.networks.exporting import export
from rmt_compress.networks.loading import load_model
from rmt_compress.planning.settings import PlanSettings
from rmt_compress.saving.description import describe
from rmt_compress.saving.semi_structured import semi_structured_layers
from tests.samples.repository import DIGITS, REPOSITORY

PATTERNS = [Pattern(2, 4), Pattern(4, 8), Pattern(1, 2), Pattern(3, 5), Pattern(1, 16), Pattern(8, 16)]


def covariance(columns, samples=400, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(samples, columns, generator=generator, dtype=torch.float64)
    inputs = inputs @ torch.randn(columns, columns, generator=generator, dtype=torch.float64)
    return inputs.T @ inputs / samples


def cost(change, inputs):
    return float(torch.einsum("ij,jk,ik->", change.double(), inputs, change.double()))


@pytest.mark.parametrize("text", ["2:4", "1:2", "15:16"])
def test_a_pattern_reads_as_it_is_written(text):
    assert str(pattern_called(text)) == text


@pytest.mark.parametrize("text", ["4:2", "0:4", "4:4", "2:17", "2-4", "", "2:4:8", "-2:4"])
def test_what_is_no_pattern_is_refused(text):
    with pytest.raises(ValueError, match="a pattern is K:N"):
        pattern_called(text)
    with pytest.raises(SettingsError, match="a pattern is K:N"):
        rmt.make_plan(rmt.analyze({"a.weight": torch.randn(4, 4)}), pattern=text)


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_the_largest_of_every_group_stay_as_they_are(pattern):
    matrix = torch.randn(7, 240)
    kept = kept_by_magnitude(matrix, pattern)
    for before, after in zip(matrix.reshape(-1, pattern.of), kept.reshape(-1, pattern.of), strict=True):
        stays = before.abs().topk(pattern.kept).indices
        assert torch.equal(after[stays], before[stays])
        assert int((after != 0).sum()) == pattern.kept


def test_of_equal_entries_the_first_stay():
    assert kept_by_magnitude(torch.ones(1, 8), Pattern(2, 4)).tolist() == [[1, 1, 0, 0, 1, 1, 0, 0]]


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_inputs_choose_at_less_cost_than_magnitudes(pattern):
    matrix, inputs = torch.randn(30, 240 // 5), covariance(240 // 5)
    if matrix.shape[1] % pattern.of:
        matrix, inputs = torch.randn(30, 40), covariance(40)
    kept = kept_by_inputs(matrix, pattern, inputs)
    assert int((kept.reshape(-1, pattern.of) != 0).sum(1).max()) <= pattern.kept
    assert cost(kept - matrix, inputs) < cost(kept_by_magnitude(matrix, pattern) - matrix, inputs)


def test_one_group_is_cut_at_the_least_cost_there_is():
    matrix, inputs = torch.randn(20, 4, dtype=torch.float64), covariance(4)
    kept = kept_by_inputs(matrix, Pattern(2, 4), inputs)
    # Beside the ridge: least squares over the kept entries, for every pattern.
    hessian = inputs + 0.01 * inputs.diagonal().mean() * torch.eye(4, dtype=torch.float64)
    for row, found in zip(matrix, kept, strict=True):
        costs = {}
        for stays in itertools.combinations(range(4), 2):
            best = torch.zeros(4, dtype=torch.float64)
            places = list(stays)
            best[places] = torch.linalg.solve(hessian[places][:, places], (hessian @ row)[places])
            costs[stays] = (float((best - row) @ hessian @ (best - row)), best)
        torch.testing.assert_close(found, min(costs.values(), key=lambda each: each[0])[1])


def test_uncorrelated_inputs_of_one_size_choose_magnitudes():
    matrix = torch.randn(20, 32)
    for inputs in (torch.eye(32, dtype=torch.float64), torch.ones(32, dtype=torch.float64)):
        assert torch.equal(kept_by_inputs(matrix, Pattern(2, 4), inputs), kept_by_magnitude(matrix, Pattern(2, 4)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_parts_are_the_tensor(pattern, dtype):
    matrix = kept_by_magnitude(torch.randn(9, 240), pattern).to(dtype)
    matrix[0] = 0
    for tensor, axis in ((matrix, 1), (matrix.reshape(9, 60, 2, 2), 1), (matrix.T.contiguous(), 0)):
        parts = encode(tensor, pattern, axis)
        assert torch.equal(decode(parts), tensor)
        state = {f"w.{name}": part for name, part in parts._asdict().items()}
        _decode(state)
        assert torch.equal(state["w"], tensor)
        assert parts.places.numel() == -(-9 * 240 // pattern.of * pattern.kept * pattern.width // 8)


def test_the_bits_are_those_of_the_text():
    parts = encode(torch.tensor([[0.0, 5.0, 0.0, 7.0, 1.0, 2.0, 0.0, 0.0]]), Pattern(2, 4))
    assert parts.kept.tolist() == [[5, 7, 1, 2]]
    assert parts.places.tolist() == [0b01_00_11_01]
    assert parts.pattern.tolist() == [2, 4, 1, 1, 8]


def test_what_has_more_entries_is_not_encoded():
    matrix = torch.randn(64, 64)
    assert encode_if_smaller(matrix, Pattern(2, 4)) is None
    assert encode_if_smaller(kept_by_magnitude(matrix, Pattern(2, 4)), Pattern(2, 4)) is not None
    # A bitmask takes fewer bits than four places of three.
    assert encode_if_smaller(kept_by_magnitude(matrix, Pattern(4, 8)), Pattern(4, 8)) is None


@pytest.mark.parametrize(
    ("part", "value", "said"),
    [
        ("kept", torch.zeros(3, 4), "do not suit"),
        ("places", torch.zeros(5, dtype=torch.uint8), "bytes of places"),
        ("places", torch.zeros(4, dtype=torch.int8), "no 1-d uint8"),
        ("places", torch.zeros(4, dtype=torch.uint8), "not ascending"),
        ("pattern", torch.tensor([2, 4, 1, 4, 8, 9]), "do not suit"),
        ("pattern", torch.tensor([4, 2, 1, 4, 8]), "a pattern is"),
        ("pattern", torch.tensor([2, 4, 7, 4, 8]), "along no axis"),
        ("pattern", torch.tensor([2, 4]), "its pattern is none"),
        ("pattern", torch.tensor([2, 4, 1, -4, 8]), "its pattern is none"),
    ],
)
def test_damaged_parts_are_refused(part, value, said):
    parts = encode(kept_by_magnitude(torch.randn(4, 8), Pattern(2, 4)), Pattern(2, 4))
    with pytest.raises(ValueError, match=said):
        decode(parts._replace(**{part: value}))


def network():
    return nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Conv2d(96, 48, 3), nn.ConvTranspose2d(48, 40, 3))


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_file_shrinks_and_every_reader_sees_the_masked_network(tmp_path, suffix):
    model = network().half()
    plan = rmt.make_plan(rmt.analyze(model), gof=0.0, pattern="2:4")
    masked = rmt.compress(model, plan)
    file = rmt.save(masked, tmp_path / f"small{suffix}", plan=plan)
    assert file.patterned == ("0.weight", "2.weight")
    assert [decision.pattern for decision in plan.layers if len(decision.shape) > 1] == ["2:4", "2:4", None]
    state, loaded = rmt.load_dense(file.path), rmt.load(file.path, network().half()).state_dict()
    for name, tensor in masked.state_dict().items():
        assert torch.equal(state[name], tensor)
        assert torch.equal(loaded[name], tensor)
    with open_checkpoint(file.path) as checkpoint:
        assert checkpoint.manifest is not None
        assert checkpoint.manifest.patterned == file.patterned
    assert [layer.patterned for layer in describe(file.path).layers if len(layer.shape) > 1] == [True, True, False]


def test_two_of_four_take_57_percent_of_the_bytes(tmp_path):
    model = nn.Sequential(*(nn.Linear(512, 512) for _ in range(3))).half()
    rmt.save(model, tmp_path / "dense.safetensors")
    plan = rmt.make_plan(rmt.analyze(model), gof=0.0, pattern="2:4")
    small = rmt.save(rmt.compress(model, plan), tmp_path / "small.safetensors", plan=plan)
    assert small.bytes <= 0.57 * (tmp_path / "dense.safetensors").stat().st_size


def test_factors_have_the_pattern_where_their_columns_divide(tmp_path):
    model = nn.Sequential(nn.Linear(64, 96))
    for rank, both in ((8, True), (7, False)):
        plan = rmt.make_plan(rmt.analyze(model), gof=1.0, rule=f"rank:{rank}", pattern="2:4")
        state = rmt.compress(model, plan).state_dict()
        assert int((state["0.down.weight"].reshape(-1, 4) != 0).sum(1).max()) == 2
        assert (int((state["0.up.weight"] != 0).sum()) == 96 * rank // 2) == both
        file = rmt.save(rmt.compress(model, plan), tmp_path / f"{rank}.safetensors", plan=plan)
        assert file.patterned == ("0.down.weight", "0.up.weight")[: 1 + both]


def test_inputs_choose_the_pattern_of_the_second_factor_behind_the_first():
    model = nn.Linear(32, 40, bias=False)
    inputs = covariance(32)
    moments = Moments({"weight": LayerMoments(inputs, torch.zeros(32, dtype=torch.float64), None, 400)})
    analysis = rmt.analyze(model)
    dense = rmt.compress(model, rmt.make_plan(analysis, gof=1.0, rule="rank:12")).state_dict()
    product = dense["up.weight"] @ dense["down.weight"]
    costs = []
    for given in (None, moments):
        plan = rmt.make_plan(analysis, gof=1.0, rule="rank:12", pattern="2:4", moments=given)
        state = rmt.compress(model, plan, given).state_dict()
        costs.append(cost(state["up.weight"] @ state["down.weight"] - product, inputs))
    assert costs[1] < costs[0]


def test_a_pattern_by_inputs_needs_their_moments():
    model = nn.Linear(32, 40)
    moments = Moments({"weight": LayerMoments(covariance(32), torch.zeros(32, dtype=torch.float64), None, 400)})
    plan = rmt.make_plan(rmt.analyze(model), gof=0.0, pattern="2:4", moments=moments)
    assert plan.layers[0].pattern_by == "inputs"
    with pytest.raises(PlanError, match="no moments are given"):
        rmt.compress(model, plan)
    others = Moments({"weight": LayerMoments(covariance(16), torch.zeros(16, dtype=torch.float64), None, 400)})
    with pytest.raises(PlanError, match="not those of this network"):
        rmt.compress(model, plan, others)
    assert int((rmt.compress(model, plan, moments).weight.reshape(-1, 4) != 0).sum(1).max()) <= 2


def test_columns_that_do_not_divide_are_left_and_said():
    plan = rmt.make_plan(rmt.analyze(nn.Linear(30, 40)), pattern="2:4")
    assert plan.layers[0].pattern is None
    assert "no pattern 2:4: 30 columns are no multiple of 4" in plan.layers[0].reason
    hand = plan.model_copy(update={"layers": (plan.layers[0].model_copy(update={"pattern": "2:4"}),)})
    with pytest.raises(PlanError, match="no multiple of 4"):
        rmt.compress(nn.Linear(30, 40), hand)


def test_a_damaged_file_is_named(tmp_path):
    model = nn.Linear(64, 64)
    plan = rmt.make_plan(rmt.analyze(model), gof=0.0, pattern="2:4")
    path = rmt.save(rmt.compress(model, plan), tmp_path / "small.safetensors", plan=plan).path
    content = bytearray(path.read_bytes())
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    begin, _ = header["weight.places"]["data_offsets"]
    content[8 + int.from_bytes(content[:8], "little") + begin] = 0
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"weight is damaged: its places are not ascending"):
        rmt.load_dense(path)


def test_layers_of_two_of_four_are_what_torch_calls_semi_structured():
    from torch.sparse._semi_structured_conversions import (
        sparse_semi_structured_from_dense_cutlass,
        sparse_semi_structured_to_dense_cutlass,
    )

    model = nn.Sequential(nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)).half()
    assert semi_structured_layers(model) == ()
    with pytest.raises(SettingsError, match="no Linear layer has the pattern 2:4"):
        rmt.to_semi_structured(model)
    masked = rmt.compress(model, rmt.make_plan(rmt.analyze(model), gof=0.0, pattern="2:4"))
    assert semi_structured_layers(masked) == ("0",)
    assert semi_structured_layers(masked.double()) == ()
    weight = masked.half()[0].weight.detach()
    packed, meta = sparse_semi_structured_from_dense_cutlass(weight)
    assert torch.equal(sparse_semi_structured_to_dense_cutlass(packed, meta), weight)
    with pytest.raises(SettingsError, match="are for CUDA, the network is on cpu"):
        rmt.to_semi_structured(masked)


@pytest.mark.slow
def test_exported_to_onnx_it_answers_as_the_masked_network(exported_digits, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    settings = PlanSettings(gof=0.0, pattern="2:4")
    rmt.prune(DIGITS, tmp_path / "small.safetensors", plan=settings)
    steps = []
    export(tmp_path / "small.safetensors", tmp_path / "masked.onnx", progress=lambda *step: steps.append(step))
    assert steps == [(1, 3, "network"), (2, 3, "graph"), (3, 3, "onnxruntime")]
    rmt.prune(exported_digits, tmp_path / "pruned.onnx", plan=settings)
    network = load_model(open_checkpoint(tmp_path / "small.safetensors"))
    weight = network.get_submodule("fc2").weight
    assert int((weight.reshape(-1, 4) != 0).sum(1).max()) == 2
    inputs = torch.rand(16, 64)
    for file in ("masked.onnx", "pruned.onnx"):
        session = onnxruntime.InferenceSession(str(tmp_path / file))
        (answer,) = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
        torch.testing.assert_close(torch.from_numpy(answer), network(inputs).detach(), rtol=1e-5, atol=1e-5)


def test_the_documented_lines_load_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = nn.Sequential(nn.Linear(64, 64), nn.Conv2d(64, 8, 3))
    plan = rmt.make_plan(rmt.analyze(model), gof=0.0, pattern="2:4")
    masked = rmt.compress(model, plan)
    rmt.save(masked, "model.pruned.safetensors", plan=plan)
    text = (REPOSITORY / "docs" / "sparse-masks.md").read_text(encoding="utf-8")
    (lines,) = (block for block in re.findall(r"```python\n(.*?)```", text, re.S) if "load_file" in block)
    scope = {}
    exec(lines, scope)
    for name, value in masked.state_dict().items():
        assert torch.equal(scope["state"][name], value)
