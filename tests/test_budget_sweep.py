"""The budget sweep against networks that are really compressed, by a clock that counts weights."""

import csv
import json

import pytest
import torch
from torch import nn

import rmt_compress as rmt
from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.data.dataset import Dataset
from rmt_compress.errors import SettingsError
from rmt_compress.networks.calibration.calibrating import calibrate
from rmt_compress.networks.evaluation import as_task, score
from rmt_compress.networks.layer_times import measure_times
from rmt_compress.networks.measurement import count_macs
from rmt_compress.networks.positions import layer_positions
from rmt_compress.networks.replacing import scored
from rmt_compress.planning.budgets import BudgetSettings
from rmt_compress.planning.candidates import SCALING_OF, Candidates
from rmt_compress.planning.costs import Seconds, costs_of
from rmt_compress.planning.making import make_plan
from rmt_compress.reporting.sweep_files import write_sweep
from rmt_compress.reporting.sweep_plots import sweep_figure
from rmt_compress.sweep import EDGE, BudgetTarget, Sweep, sweep_budget
from tests.samples.seeds import repeatable
from tests.samples.times import by_weights, seconds_by_weights


@pytest.fixture(scope="module")
@repeatable
def model():
    return nn.Sequential(
        nn.Conv2d(4, 40, 3), nn.ReLU(), nn.Flatten(), nn.Linear(640, 50), nn.ReLU(), nn.Linear(50, 10)
    ).eval()


@pytest.fixture(scope="module")
@repeatable
def data(model):
    images = torch.rand(120, 4, 6, 6)
    with torch.no_grad():
        return Dataset("made", "test", images, model(images).argmax(1), 10)


@pytest.fixture(scope="module")
def moments(model, data):
    return calibrate(model, [data.images[:64]], seed=1)


@pytest.fixture(scope="module")
def target(model, data, moments):
    analysis = rmt.analyze(model, min_size=20)
    inputs = data.images[:3]
    layers = [layer.layer for layer in analysis.analyzed]
    seconds = Seconds(measure_times(model, inputs, layers, timer=by_weights, step=4))
    costs = costs_of(analysis, layer_positions(model, inputs), seconds)
    checkpoint = open_checkpoint(model)
    candidates = Candidates(checkpoint, analysis, moments, BudgetSettings(keep=1.0), costs)
    task = as_task(data, model)
    judge = scored(model, lambda network: task.score(network).value)
    return BudgetTarget(model, candidates, task, judge, 120, inputs, by_weights, "3 samples at once, a machine")


@pytest.fixture(scope="module")
def sweep(target):
    return sweep_budget(target, points=4)


def test_every_point_is_a_network_that_compress_makes(sweep, target, model, data, moments):
    assert [(curve.name, curve.measure) for curve in sweep.curves] == [
        (name, measure) for measure in ("keep", "macs", "latency") for name in ("two-sided", "input", "plain", EDGE)
    ]
    plan = rmt.plan_within
    asked = {"positions": target.candidates.costs["macs"].positions, "seconds": target.candidates.costs["latency"]}
    for curve in sweep.curves:
        if curve.name == EDGE:
            continue
        assert len(curve.points) == 4
        for point in curve.points[1:3]:
            made = plan(
                target.candidates.analysis,
                moments,
                metric=curve.name,
                scaling=SCALING_OF[curve.name],
                **{curve.measure: point.amount},
                **asked,
            )
            small = rmt.compress(model, made, moments)
            assert {layer.name: layer.rank for layer in made.layers if layer.rank} == point.ranks
            assert point.weights == sum(parameter.numel() for parameter in small.parameters())
            assert point.macs == count_macs(small, data.images[:1])
            # Sums in another order may turn over a sample or two.
            assert point.score == pytest.approx(score(small, data).accuracy, abs=2.01 / 120)
            if curve.measure == "latency":
                assert point.milliseconds == pytest.approx(1000 * seconds_by_weights(small))
                assert point.milliseconds <= point.amount * sweep.milliseconds * (1 + 1e-9)
            else:
                assert point.milliseconds is None
                assert sweep.share(point, curve.measure) <= point.amount + 1e-9


