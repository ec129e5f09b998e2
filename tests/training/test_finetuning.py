import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

import rmt_compress as rmt
from rmt_compress.analysis import AnalysisSettings
from rmt_compress.data import load_data
from rmt_compress.errors import OutputError, SettingsError
from rmt_compress.networks.architectures import build
from rmt_compress.networks.evaluation import score
from rmt_compress.networks.loading import load_model
from rmt_compress.planning.settings import PlanSettings
from rmt_compress.training import CycleSettings, TrainingSettings, finetune
from rmt_compress.training.event_log import of_kind, read_lines
from rmt_compress.training.finetuning import Listeners, default_output, state_path
from tests.samples.repository import DIGITS, MODELS

SMALL = "mlp:64,96,96,10"
QUICK = TrainingSettings(epochs=4, batch_size=64, learning_rate=0.01)
CUTS = CycleSettings(every=2, analysis=AnalysisSettings(gof=0.3))


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """A finished run with two cuts: its output, its result, the events that were heard."""
    out, heard = tmp_path_factory.mktemp("quick") / "small.safetensors", []
    listeners = Listeners(event=heard.append)
    return out, finetune(DIGITS, out, data="digits", training=QUICK, cycle=CUTS, listeners=listeners), heard


@pytest.mark.slow
def test_a_checkpoint_is_made_smaller_and_can_be_loaded(quick):
    out, result, _ = quick
    (run,) = result.runs
    assert run.last["parameters"] < 0.4 * run.first["parameters"]
    test = load_data("digits", split="test")
    loaded = load_model(out)
    assert score(loaded, test).accuracy == run.last["test_accuracy"] > 0.93
    assert sum(p.numel() for p in loaded.parameters()) == run.last["parameters"]
    assert {name: tuple(value.shape) for name, value in rmt.load_dense(out).items()} == {
        name: tuple(value.shape) for name, value in load_file(DIGITS).items()
    }
    assert not list(out.parent.glob("*.training.pt"))


@pytest.mark.slow
def test_the_log_says_what_happened(quick):
    out, result, heard = quick
    events = read_lines(result.log)
    assert events == json.loads(json.dumps(heard))
    assert [(event["event"], event["epoch"]) for event in events] == [
        *(("epoch", 0), ("cycle", 0), ("epoch", 1), ("epoch", 2), ("cycle", 2), ("epoch", 3), ("epoch", 4)),
        ("end", 4),
    ]
    for event in of_kind(events, "epoch")[1:]:
        assert event["train_loss"] > 0
        assert event["learning_rate"] == 0.01
        assert set(event["seconds"]) == {"train", "analyze", "evaluate"}
    first, last = of_kind(events, "cycle")
    assert (first["keep_bulk"], last["keep_bulk"]) == (0.5, 0.0)
    assert first["accuracy_before"] == events[0]["test_accuracy"]
    assert last["accuracy_after"] == last["test_accuracy"]
    layer = next(layer for layer in last["layers"] if layer["name"] == "fc2")
    assert {"spikes", "gof", "fits", "rank", "action", "reason", "sigma2"} <= set(layer)
    state = rmt.open_checkpoint(out).tensors
    assert state["fc2.down.weight"].shape[0] == layer["rank"]


