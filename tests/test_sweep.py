"""Sweeps against networks that were really compressed."""

import copy
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import rmt_compress as rmt
from rmt_compress.compression import compress
from rmt_compress.data import Dataset, load_data
from rmt_compress.errors import CompressionError, SettingsError
from rmt_compress.networks.architectures import build
from rmt_compress.networks.calibration.statistics import renew_statistics
from rmt_compress.networks.evaluation import score
from rmt_compress.networks.loading import load_model
from rmt_compress.networks.tasks.task import ACCURACY, Metric
from rmt_compress.planning.making import make_plan
from rmt_compress.sweep import (
    LOW_RANK_FIRST,
    MAGNITUDE,
    Sweep,
    SweepCurve,
    SweepPoint,
    SweepTarget,
    sweep_rank,
    sweep_share,
    sweep_sparsity,
)
from tests.samples.repository import MODELS
from tests.samples.seeds import repeatable


@pytest.fixture(scope="module")
def digits():
    model = load_model(MODELS / "digits_mlp.safetensors")
    return SweepTarget(model, rmt.analyze(model), load_data("digits", split="test"), path="digits_mlp.safetensors")


@pytest.fixture(scope="module")
@repeatable
def convolutions():
    """A small CNN and images it labels itself, so that it starts at 100 %."""
    model = build("cnn:4x8x8/40,48,p/64,10/init=he", seed=1).eval()
    images = torch.rand(200, 4, 8, 8)
    with torch.no_grad():
        labels = model(images).argmax(1)
    return SweepTarget(model, rmt.analyze(model), Dataset("made", "test", images, labels, 10))


@repeatable
def test_statistics_are_those_of_the_cut_while_it_is_scored_and_as_they_were_afterwards():
    model = build("cnn:4x8x8/40,48,p/64,10/init=he", seed=1).eval()
    images = torch.rand(64, 4, 8, 8)
    renew_statistics(model, [images])
    with torch.no_grad():
        labels = model(images).argmax(1)
    dataset, before = Dataset("made", "test", images, labels, 10), model.state_dict()
    before = {name: value.clone() for name, value in before.items()}
    plain, mended = (SweepTarget(model, rmt.analyze(model), dataset, inputs=inputs) for inputs in (None, [images]))
    layer = next(each for each in mended.analysis.analyzed if each.name == "conv2")
    cut = {"conv2.weight": mended.truncated(layer, 8)}
    small = copy.deepcopy(model)
    with torch.no_grad():
        small.conv2.weight.copy_(cut["conv2.weight"])
    assert plain.score_with(cut) == score(small, dataset).accuracy
    renew_statistics(small, [images])
    assert mended.score_with(cut) == score(small, dataset).accuracy != plain.score_with(cut)
    assert mended.score == plain.score == 1.0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("loss", ("frobenius", "nuclear"))
def test_shrunk_sweeps_score_what_prune_with_shrink_makes(digits, loss):
    target = digits.shrinking(loss)
    asked = load_data("digits", split="test")

    def scored(**kept):
        plan = make_plan(digits.analysis, shrink=loss, **kept)
        return plan, score(compress(digits.model, plan, layout="dense"), asked).accuracy

    shares = sweep_share(target, rules=["bema", "ratio"], amounts={"ratio": [0.3]})
    (bema,), (ratio,) = (curve.points for curve in shares.curves)
    plan, accuracy = scored()
    assert (bema.amount, bema.score) == (0.0, accuracy)
    assert bema.ranks == {each.name: each.rank for each in plan.layers if each.rank}
    plan, accuracy = scored(rule="ratio:0.3")
    assert (ratio.score, ratio.ranks) == (accuracy, {each.name: each.rank for each in plan.layers if each.rank})
    low_rank = sweep_sparsity(target, thresholds=[0.0]).curves[1].points[-1]
    assert low_rank.score == bema.score
    # Beyond what the shrinker keeps anything of there is nothing to try.
    ranks = sweep_rank(target, layers=["fc1"], points=4).curves[0]
    layer = next(each for each in digits.analysis.analyzed if each.name == "fc1")
    most = int(np.count_nonzero(target.decomposition(layer).sizes.numpy()))
    assert ranks.points[-1].amount == most < layer.fit.p
    assert target.truncated(layer, 5).norm() < digits.truncated(layer, 5).norm()
    again = Sweep.from_json(shares.to_json())
    assert again == shares
    assert again.shrink == loss
    assert digits.shrink == "none"
    assert "shrink" not in digits.result("share", ()).to_json()


