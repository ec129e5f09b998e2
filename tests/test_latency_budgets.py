"""Budgets of time, by a clock that counts weights: table, plan, and the network timed at the end."""

import json

import pytest
import torch
from torch import nn

import rmt_compress as rmt
from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.checkpoints.graph_network import GraphNetwork
from rmt_compress.data.in_memory import InMemory
from rmt_compress.errors import PlanError, SettingsError
from rmt_compress.layers import Layer
from rmt_compress.networks import latency
from rmt_compress.networks.calibration_settings import CalibrationSettings
from rmt_compress.networks.latency import seconds_in_turns
from rmt_compress.networks.layer_times import measure_times, measured_ranks, vector_length
from rmt_compress.networks.tasks.choosing import agreement_of
from rmt_compress.plan import Plan
from rmt_compress.planning.budgets import BudgetSettings
from rmt_compress.planning.costs import Seconds, costs_of
from rmt_compress.planning.times import LatencyTable
from rmt_compress.planning.within import plan_again, plan_within_with
from rmt_compress.pruning.budgeted import Request
from rmt_compress.pruning.road import prune
from rmt_compress.pruning.timing import Stopwatch
from tests.samples.repository import DIGITS
from tests.samples.times import PER_LAYER, PER_WEIGHT, by_weights, seconds_by_weights, table_of


