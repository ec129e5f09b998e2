import json
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

import rmt_compress as rmt
from rmt_compress.analysis import AnalysisSettings
from rmt_compress.data import load_data
from rmt_compress.errors import OutputError, SettingsError, TrainingError
from rmt_compress.networks.architectures import build
from rmt_compress.networks.evaluation import score
from rmt_compress.networks.loading import load_model
from rmt_compress.training import CycleSettings, TrainingSettings, finetune
from rmt_compress.training.finetuning import Listeners, default_output, state_path
from rmt_compress.training.records import of_kind, read_lines
from tests.samples.repository import DIGITS, MODELS

SMALL = "mlp:64,96,96,10"
QUICK = TrainingSettings(epochs=4, batch_size=64, learning_rate=0.01)
CUTS = CycleSettings(every=2, analysis=AnalysisSettings(gof=0.3))


def test_a_checkpoint_is_made_smaller_and_can_be_loaded(tmp_path):
    out = tmp_path / "small.safetensors"
    result = finetune(DIGITS, out, data="digits", training=QUICK, cycle=CUTS)
    (run,) = result.runs
    assert run.last["parameters"] < 0.4 * run.first["parameters"]
    test = load_data("digits", split="test")
    loaded = load_model(out)
    assert score(loaded, test).accuracy == run.last["test_accuracy"] > 0.93
    assert sum(p.numel() for p in loaded.parameters()) == run.last["parameters"]
    assert {name: tuple(value.shape) for name, value in rmt.load_dense(out).items()} == {
        name: tuple(value.shape) for name, value in load_file(DIGITS).items()
    }
    assert not list(tmp_path.glob("*.training.pt"))


def test_the_log_says_what_happened(tmp_path):
    out = tmp_path / "small.pt"
    heard = []
    result = finetune(
        DIGITS, out, data="digits", training=QUICK, cycle=CUTS, listeners=Listeners(event=heard.append)
    )
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
            loss = loss + 1e-4 * sum(w.abs().sum() for w in weights)
            loss = loss + 1e-3 * sum(w.square().sum() for w in weights)
            optimizer.zero_grad()
            loss.backward()
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
def test_held_zeros_stay_and_released_ones_grow_back(tmp_path):
    left = {}
    for masks in ("held", "released"):
        cycle = CycleSettings(sparsify="0.03", sparsify_every=3, masks=masks, analysis=AnalysisSettings(gof=0.0))
        settings = TrainingSettings(epochs=5, batch_size=64, learning_rate=0.01)
        out = tmp_path / f"{masks}.safetensors"
        (run,) = finetune(DIGITS, out, data="digits", training=settings, cycle=cycle).runs
        left[masks] = [event["nonzeros"] for event in of_kind(run.events, "epoch")]
    assert left["held"][3] == left["released"][3]
    assert left["held"][5] == left["held"][3]
    assert left["released"][5] > 1.5 * left["released"][3]


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
    one = finetune(DIGITS, tmp_path / "a.safetensors", data="digits", training=QUICK, cycle=CUTS, compare=True)
    other = finetune(DIGITS, tmp_path / "b.safetensors", data="digits", training=QUICK, cycle=None)
    strip = ("run", "seconds", "elapsed")
    events = [
        [{k: v for k, v in e.items() if k not in strip} for e in run.events] for run in (one.runs[1], *other.runs)
    ]
    assert events[0] == events[1]


@pytest.mark.slow
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


def test_an_accuracy_out_of_reach_is_said(tmp_path):
    settings = TrainingSettings(epochs=2, learning_rate=1e-4, min_accuracy=0.999)
    result = finetune(
        DIGITS, tmp_path / "x.safetensors", data="digits", training=settings, cycle=CycleSettings(every=1)
    )
    assert "99.90%" in result.goal_missed


@pytest.mark.slow
def test_no_epoch_begins_that_would_end_too_late(tmp_path):
    settings = TrainingSettings(epochs=100_000, max_seconds=3)
    begun = time.perf_counter()
    (run,) = finetune(DIGITS, tmp_path / "x.safetensors", data="digits", training=settings, cycle=None).runs
    assert 0 < run.last["epoch"] < 100_000
    assert "3 seconds" in run.last["reason"]
    assert time.perf_counter() - begun < 60


def test_a_compressed_file_can_be_trained_on(tmp_path):
    small, out = tmp_path / "small.safetensors", tmp_path / "tuned.safetensors"
    rmt.prune(DIGITS, small)
    result = finetune(small, out, data="digits", training=TrainingSettings(epochs=2), cycle=CUTS)
    (run,) = result.runs
    factors = {name: info.shape for name, info in rmt.open_checkpoint(out).tensors.items() if "down" in name}
    assert factors == {
        name: info.shape for name, info in rmt.open_checkpoint(small).tensors.items() if "down" in name
    }
    assert run.last["test_accuracy"] > 0.93


def _weights(path):
    return {name: value.clone() for name, value in load_model(path).state_dict().items()}


def _same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["recombine", "recursive"])
def test_a_run_broken_off_after_any_epoch_ends_at_the_same_weights(tmp_path, mode):
    settings = TrainingSettings(epochs=5, batch_size=64)
    cycle = CycleSettings(
        every=1, mode=mode, sparsify="0.001:0.01", keep_bulk="0.4,0.2,0", analysis=AnalysisSettings(gof=0.3)
    )
    arch = "mlp:64,128,128,10"

    def train(out, **more):
        return finetune(None, out, data="digits", arch=arch, training=settings, cycle=cycle, **more)

    whole = train(tmp_path / "whole.safetensors")
    broken = tmp_path / "broken.safetensors"
    for epoch in range(1, 5):

        def stop(event, epoch=epoch):
            if event["event"] == "epoch" and event["epoch"] == epoch + 1:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train(broken, resume=epoch > 1, listeners=Listeners(event=stop))
        assert not broken.exists()
    again = train(broken, resume=True)
    assert _same(_weights(tmp_path / "whole.safetensors"), _weights(broken))
    strip = ("seconds", "elapsed")
    logs = [[{k: v for k, v in e.items() if k not in strip} for e in read_lines(r.log)] for r in (whole, again)]
    assert logs[0] == logs[1]