def test_the_training_is_that_of_a_plain_loop(tmp_path):
    """Without cuts, the weights are bit for bit those of ten lines of PyTorch."""
    settings = TrainingSettings(
        epochs=2, batch_size=100, learning_rate=0.05, l1=1e-4, l2=1e-3, schedule="step:0.5,1"
    )
    finetune(None, tmp_path / "x.safetensors", data="digits", arch=SMALL, training=settings, cycle=None)
    data = load_data("digits", split="train")
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 96), nn.ReLU(), nn.Linear(96, 10)
    )
    model.load_state_dict(dict(zip(model.state_dict(), build(SMALL, seed=0).state_dict().values(), strict=True)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for epoch in (1, 2):
        optimizer.param_groups[0]["lr"] = 0.05 * 0.5 ** (epoch - 1)
        # Seed 0 of the settings and the number of the epoch, as training.steps mixes them.
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(epoch * 7919))
        for batch in order.split(100):
            weights = [p for p in model.parameters() if p.dim() == 2]
            loss = functional.cross_entropy(model(data.images[batch]), data.labels[batch])
            optimizer.zero_grad()
            loss.backward()
            for w in weights:  # the gradients of 1e-4·Σ|w| and 1e-3·Σw²
                w.grad.add_(w.detach().sign(), alpha=1e-4).add_(w.detach(), alpha=2e-3)
            optimizer.step()
    written = load_file(tmp_path / "x.safetensors")
    for ours, theirs in zip(written.values(), model.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_both_optimizers_learn_afresh_with_cuts(tmp_path, optimizer):
    settings = TrainingSettings(
        epochs=6, batch_size=32, optimizer=optimizer, learning_rate={"sgd": 0.03, "adamw": 2e-3}[optimizer]
    )
    out = tmp_path / "x.safetensors"
    result = finetune(
        None,
        out,
        data="digits",
        arch="mlp:64,256,256,10",
        training=settings,
        cycle=CycleSettings(analysis=AnalysisSettings(gof=0.2)),
    )
    (run,) = result.runs
    assert run.last["test_accuracy"] > 0.9
    assert run.last["parameters"] < 0.6 * run.first["parameters"]


@pytest.mark.slow
@pytest.mark.traced
def test_sparsification_while_training_and_after(tmp_path):
    cycle = CycleSettings(
        sparsify="0.02:0.05", masks="held", sparsify_after=0.06, analysis=AnalysisSettings(gof=0.3)
    )
    settings = TrainingSettings(epochs=4, batch_size=64, learning_rate=0.01)
    out = tmp_path / "x.safetensors"
    (run,) = finetune(DIGITS, out, data="digits", training=settings, cycle=cycle).runs
    epochs = of_kind(run.events, "epoch")
    assert [event["threshold"] for event in epochs[1:]] == pytest.approx([0.02, 0.03, 0.04, 0.05])
    assert all(event["nonzeros"] < event["parameters"] for event in epochs[1:])
    (after,) = of_kind(run.events, "sparsify")
    assert after["nonzeros"] < epochs[-1]["nonzeros"]
    for name, value in rmt.open_checkpoint(out).tensors.items():
        if len(value.shape) == 2:
            weight = load_model(out).get_parameter(name)
            assert not ((weight != 0) & (weight.abs() < 0.06)).any()


@pytest.mark.slow
@pytest.mark.parametrize("budget", ["magnitude", "hybrid"])
def test_a_share_of_zeros_is_reached_exactly_with_an_epoch_to_mend_it(tmp_path, budget):
    cycle = CycleSettings(sparsity=0.9, sparsify_budget=budget, analysis=AnalysisSettings(gof=0.0))
    settings = TrainingSettings(epochs=4, batch_size=64, learning_rate=0.01)
    out = tmp_path / "x.safetensors"
    (run,) = finetune(DIGITS, out, data="digits", training=settings, cycle=cycle).runs
    epochs = of_kind(run.events, "epoch")
    assert [event["sparsity"] for event in epochs[1:]] == pytest.approx([0.3, 0.6, 0.9, 0.9])
    weights = [value for value in rmt.load_dense(out).values() if value.dim() == 2]
    entries = sum(weight.numel() for weight in weights)
    assert sum(int((weight == 0).sum()) for weight in weights) == int(0.9 * entries + 1e-9)
    assert run.last["test_accuracy"] > 0.9


@pytest.mark.slow
def test_held_zeros_stay_and_released_ones_grow_back(tmp_path):
    left = {}
    for masks in ("held", "released"):
        cycle = CycleSettings(sparsify="0.03", sparsify_every=2, masks=masks, analysis=AnalysisSettings(gof=0.0))
        settings = TrainingSettings(epochs=3, batch_size=64, learning_rate=0.01)
        out = tmp_path / f"{masks}.safetensors"
        (run,) = finetune(DIGITS, out, data="digits", training=settings, cycle=cycle).runs
        left[masks] = [event["nonzeros"] for event in of_kind(run.events, "epoch")]
    assert left["held"][2] == left["released"][2]
    assert left["held"][3] == left["held"][2]
    assert left["released"][3] > 1.5 * left["released"][2]


@pytest.mark.slow
def test_compare_and_seeds_give_mean_and_deviation(tmp_path):
    settings = TrainingSettings(epochs=3, batch_size=64)
    result = finetune(
        None,
        tmp_path / "x.safetensors",
        data="digits",
        arch=SMALL,
        training=settings,
        cycle=CycleSettings(analysis=AnalysisSettings(gof=0.3)),
        compare=True,
        seeds=(3, 5),
    )
    names = ["pruned seed 3", "baseline seed 3", "pruned seed 5", "baseline seed 5"]
    assert [run.name for run in result.runs] == names
    values = [run.last["test_accuracy"] for run in result.runs if not run.pruned]
    report = result.to_json()["mean"]["baseline"]["test_accuracy"]
    assert report["mean"] == pytest.approx(sum(values) / 2)
    assert report["deviation"] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
    assert {event["run"] for event in read_lines(result.log)} == set(names)
    written = sum(value.numel() for value in load_model(tmp_path / "x.safetensors").parameters())
    assert written == result.runs[0].last["parameters"]


@pytest.mark.slow
def test_the_baseline_is_the_pruned_run_without_cuts(tmp_path):
    few = {"data": "digits", "samples": 500, "training": QUICK}
    one = finetune(DIGITS, tmp_path / "a.safetensors", **few, cycle=CUTS, compare=True)
    other = finetune(DIGITS, tmp_path / "b.safetensors", **few, cycle=None)
    strip = ("run", "seconds", "elapsed")
    events = [
        [{k: v for k, v in e.items() if k not in strip} for e in run.events] for run in (one.runs[1], *other.runs)
    ]
    assert events[0] == events[1]


@pytest.mark.slow
@pytest.mark.traced
def test_least_accuracy_keeps_the_smallest_network_that_reached_it(tmp_path):
    settings = TrainingSettings(epochs=6, batch_size=64, learning_rate=0.01, min_accuracy=0.96)
    cycle = CycleSettings(every=1, keep_bulk="0.3,0.1,0", analysis=AnalysisSettings(gof=0.3))
    out = tmp_path / "x.safetensors"
    result = finetune(DIGITS, out, data="digits", training=settings, cycle=cycle)
    (run,) = result.runs
    reached = [event for event in of_kind(run.events, "epoch") if event["test_accuracy"] >= 0.96 and event["epoch"]]
    assert run.last["parameters"] == min(event["parameters"] for event in reached)
    assert run.last["test_accuracy"] >= 0.96
    assert score(load_model(out), load_data("digits", split="test")).accuracy == run.last["test_accuracy"]
    below = [event["epoch"] for event in of_kind(run.events, "epoch") if event["test_accuracy"] < 0.96]
    assert all(event["epoch"] < min(below, default=99) for event in of_kind(run.events, "cycle"))


@pytest.mark.slow
def test_an_accuracy_out_of_reach_is_said(tmp_path):
    settings = TrainingSettings(epochs=2, learning_rate=1e-4, min_accuracy=0.999)
    result = finetune(
        DIGITS, tmp_path / "x.safetensors", data="digits", training=settings, cycle=CycleSettings(every=1)
    )
    assert "99.90%" in result.goal_missed


@pytest.mark.slow
@pytest.mark.traced
def test_no_epoch_begins_that_would_end_too_late(tmp_path, monkeypatch):
    """By a clock that goes on a tenth of a second whenever it is looked at, so every epoch takes as long."""
    ticks = itertools.count()
    monkeypatch.setattr("rmt_compress.training.run.time", SimpleNamespace(perf_counter=lambda: next(ticks) / 10))
    settings = TrainingSettings(epochs=100, max_seconds=3)
    (run,) = finetune(DIGITS, tmp_path / "x.safetensors", data="digits", training=settings, cycle=None).runs
    assert 1 < run.last["epoch"] < 30
    assert "3 seconds" in run.last["reason"]
    # Another epoch would have ended too late, this one did not.
    each = run.last["elapsed"] / (run.last["epoch"] + 1)
    assert 3 - 2 * each < run.last["elapsed"] < 3.5


def test_a_data_set_that_does_not_suit_is_refused_before_training(tmp_path):
    from rmt_compress.errors import EvaluationError

    with pytest.raises(EvaluationError, match="64"):
        finetune(None, tmp_path / "x.pt", data="digits", arch="mlp:784,50,10", training=QUICK, cycle=CUTS)
    with pytest.raises(SettingsError, match="no default network"):
        finetune(None, tmp_path / "x.pt", data="./nothing", training=QUICK, cycle=CUTS)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.traced
def test_a_full_disk_is_one_line_and_the_older_state_stays(tmp_path, monkeypatch):
    out, calls = tmp_path / "x.safetensors", []
    real = torch.save

    def save(content, path):
        calls.append(path)
        if len(calls) > 2:
            Path(path).write_bytes(b"cut")
            raise RuntimeError("PytorchStreamWriter failed writing file data/1: file write failed")
        real(content, path)

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(OutputError, match="cannot be written"):
        finetune(DIGITS, out, data="digits", training=QUICK, cycle=CUTS)
    assert torch.load(state_path(out), weights_only=True)["epoch"] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.log.jsonl", "x.training.pt"]


@pytest.mark.slow
def test_a_compressed_file_can_be_trained_on(tmp_path):
    small, out = tmp_path / "small.safetensors", tmp_path / "tuned.safetensors"
    rmt.prune(DIGITS, small, plan=PlanSettings(rule="ratio:0.4"))
    result = finetune(small, out, data="digits", training=TrainingSettings(epochs=2), cycle=CUTS, pack="pivots")
    (run,) = result.runs
    factors = {name: info.shape for name, info in rmt.open_checkpoint(out).tensors.items() if "down" in name}
    assert factors == {
        name: info.shape for name, info in rmt.open_checkpoint(small).tensors.items() if "down" in name
    }
    assert run.last["test_accuracy"] > 0.93
    assert "fc1.up.weight.pivots" in load_file(out)
    assert score(load_model(out), load_data("digits", split="test")).accuracy == run.last["test_accuracy"]


def test_settings_under_which_nothing_would_be_cut_are_refused(tmp_path):
    with pytest.raises(SettingsError, match="nothing would be cut in 2 epochs"):
        finetune(None, tmp_path / "x.pt", data="digits", training=TrainingSettings(epochs=2), cycle=CycleSettings())


def test_default_outputs():
    assert default_output(Path("a/model.pt"), "mnist") == Path("a/model.tuned.pt")
    assert default_output(None, "mnist") == Path("mnist.tuned.safetensors")
    assert default_output(None, "package.module:load") == Path("load.tuned.safetensors")


@pytest.mark.realdata
@pytest.mark.slow
def test_the_mnist_sample_loses_most_of_its_weights_and_no_accuracy(tmp_path, real_data):
    source = MODELS / "mnist_mlp.safetensors"
    settings = TrainingSettings(epochs=2, learning_rate=0.005)
    cycle = CycleSettings(every=1, keep_bulk="0.2,0")
    (run,) = finetune(source, tmp_path / "x.safetensors", data="mnist", training=settings, cycle=cycle).runs
    assert run.last["parameters"] < 0.1 * run.first["parameters"]
    assert run.last["test_accuracy"] >= run.first["test_accuracy"] - 0.002
    seconds = run.seconds
    assert seconds["train"] > 0
