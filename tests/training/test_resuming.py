"""Training states: what is broken off is taken up, to the same weights, or refused."""

import random
import signal
import socket
import sys
import time
from dataclasses import replace

import pytest
import torch

from rmt_compress.analysis import AnalysisSettings
from rmt_compress.errors import TrainingError
from rmt_compress.networks.loading import load_model
from rmt_compress.planning.budgets import BudgetSettings
from rmt_compress.training import CycleSettings, TrainingSettings, finetune
from rmt_compress.training.event_log import of_kind, read_lines
from rmt_compress.training.finetuning import Listeners, state_path
from tests.samples.repository import DIGITS

QUICK = TrainingSettings(epochs=4, batch_size=64, learning_rate=0.01)
CUTS = CycleSettings(every=2, analysis=AnalysisSettings(gof=0.3))


def _weights(path):
    return {name: value.clone() for name, value in load_model(path).state_dict().items()}


def _same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


AT_THE_EDGE = CycleSettings(
    every=1, sparsify="0.001:0.01", keep_bulk="0.4,0.2,0", analysis=AnalysisSettings(gof=0.3)
)
WITHIN = CycleSettings(
    every=1, sparsify="0.001:0.01", budget=BudgetSettings(keep=0.1), analysis=AnalysisSettings(gof=0.3)
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cycle", "arch"),
    [
        (AT_THE_EDGE, "mlp:64,128,128,10"),
        (replace(AT_THE_EDGE, mode="recursive"), "mlp:64,128,128,10"),
        (WITHIN, "mlp:64,128,128,10"),
        (WITHIN, "cnn:1x8x8/16,p,40/64,10"),
    ],
)
def test_a_run_broken_off_after_any_epoch_ends_at_the_same_weights(tmp_path, cycle, arch):
    settings = TrainingSettings(epochs=4, batch_size=64)

    def train(out, **more):
        return finetune(None, out, data="digits", arch=arch, training=settings, cycle=cycle, samples=320, **more)

    whole = train(tmp_path / "whole.safetensors")
    broken = tmp_path / "broken.safetensors"
    for epoch in range(1, 4):

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
def test_kills_at_random_moments_and_the_same_weights(python, tmp_path):
    options = ["--data", "digits", "--arch", "mlp:64,160,160,10", "--epochs", "6", "--batch-size", "16"]
    options += ["--samples", "600"]
    options += ["--prune-every", "2", "--gof", "0.3", "--sparsify", "0.001:0.01"]
    start = time.perf_counter()
    whole = tmp_path / "whole.safetensors"
    python.run(*COMMAND, *options, "-o", whole).check_returncode()
    takes = time.perf_counter() - start
    moments = random.Random(11)
    broken, state = tmp_path / "broken.safetensors", state_path(tmp_path / "broken.safetensors")
    for _ in range(4):
        process = python.start(*COMMAND, *options, "-o", broken, "--resume" if state.exists() else "--force")
        time.sleep(moments.uniform(0.3, 0.6) * takes)
        process.send_signal(signal.SIGKILL)
        process.wait()
    if not broken.exists() or state.exists():
        python.run(*COMMAND, *options, "-o", broken, "--resume").check_returncode()
    assert _same(_weights(whole), _weights(broken))


AND_WHAT_STILL_RUNS = """
import os, runpy, sys
sys.argv[0] = "rmt-compress"
try:
    runpy.run_module("rmt_compress", run_name="__main__")
finally:
    tasks = "/proc/self/task"
    for task in os.listdir(tasks) if os.path.exists(tasks) else ():
        print("a thread:", open(f"{tasks}/{task}/comm").read(), file=sys.stderr)
"""


def together(python, folder, environments, *words):
    """Exit status and words of processes that run at the same time, one for each environment."""
    said = [folder / f"said-{number}" for number, _ in enumerate(environments)]
    running = []
    for path, variables in zip(said, environments, strict=True):
        with path.open("w") as file:
            running.append(python.start(*words, env=variables, stderr=file))
    return [(process.wait(), path.read_text()) for process, path in zip(running, said, strict=True)]


@pytest.mark.slow
def test_two_processes_decide_as_one_and_part(python, tmp_path):
    script = tmp_path / "run.py"
    script.write_text(AND_WHAT_STILL_RUNS)
    options = ["finetune", str(DIGITS), "--data", "digits", "--epochs", "4", "--gof", "0.2", "--device", "cpu"]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # What torchrun sets for the processes that it starts.
    launched = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [{**launched, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    for name, environments in (("two", ranks), ("one", [{}])):
        words = (script, *options, "-o", tmp_path / f"{name}.safetensors")
        for status, said in together(python, tmp_path, environments, *words):
            assert status == 0, said
            # A thread of the process group that is still there when the interpreter ends aborts it now and then.
            assert "a thread: " in said or sys.platform != "linux"
            assert "gloo" not in said
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
@pytest.mark.traced
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


@pytest.mark.parametrize("content", [b"", b"no state", b"PK\x03\x04 cut short"])
def test_a_damaged_state_is_refused(tmp_path, content):
    out = tmp_path / "x.safetensors"
    state_path(out).write_bytes(content)
    with pytest.raises(TrainingError, match="no training state"):
        finetune(DIGITS, out, data="digits", training=QUICK, cycle=CUTS, resume=True)


@pytest.mark.slow
@pytest.mark.traced
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


def test_resume_without_a_state_is_refused(tmp_path):
    with pytest.raises(TrainingError, match="no training state to resume from"):
        finetune(DIGITS, tmp_path / "x.pt", data="digits", training=QUICK, cycle=CUTS, resume=True)