def test_a_target_of_uneven_noise_is_not_shrunk():
    model = load_model(MODELS / "digits_mlp.safetensors")
    target = SweepTarget(model, rmt.analyze(model, noise="equalized"), load_data("digits", split="test"))
    with pytest.raises(SettingsError, match="noise equalized"):
        target.shrinking("operator")


def nonzeros(model):
    return sum(int((parameter != 0).sum()) for parameter in model.parameters())


def untouched(target):
    """Run the body and make sure that the weights are bit for bit what they were."""
    state = {name: tensor.clone() for name, tensor in target.model.state_dict().items()}
    yield
    assert all(torch.equal(tensor, state[name]) for name, tensor in target.model.state_dict().items())


class Rows(nn.Module):
    """An LSTM that reads an image row by row: parameters that hold four matrices each."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(32, 36, batch_first=True)
        self.head = nn.Linear(36, 10)

    def forward(self, images):
        return self.head(self.lstm(images[:, 0])[0][:, -1])


def test_gates_are_swept_one_by_one():
    model = Rows().eval()
    images = torch.randn(150, 1, 6, 32)
    with torch.no_grad():
        labels = model(images).argmax(1)
    dataset = Dataset("made", "test", images, labels, 10)
    target = SweepTarget(model, rmt.analyze(model), dataset)
    check = untouched(target)
    next(check)
    name = "lstm.weight_hh_l0[f]"
    (curve,) = sweep_rank(target, layers=[name], ranks=[2, 36]).curves
    expected = Rows().eval()
    expected.load_state_dict(model.state_dict())
    gate = model.lstm.weight_hh_l0.detach()[36:72]
    for point in curve.points:
        u, s, vt = torch.linalg.svd(gate.double())
        cut = (u[:, : point.amount] * s[: point.amount]) @ vt[: point.amount]
        with torch.no_grad():
            expected.lstm.weight_hh_l0[36:72] = cut.float()
        assert point.score == pytest.approx(score(expected, dataset).accuracy)
        assert point.weights == nonzeros(model)  # nothing is won: it cannot be split
    magnitude, _ = sweep_sparsity(target, thresholds=[0.05]).curves
    sparse = rmt.compress(model, make_plan(target.analysis, gof=0.0, sparsify=0.05))
    assert magnitude.points[0].weights == nonzeros(sparse)
    assert magnitude.points[0].score == pytest.approx(score(sparse, dataset).accuracy)
    next(check, None)


def test_ranks_against_torch_s_own_svd(digits):
    check = untouched(digits)
    next(check)
    sweep = sweep_rank(digits, layers=["fc1"], ranks=[1, 5, 30, 64])
    next(check, None)
    (curve,) = sweep.curves
    predicted = max(1, next(a.fit.spikes for a in digits.analysis.analyzed if a.layer.name == "fc1"))
    assert curve.predicted is not None
    assert curve.predicted.amount == predicted
    assert [point.amount for point in curve.points] == sorted({1, 5, 30, 64, predicted})
    state = load_file(MODELS / "digits_mlp.safetensors")
    u, s, vt = torch.linalg.svd(state["fc1.weight"].double(), full_matrices=False)
    images, labels = digits.task.samples.images.flatten(1), digits.task.samples.labels
    for point in curve.points:
        r = int(point.amount)
        hidden = (images @ ((u[:, :r] * s[:r]) @ vt[:r]).float().T + state["fc1.bias"]).relu()
        hidden = (hidden @ state["fc2.weight"].T + state["fc2.bias"]).relu()
        answers = (hidden @ state["fc3.weight"].T + state["fc3.bias"]).argmax(1)
        assert point.score == pytest.approx(float((answers == labels).double().mean()), abs=1 / 360 + 1e-9)
        assert point.weights == digits.parameters - max(0, 64 * 512 - r * (64 + 512))
    assert curve.points[-1].score == sweep.score == pytest.approx(0.975)


def test_default_ranks_run_from_one_to_all(digits):
    sweep = sweep_rank(digits, points=3)
    assert [curve.name for curve in sweep.curves] == ["fc1", "fc2"]
    for curve, p in zip(sweep.curves, (64, 512), strict=True):
        amounts = [point.amount for point in curve.points]
        assert amounts[0] == 1
        assert amounts[-1] == p
        assert len(amounts) in (3, 4)


@pytest.mark.parametrize("name", ["digits", "convolutions"])
def test_shares_are_those_of_networks_really_compressed(name, request):
    target = request.getfixturevalue(name)
    amounts = {"bema": [0.0, 0.05], "energy": [0.4, 0.999], "ratio": [0.1, 1.0]}
    check = untouched(target)
    next(check)
    sweep = sweep_share(target, amounts=amounts)
    next(check, None)
    assert [curve.name for curve in sweep.curves] == ["bema", "energy", "ratio", "gd14"]
    for curve in sweep.curves:
        assert [point.weights for point in curve.points] == sorted(point.weights for point in curve.points)
        for point in curve.points:
            if curve.name == "bema":
                plan = make_plan(target.analysis, keep_bulk=point.amount)
            else:
                plan = make_plan(
                    target.analysis, rule="gd14" if curve.name == "gd14" else f"{curve.name}:{point.amount}"
                )
            small = compress(target.model, plan)
            assert point.weights == sum(parameter.numel() for parameter in small.parameters())
            assert point.ranks == {layer.name: layer.rank for layer in plan.layers if layer.rank}
            expected = score(small, target.task)
            # Sums in another order may turn over a sample or two.
            assert point.score == pytest.approx(expected.accuracy, abs=2.01 / expected.samples)
    by_name = {curve.name: curve for curve in sweep.curves}
    assert by_name["ratio"].points[-1].weights == target.parameters
    assert by_name["ratio"].points[-1].score == sweep.score
    assert by_name["bema"].predicted == by_name["bema"].points[0]
    assert by_name["energy"].predicted is None


@pytest.mark.parametrize("name", ["digits", "convolutions"])
def test_zeroed_networks_are_those_really_compressed(name, request):
    target = request.getfixturevalue(name)
    check = untouched(target)
    next(check)
    sweep = sweep_sparsity(target, thresholds=[0.02, 0.05])
    next(check, None)
    alone, after = sweep.curves
    assert (alone.name, after.name) == (MAGNITUDE, LOW_RANK_FIRST)
    for curve in sweep.curves:
        assert [point.amount for point in curve.points] == [0.05, 0.02, 0.0]
        for point in curve.points:
            rule = {} if curve.name == LOW_RANK_FIRST else {"gof": 0.0}
            small = compress(target.model, make_plan(target.analysis, sparsify=point.amount, **rule))
            assert point.weights == nonzeros(small)
            expected = score(small, target.task)
            assert point.score == pytest.approx(expected.accuracy, abs=2.01 / expected.samples)
    assert alone.points[-1].weights == nonzeros(target.model)
    assert alone.points[-1].score == sweep.score
    assert after.predicted == after.points[-1]


def test_shares_left_are_met_exactly(digits):
    sweep = sweep_sparsity(digits, shares=[0.05, 0.03, 0.9])
    alone, after = sweep.curves
    counts = [point.weights for point in alone.points]
    assert counts == [round(share * digits.parameters) for share in (0.03, 0.05, 0.9)] + [digits.parameters]
    # 90 % are more than the spikes have: ξ = 0 stands for it.
    assert [point.weights for point in after.points][:2] == counts[:2]
    assert len(after.points) == 3
    default = sweep_sparsity(digits, points=2)
    assert [point.weights for point in default.curves[0].points] == [
        round(0.01 * digits.parameters),
        round(0.5 * digits.parameters),
        digits.parameters,
    ]


def test_progress_counts_every_trial(digits):
    for run in (
        lambda progress: sweep_rank(digits, layers=["fc1"], ranks=[1, 2], progress=progress),
        lambda progress: sweep_share(digits, rules=["gd14", "bema"], points=2, progress=progress),
        lambda progress: sweep_sparsity(digits, shares=[0.03], progress=progress),
    ):
        seen = []
        run(lambda done, total, name, seen=seen: seen.append((done, total)))
        assert seen == [(done, len(seen)) for done in range(1, len(seen) + 1)]
        assert len(seen) >= 3


def test_weights_come_back_after_an_error(digits):
    check = untouched(digits)
    next(check)
    with pytest.raises(Exception, match="no way"):
        sweep_rank(digits, layers=["fc1"], ranks=[1], progress=lambda *_: (_ for _ in ()).throw(OSError("no way")))
    with pytest.raises(Exception, match="cannot take"):
        digits.score_with({"fc1.weight": torch.zeros(3, 3)})
    next(check, None)


def test_json_round_trip(digits):
    sweep = sweep_share(digits, rules=["bema"], points=2)
    report = json.loads(json.dumps(sweep.to_json()))
    assert Sweep.from_json(report) == sweep
    assert report["schema"] == "rmt-compress/sweep/1"
    point = report["curves"][0]["points"][0]
    assert point["share"] == pytest.approx(point["weights"] / report["parameters"])


def test_smallest_within():
    points = tuple(SweepPoint(i, 10 * i, accuracy) for i, accuracy in enumerate((0.5, 0.9, 0.85, 0.89, 0.9)))
    curve = SweepCurve("x", points)
    # A larger one that misses it hides none that reaches it.
    assert curve.smallest_within(0.0, 0.9, ACCURACY) == points[1]
    assert curve.smallest_within(0.4, 0.9, ACCURACY) == points[0]
    assert curve.smallest_within(0.0, 0.95, ACCURACY) is None
    # Where less is better, the same losses are above the whole network's score.
    loss = Metric("loss", higher_is_better=False)
    assert curve.smallest_within(0.0, 0.5, loss) == points[0]
    assert SweepCurve("x", points[1:]).smallest_within(0.3, 0.6, loss) == points[1]
    assert SweepCurve("x", points[1:]).smallest_within(0.2, 0.6, loss) is None


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda t: sweep_rank(t, layers=["fc9"]), "no layer is called 'fc9'; those that can be swept are fc1, fc2"),
        (lambda t: sweep_rank(t, layers=["fc3"]), r"fc3 cannot be swept: min\(rows, columns\) = 10"),
        (lambda t: sweep_rank(t, layers=["fc1"], ranks=[65]), "fc1 has ranks from 1 to 64, not 65"),
        (lambda t: sweep_rank(t, points=1), "at least 2 points"),
        (lambda t: sweep_share(t, rules=["bema", "best"]), "'best' is none of bema, energy, ratio, gd14"),
        (lambda t: sweep_share(t, rules=[]), "no rule given"),
        (lambda t: sweep_sparsity(t, shares=[1.5]), r"share 1.5 is outside \(0, 1\]"),
        (lambda t: sweep_sparsity(t, thresholds=[-1]), "threshold -1 is negative"),
        (lambda t: sweep_sparsity(t, thresholds=[1], shares=[1]), "give one"),
    ],
)
def test_bad_settings(digits, run, message):
    with pytest.raises(SettingsError, match=message):
        run(digits)


def test_a_parametrized_weight_is_refused():
    model = nn.Sequential(nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(64, 40)))
    with pytest.raises(CompressionError, match=r"1\.weight is no plain parameter"):
        SweepTarget(model, rmt.analyze(model), load_data("digits", split="test"))