def test_the_network_as_it_is_and_the_edge_s_own(sweep, target, model, data):
    assert (sweep.score, sweep.samples, sweep.kind) == (1.0, 120, "budget")
    assert sweep.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert sweep.macs == count_macs(model, data.images[:1])
    assert sweep.milliseconds == pytest.approx(1000 * seconds_by_weights(model))
    edge = rmt.compress(model, make_plan(target.candidates.analysis))
    for curve in sweep.curves[3::4]:
        (point,) = curve.points
        assert curve.predicted == point
        assert point.weights == sum(parameter.numel() for parameter in edge.parameters())
        assert point.score == pytest.approx(score(edge, data).accuracy, abs=2.01 / 120)
    assert sweep.curves[-1].points[0].milliseconds == pytest.approx(1000 * seconds_by_weights(edge))


def test_weights_and_decompositions_are_used_again(target, model):
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    seen = []
    first = sweep_budget(target, points=3, progress=lambda done, total, name: seen.append((done, total, name)))
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert [done for done, _, _ in seen] == list(range(1, 31))
    assert {total for _, total, _ in seen} == {30}
    assert seen[-1][2] == "latency edge"

    class Deaf(dict):
        def __setitem__(self, key, value):
            raise AssertionError("asked or timed again")

    again = BudgetTarget(
        **{name: getattr(target, name) for name in BudgetTarget.__dataclass_fields__ if not name.startswith("_")},
        _scores=Deaf(target._scores),
        _shares=Deaf(target._shares),
    )
    assert sweep_budget(again, points=3) == first
    with pytest.raises(SettingsError, match="at least 2 points"):
        sweep_budget(target, points=1)


def test_files_hold_what_was_found(sweep, tmp_path):
    write_sweep(sweep, tmp_path / "budget")
    assert Sweep.from_json(json.loads((tmp_path / "budget.json").read_text())) == sweep
    with (tmp_path / "budget.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 1 + 3 * (3 * 4 + 1)
    assert float(rows[0]["milliseconds"]) == pytest.approx(sweep.milliseconds, rel=1e-5)
    timed = [row for row in rows[1:] if row["measure"] == "latency"]
    assert all(float(row["milliseconds"]) > 0 for row in timed)
    assert [float(row["accuracy"]) for row in rows[1:5]] == pytest.approx(
        [point.score for point in sweep.curves[0].points], rel=1e-5
    )
    assert (tmp_path / "budget.png").read_bytes().startswith(b"\x89PNG")


def test_the_picture_has_a_panel_for_each_measure(sweep):
    figure = sweep_figure(sweep)
    figure.draw_without_rendering()
    assert [axes.get_title() for axes in figure.axes] == ["Size", "Multiply-adds", "Time"]
    for axes, measure in zip(figure.axes, ("keep", "macs", "latency"), strict=True):
        curves = [curve for curve in sweep.curves if curve.measure == measure]
        for line, curve in zip(axes.lines, curves, strict=False):
            if curve.name == EDGE:
                continue
            heights = [100 * point.score for point in curve.points]
            assert list(line.get_ydata()) == pytest.approx([*heights, 100 * sweep.score])
            last = sweep.milliseconds if measure == "latency" else 100
            assert line.get_xdata()[-1] == pytest.approx(last)
            assert line.get_xdata()[0] < last
    texts = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert texts[0].startswith("two-sided")
    assert texts[-1] == "as it is: 100.00%"
    assert "3 samples at once, a machine" in figure.axes[2].get_xlabel()
    box = figure._suptitle.get_window_extent()
    assert 0 <= box.x0 < box.x1 <= figure.bbox.x1
    two = Sweep(**{**vars(sweep), "curves": sweep.curves[:4]})
    assert [axes.get_title() for axes in sweep_figure(two).axes] == ["Size"]
