"""`rmt-compress evaluate` as a user types it."""

import json
import shutil

import pytest
from safetensors.torch import save_file

from rmt_compress.networks.architectures import build
from rmt_compress.networks.latency import Latency
from tests.samples.command_line import one_error_line
from tests.samples.repository import DIGITS


@pytest.fixture
def small(tmp_path):
    """A network a quarter as large, untrained."""
    path = tmp_path / "small.safetensors"
    save_file(build("mlp:64,128,10", seed=0).state_dict(), path, metadata={"architecture": "mlp:64,128,10"})
    return path


def test_one_network(run):
    result = run("evaluate", DIGITS, "--data", "digits")
    assert result.returncode == 0, result.stderr
    assert result.stderr == f"next: rmt-compress prune {DIGITS}\n"
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 100
    assert "360 test samples of digits" in result.stdout
    for words in ("accuracy 97.50%", "parameters 301,066", "bytes on disk 1,205,232", "multiply-adds 300,032"):
        assert any(words in " ".join(line.split()) for line in lines), words
    assert "time, batch of 128" in result.stdout
    assert "change" not in result.stdout


def test_side_by_side(run, small):
    result = run("evaluate", small, "--against", DIGITS, "--data", "digits")
    assert result.returncode == 1
    assert "nearer to guessing" in result.stderr
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert max(map(len, result.stdout.splitlines())) <= 100
    assert any(line.startswith("parameters 9,610 301,066 31.3× fewer") for line in lines)
    assert any(line.startswith("multiply-adds 9,472 300,032 31.7× fewer") for line in lines)
    assert any(line.startswith("accuracy") and line.endswith("points") and "-" in line for line in lines)
    larger = run("evaluate", DIGITS, "--against", small, "--data", "digits", "--limit", "20")
    assert "31.3× more" in larger.stdout


def test_no_gain_is_said(run, tmp_path):
    shutil.copy(DIGITS, tmp_path / "copy.safetensors")
    result = run(
        "evaluate", tmp_path / "copy.safetensors", "--against", DIGITS, "--data", "digits", "--limit", "20"
    )
    assert result.stdout.count("the same") == 6
    assert "+0.00 points" in result.stdout


def test_json(run, small):
    result = run("evaluate", small, "--against", DIGITS, "--data", "digits", "--json", "--limit", "100")
    assert result.returncode == 1
    report = json.loads(result.stdout)
    assert report["data"] == {"name": "digits", "split": "test", "samples": 100}
    for key, path in (("model", small), ("against", DIGITS)):
        entry = report[key]
        assert entry["path"] == str(path)
        assert entry["bytes"] == path.stat().st_size
        assert 0 <= entry["accuracy"] <= 1
        assert set(entry["latency_ms"]) == {"1", "128"}
        assert {"loss", "parameters", "nonzeros", "macs", "dead_outputs"} <= set(entry)
    alone = json.loads(run("evaluate", DIGITS, "--data", "digits", "--json").stdout)
    assert "against" not in alone
    assert alone["model"]["accuracy"] == 0.975


def test_bad_input_is_one_line(run, small, tmp_path):
    save_file(build("mlp:20,10").state_dict(), tmp_path / "other.safetensors")
    cases = [
        (["nowhere.pt", "--data", "digits"], "nowhere.pt"),
        ([DIGITS, "--data", "letters"], "'letters'"),
        (["other.safetensors", "--data", "digits"], "other.safetensors: does not say which network"),
        (
            ["other.safetensors", "--data", "digits", "--arch", "mlp:20,10"],
            "cannot take inputs of 1×8×8 from digits",
        ),
        ([DIGITS, "--data", "digits", "--arch", "mlp:64,10"], "fc1.weight is 512×64, not 10×64"),
        ([DIGITS, "--data", "digits", "--arch", "mlp:64,"], "mlp:64,"),
        ([DIGITS, "--data", "digits", "--device", "toaster"], "cannot run on device 'toaster'"),
    ]
    for arguments, words in cases:
        line = one_error_line(run("evaluate", *arguments))
        assert words in line, line
    assert run("evaluate", DIGITS).returncode == 2


def test_notes_of_the_data_are_shown(run, tmp_path, monkeypatch):
    (tmp_path / "my_batches.py").write_text(
        "import torch\ndef batches():\n    yield torch.zeros(3, 64, dtype=torch.uint8), torch.tensor([0, 1, 9])\n"
    )
    monkeypatch.chdir(tmp_path)
    result = run("evaluate", DIGITS, "--data", "my_batches:batches")
    assert result.returncode == 0, result.stderr
    assert "note: Inputs are bytes and taken as they are" in result.stderr
    assert "dead outputs" in result.stdout


def test_why_a_network_is_timed_in_eager_mode_alone(run, monkeypatch):
    """As on a GPU, where a network looks at a value on the host."""
    why = "no CUDA graph can be made of it: it waits for the host"
    monkeypatch.setattr(
        "rmt_compress.networks.evaluation.measure_latency",
        lambda models, task: [Latency({"1": 2.0}, {}, why) for _ in models],
    )
    words = ("evaluate", DIGITS, "--data", "digits", "--limit", "20")
    assert f"note: {DIGITS}: timed in eager mode alone: {why}" in run(*words).stderr
    assert json.loads(run(*words, "--json").stdout)["model"]["why_no_graph"] == why
