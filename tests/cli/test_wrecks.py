"""Commands that leave a network which only guesses say so and end with exit status 1, the file written."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.samples.command_line import one_error_line
from tests.samples.repository import REPOSITORY

SAMPLE = REPOSITORY / "sample_models" / "digits_mlp.safetensors"


@pytest.fixture
def wreck(tmp_path):
    """The sample with other numbers in its weights."""
    state = {name: torch.randn_like(tensor) for name, tensor in load_file(SAMPLE).items()}
    save_file(state, tmp_path / "wreck.safetensors", {"architecture": "mlp:64,512,512,10"})
    return tmp_path / "wreck.safetensors"


def test_evaluate_against_the_original(run, wreck):
    words = ("evaluate", wreck, "--data", "digits", "--against", SAMPLE)
    line = one_error_line(run(*words), status=1)
    assert re.search(
        r"wreck\.safetensors: its accuracy \d+\.\d\d% is nearer to guessing \(1\d\.\d\d%\) than to the", line
    )
    assert line.endswith("--data digits")
    as_json = run(*words, "--json")
    assert as_json.returncode == 1
    assert "nearer to guessing" in json.loads(as_json.stdout)["wreck"]
    assert run("evaluate", SAMPLE, "--data", "digits", "--against", SAMPLE).returncode == 0
    # Alone it is measured, not judged.
    assert run("evaluate", wreck, "--data", "digits").returncode == 0


def test_nothing_is_written_where_the_original_gives_nan(run, wreck, tmp_path):
    state = load_file(wreck)
    state["fc1.weight"][3, 4] = torch.nan
    save_file(state, tmp_path / "nan.safetensors", {"architecture": "mlp:64,512,512,10"})
    line = one_error_line(run("prune", "nan.safetensors", "-o", "out.safetensors", "--data", "digits"))
    assert "nan.safetensors returns NaN" in line
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.slow
def test_prune_with_data(run, tmp_path):
    result = run("prune", SAMPLE, "-o", "cut.safetensors", "--rule", "rank:1", "--data", "digits")
    line = one_error_line(result, status=1)
    assert "cut.safetensors: is written, but its accuracy" in line
    assert "rmt-compress finetune cut.safetensors --data digits" in line
    assert (tmp_path / "cut.safetensors").is_file()


@pytest.mark.slow
def test_finetune_that_learns_nothing(run, tmp_path):
    result = run(
        "finetune", "--data", "digits", "--epochs", "1", "--lr", "1e-9", "--no-prune", "-o", "t.safetensors"
    )
    line = one_error_line(result, status=1)
    assert "t.safetensors: is written, but its accuracy" in line
    assert line.endswith("train longer (--epochs 2) or at another rate (--lr 1e-10)")
    assert (tmp_path / "t.safetensors").is_file()