class Twice(nn.Module):
    """Two layers of one shape, one of which is called twice, and one that is too small to be split."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 64)
        self.third, self.conv = nn.Linear(64, 64), nn.Conv2d(3, 64, 3, padding=1)
        self.head = nn.Linear(64, 5)

    def forward(self, x):
        x = self.conv(x).mean((2, 3))
        return self.head(self.third(self.second(self.second(self.first(x)))))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(3)
    return Twice().eval()


@pytest.fixture(scope="module")
def inputs():
    return torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def layers(model):
    return [layer.layer for layer in rmt.analyze(model, min_size=10).layers]


def test_layers_that_do_the_same_are_timed_once_and_calls_are_counted(model, inputs, layers):
    seen = []

    def clock(networks):
        seen.append([len(list(network.parameters())) for network, _ in networks])
        return by_weights(networks)

    state = {name: value.clone() for name, value in model.state_dict().items()}
    table = measure_times(model, inputs, layers, timer=clock, step=8)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    by_layers = {shape.layers: shape for shape in table.shapes}
    # Of 5 outputs, no two factors of a rank of 8 are smaller.
    assert set(by_layers) == {("conv.weight",), ("first.weight", "third.weight"), ("second.weight",)}
    once, twice = by_layers["first.weight", "third.weight"], by_layers["second.weight",]
    assert once.ranks == twice.ranks == (8, 16, 24)
    assert once.dense == pytest.approx(PER_LAYER + PER_WEIGHT * (64 * 64 + 64))
    assert once.seconds[1] == pytest.approx(2 * PER_LAYER + PER_WEIGHT * (16 * 128 + 64))
    assert twice.dense == pytest.approx(2 * once.dense)
    assert twice.seconds == pytest.approx([2 * time for time in once.seconds])
    assert once.what.startswith("Linear 64×64 float32 on 4×64")
    assert "Conv2d 64×3×3×3 float32, stride (1, 1)" in by_layers["conv.weight",].what
    assert len(seen) == len(table.shapes) + 1
    assert table.whole == pytest.approx(seconds_by_weights(model))
    assert (table.batch, table.step) == (4, 8)


def test_the_scale_is_what_the_layers_take_in_the_network():
    chain = nn.Sequential(nn.Linear(64, 80), nn.ReLU(), nn.Linear(80, 64)).eval()
    chain_layers = [layer.layer for layer in rmt.analyze(chain, min_size=10).layers]
    batch = torch.ones(2, 64)

    def clock(networks):
        """In the network layers take one and a half times as long, and a second is spent beside them."""
        whole = [isinstance(network, nn.Sequential) and len(network) == 3 for network, _ in networks]
        return [1 + 1.5 * time if there else time for time, there in zip(by_weights(networks), whole, strict=True)]

    assert measure_times(chain, batch, chain_layers, timer=clock, step=8).scale == pytest.approx(1.5)
    assert measure_times(chain, batch, chain_layers, timer=by_weights, step=8).scale == pytest.approx(1.0)

    def nonsense(networks):
        return [1.0 if len(networks) > 2 else 1.0 + number for number, _ in enumerate(networks)]

    assert measure_times(chain, batch, chain_layers, timer=nonsense, step=8).scale > 0


def test_a_larger_rank_that_seems_faster_is_noise(inputs, model, layers):
    first = [layer for layer in layers if layer.name == "first"]

    def found(*times):
        def clock(networks):
            return list(times) if len(networks) == 4 else by_weights(networks)

        (shape,) = measure_times(model, inputs, first, timer=clock, step=8).shapes
        return shape.dense, shape.seconds

    assert found(6.0, 3.0, 1.0, 4.0) == (6.0, (2.0, 2.0, 4.0))
    assert found(9.0, 5.0, 3.0, 1.0) == (9.0, (3.0, 3.0, 3.0))
    assert found(9.0, 1.0, 2.0, 2.0) == (9.0, (1.0, 2.0, 2.0))


def test_few_ranks_are_measured_and_the_ends_among_them():
    wide = Layer("fc", "fc.weight", "linear", (1000, 3000), "float32")
    ranks = measured_ranks(wide, 16)
    assert len(ranks) == 8
    assert (ranks[0], ranks[-1]) == (16, 736)  # at 750 the factors have as many weights
    assert all(rank % 16 == 0 for rank in ranks)
    assert measured_ranks(Layer("fc", "fc.weight", "linear", (10, 30), "float32"), 8) == ()
    assert vector_length(torch.device("cuda")) == 8
    assert vector_length(torch.device("cpu")) in (8, 16)


def test_what_cannot_be_timed_is_one_line(model, inputs, layers):
    with pytest.raises(SettingsError, match="no layer of this network can be timed in two factors; use --macs"):
        measure_times(model, inputs, [layer for layer in layers if layer.name == "head"], timer=by_weights, step=8)

    class Graph(GraphNetwork):
        def __init__(self):
            nn.Module.__init__(self)

        def _outputs(self, feeds):
            return None

        def multiply_adds(self, inputs):
            return 0

    with pytest.raises(SettingsError, match="the layers of a graph cannot be timed one by one"):
        Stopwatch.of(Graph(), agreement_of(InMemory(inputs), model), None, by_weights)


def test_the_clock_itself_gives_a_time_for_each(model, inputs):
    times = seconds_in_turns([(model, inputs), (model.head, torch.ones(1, 64))], spent=0.0)
    assert len(times) == 2
    assert all(time > 0 for time in times)


@pytest.mark.parametrize(("threads", "seconds"), ((1, 0.0), (2, 1.0)))
def test_one_thread_is_timed_by_its_own_time(threads, seconds, model, inputs, monkeypatch):
    """A second goes by between two looks at the clock on the wall, of which the thread gets nothing."""
    wall = iter(range(1000))
    monkeypatch.setattr(latency.time, "perf_counter", lambda: float(next(wall)))
    monkeypatch.setattr(latency.time, "thread_time", lambda: 7.0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert seconds_in_turns([(model, inputs)], spent=0.0) == [seconds]


@pytest.mark.parametrize(("faster_half", "seconds"), ((False, 4.0), (True, 2.0)))
def test_slow_runs_can_be_left_out(faster_half, seconds, model, inputs, monkeypatch):
    """Five runs after three that warm up, of which one in between is disturbed."""
    monkeypatch.setattr(latency, "WARM_UP", 3)
    monkeypatch.setattr(latency, "LEAST_RUNS", 5)
    ticks = iter([0.0, 0.0, 0.0, 2.0, 90.0, 1.0, 4.0, 7.0])
    monkeypatch.setattr(latency, "_eager", lambda *_: lambda: next(ticks))
    assert seconds_in_turns([(model, inputs)], spent=0.0, faster_half=faster_half) == [seconds]


def test_every_network_is_run_for_as_long_as_the_module_says(model, inputs, monkeypatch):
    """Each look at the clock is a second later, and two networks have four seconds together."""
    wall = iter(range(1000))
    runs = []
    monkeypatch.setattr(latency.time, "perf_counter", lambda: float(next(wall)))
    monkeypatch.setattr(latency, "_eager", lambda model, *_: lambda: runs.append(model) or 1.0)
    monkeypatch.setattr(latency, "SECONDS", 2.0)
    seconds_in_turns([(model, inputs), (model.head, torch.ones(1, 64))])
    # It is looked at once at the beginning, and before every turn but the first.
    assert len(runs) == 2 * 5


def test_the_table_comes_back_from_the_plan_file(model, inputs, layers):
    analysis = rmt.analyze(model, min_size=10)
    table = measure_times(model, inputs, layers, timer=by_weights, step=8)
    plan = rmt.plan_within(analysis, latency=0.8, seconds=Seconds(table))
    again = Plan.from_json(plan.to_json())
    assert LatencyTable.of_record(again.times) == table
    assert again.to_json() == plan.to_json()
    assert {each.rank % 8 for each in plan.layers if each.rank is not None} == {0}
    assert rmt.plan_within(analysis, keep=0.5).times is None
    with pytest.raises(PlanError, match="the times in the plan are damaged"):
        LatencyTable.of_record({**again.times, "shapes": [{"what": "x"}]})
    with pytest.raises(PlanError, match="whole, scale and step must be above 0"):
        LatencyTable.of_record({**again.times, "scale": 0})


def test_another_budget_of_the_same_measure_costs_nothing(model, inputs, layers):
    analysis = rmt.analyze(model, min_size=10)
    seconds = Seconds(measure_times(model, inputs, layers, timer=by_weights, step=8))
    plan = rmt.plan_within(analysis, latency=0.9, seconds=seconds)
    direct = rmt.plan_within(analysis, latency=0.7, seconds=seconds)
    for asked in (0.7, "0.7", f"{700 * seconds.whole}ms"):
        again = plan_again(plan, BudgetSettings(latency=asked))
        assert [each.rank for each in again.layers] == [each.rank for each in direct.layers]
    assert again.settings["budget"]["asked"] == {"latency": pytest.approx(0.7)}
    for other in ({"keep": 0.5}, {"latency": 0.7, "keep": 0.5}, {"latency": 0.7, "max_drop": 0.1}):
        with pytest.raises(SettingsError, match="other budgets of seconds would give: ask it for --latency alone"):
            plan_again(plan, BudgetSettings(**other))
    with pytest.raises(PlanError, match="made for no budget, or for several at once"):
        plan_again(Plan(layers=plan.layers), BudgetSettings(latency=0.5))


def test_milliseconds_are_a_share_of_the_whole(model):
    analysis = rmt.analyze(model, min_size=10)
    table = table_of({"first.weight": (4e-3, {8: 1e-3, 16: 2e-3}), "second.weight": (4e-3, {8: 1e-3})}, 10e-3)
    plan = plan_within_with(
        analysis, None, BudgetSettings(latency="7.5ms"), costs=costs_of(analysis, seconds=Seconds(table))
    )
    assert plan.settings["budget"]["asked"] == {"latency": pytest.approx(0.75)}
    assert plan.settings["budget"]["reached"]["latency"] <= 0.75
    roomy = plan_within_with(
        analysis, None, BudgetSettings(latency="20ms"), costs=costs_of(analysis, seconds=Seconds(table))
    )
    assert {each.rank for each in roomy.layers} == {None}
    with pytest.raises(SettingsError, match="the budget latency needs measured times"):
        plan_within_with(analysis, None, BudgetSettings(latency="7ms"))


@pytest.mark.parametrize("latency", ("5", "0ms", "-3ms", "fast", 0.0, 1.5, "nanms"))
def test_what_is_no_time(latency):
    with pytest.raises(SettingsError, match=r"latency takes a share in \(0, 1\], or milliseconds as 5ms, got"):
        BudgetSettings(latency=latency)


class Clock:
    """`by_weights`, but for whole networks that are split, which take longer than their layers say."""

    def __init__(self, slower):
        self.slower, self.calls = slower, 0

    def __call__(self, networks):
        self.calls += 1
        times = by_weights(networks)
        whole = networks[0][0]
        if len(networks) == 2 and hasattr(whole, "fc3") and self.calls > 3:
            times[1] *= self.slower
        return times


def pruned(tmp_path, clock, *, times=None, save_plan=None, accept=False, **asked):
    settings = CalibrationSettings(calibration_samples=32, repair="none")
    budget = BudgetSettings(search="one", metric="input", **asked)
    request = Request(budget, settings, times=times, timer=clock)
    return prune(DIGITS, tmp_path / "small.safetensors", within=request, save_plan=save_plan, accept=accept)


@pytest.mark.slow
@pytest.mark.traced
def test_prune_times_both_networks_in_the_end(tmp_path):
    result = pruned(tmp_path, by_weights, latency=0.4, latency_batch=3, save_plan=tmp_path / "plan.json")
    found = result.budget["latency"]
    assert not result.missed
    assert found["after_ms"] <= found["allowed_ms"] == pytest.approx(0.4 * found["before_ms"])
    assert found["share"] == pytest.approx(found["predicted_share"])
    assert (found["plans"], found["batch"]) == (1, 3)
    assert f"({found['share']:.0%})" in next(note for note in result.notes if note.startswith("timed in turns"))
    with open_checkpoint(result.output) as checkpoint:
        left = sum(layer.parameters for layer in checkpoint.layers())
    assert left < 0.5 * 301_066
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert [shape["layers"] for shape in plan["times"]["shapes"]] == [["fc1.weight"], ["fc2.weight"]]

    def no_clock(networks):
        assert len(networks) == 2, "nothing but both networks is timed"
        return by_weights(networks)

    (tmp_path / "small.safetensors").unlink()
    again = pruned(tmp_path, no_clock, latency=0.4, latency_batch=5, times=tmp_path / "plan.json")
    assert [each.rank for each in again.plan.layers] == [each.rank for each in result.plan.layers]
    assert any("the times of the plan are those of" in note and "3 samples" in note for note in again.notes)


@pytest.mark.slow
def test_a_network_that_turns_out_slower_is_planned_again(tmp_path):
    result = pruned(tmp_path, Clock(1.25), latency=0.4)
    found = result.budget["latency"]
    assert (found["plans"], result.missed) == (2, "")
    assert found["after_ms"] <= found["allowed_ms"]
    assert found["predicted_share"] <= 0.4 / 1.25


@pytest.mark.slow
@pytest.mark.traced
def test_a_budget_of_time_that_is_missed_says_by_how_much(tmp_path):
    result = pruned(tmp_path, Clock(1e3), latency=0.4)
    found = result.budget["latency"]
    assert found["after_ms"] > found["allowed_ms"]
    assert "more than the" in result.missed
    assert result.output is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.traced
def test_the_fastest_within_a_size(tmp_path):
    result = pruned(tmp_path, by_weights, latency=0.5, keep=0.3)
    assert result.totals["parameters_after"] <= 0.3 * result.totals["parameters"]
    assert result.budget["latency"]["share"] <= 0.5
    assert not result.missed