COMMAND = ("-m", "rmt_compress", "finetune")


@pytest.mark.slow
def test_ten_kills_at_random_moments_and_the_same_weights(python, tmp_path):
    options = ["--data", "digits", "--arch", "mlp:64,160,160,10", "--epochs", "15", "--batch-size", "16"]
    options += ["--prune-every", "3", "--gof", "0.3", "--sparsify", "0.001:0.01"]
    start = time.perf_counter()
    whole = tmp_path / "whole.safetensors"
    python.run(*COMMAND, *options, "-o", whole).check_returncode()
    takes = time.perf_counter() - start
    moments = random.Random(11)
    broken, state = tmp_path / "broken.safetensors", state_path(tmp_path / "broken.safetensors")
    for _ in range(10):
        process = python.start(*COMMAND, *options, "-o", broken, "--resume" if state.exists() else "--force")
        time.sleep(moments.uniform(0.3, 0.6) * takes)
        process.send_signal(signal.SIGKILL)
        process.wait()
    if not broken.exists() or state.exists():
        python.run(*COMMAND, *options, "-o", broken, "--resume").check_returncode()
    assert _same(_weights(whole), _weights(broken))


@pytest.mark.slow
def test_two_processes_decide_as_one(python, tmp_path):
    options = [str(DIGITS), "--data", "digits", "--epochs", "4", "--gof", "0.2", "--device", "cpu"]
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    for name, prefix in (("two", (*launch, *COMMAND)), ("one", COMMAND)):
        python.run(*prefix, *options, "-o", tmp_path / f"{name}.safetensors").check_returncode()
    two, one = (read_lines(tmp_path / f"{name}.log.jsonl") for name in ("two", "one"))
    assert (two[-1]["processes"], one[-1]["processes"]) == (2, 1)
    decisions = [
        [
            (layer["name"], layer["action"], layer["rank"])
            for event in of_kind(log, "cycle")
            for layer in event["layers"]
        ]
        for log in (two, one)
    ]
    assert decisions[0] == decisions[1]
    assert len(decisions[0]) == 6
    losses = [[event["train_loss"] for event in of_kind(log, "epoch")[1:]] for log in (two, one)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_state(tmp_path):
    out = tmp_path / "x.safetensors"
    settings = TrainingSettings(epochs=4, learning_rate=1e4, schedule="constant")
    with pytest.raises(TrainingError, match=r"epoch 1, at learning rate 10000.*--resume"):
        finetune(DIGITS, out, data="digits", training=settings, cycle=CycleSettings(every=3))
    assert state_path(out).exists()
    assert not out.exists()
    mended = TrainingSettings(epochs=4, learning_rate=0.01)
    (run,) = finetune(DIGITS, out, data="digits", training=mended, cycle=CycleSettings(every=3), resume=True).runs
    assert run.last["test_accuracy"] > 0.9


def test_a_data_set_that_does_not_suit_is_refused_before_training(tmp_path):
    from rmt_compress.errors import EvaluationError

    with pytest.raises(EvaluationError, match="64"):
        finetune(None, tmp_path / "x.pt", data="digits", arch="mlp:784,50,10", training=QUICK, cycle=CUTS)
    with pytest.raises(SettingsError, match="no default network"):
        finetune(None, tmp_path / "x.pt", data="./nothing", training=QUICK, cycle=CUTS)
    assert not list(tmp_path.iterdir())


def test_settings_under_which_nothing_would_be_cut_are_refused(tmp_path):
    with pytest.raises(SettingsError, match="nothing would be cut in 2 epochs"):
        finetune(None, tmp_path / "x.pt", data="digits", training=TrainingSettings(epochs=2), cycle=CycleSettings())


def test_the_state_of_another_run_is_refused(tmp_path):
    out = tmp_path / "x.safetensors"

    def stop(event):
        if event["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(DIGITS, out, data="digits", training=QUICK, cycle=CUTS, listeners=Listeners(event=stop))
    other = TrainingSettings(epochs=4, batch_size=32, learning_rate=0.01)
    with pytest.raises(TrainingError, match="batch_size 64, now 32"):
        finetune(DIGITS, out, data="digits", training=other, cycle=CUTS, resume=True)
    with pytest.raises(TrainingError, match="samples 1437, now 300"):
        finetune(DIGITS, out, data="digits", training=QUICK, cycle=CUTS, resume=True, samples=300)
    with pytest.raises(TrainingError, match="left by an earlier run"):
        finetune(DIGITS, out, data="digits", training=QUICK, cycle=CUTS)


@pytest.mark.parametrize("content", [b"", b"no state", b"PK\x03\x04 cut short"])
def test_a_damaged_state_is_refused(tmp_path, content):
    out = tmp_path / "x.safetensors"
    state_path(out).write_bytes(content)
    with pytest.raises(TrainingError, match="no training state"):
        finetune(DIGITS, out, data="digits", training=QUICK, cycle=CUTS, resume=True)


def test_resume_without_a_state_is_refused(tmp_path):
    with pytest.raises(TrainingError, match="no training state to resume from"):
        finetune(DIGITS, tmp_path / "x.pt", data="digits", training=QUICK, cycle=CUTS, resume=True)


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
