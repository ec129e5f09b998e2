"""The two trained networks beside the repository, as a user asks them, against plain loops written here."""

import json
import runpy
import shutil

import pytest
import torch
from torch.nn import functional

from rmt_compress.networks import latency
from tests.samples.command_line import one_error_line
from tests.samples.repository import REPOSITORY

MODELS = REPOSITORY.parent / "shared" / "models"
TEXT = REPOSITORY.parent / "shared" / "text" / "test.txt"
LENGTH = 128
IMAGES = 150

pytestmark = [pytest.mark.slow, pytest.mark.realdata]


@pytest.fixture(autouse=True)
def _times_of_one_sample(monkeypatch):
    """How long a batch of 128 takes is asked by other tests, of smaller networks."""
    monkeypatch.setattr(latency, "BATCHES", (1,))
    monkeypatch.setattr(latency, "TEXT_BATCHES", (1,))


@pytest.fixture
def language_model():
    pytest.importorskip("transformers")
    for path in (MODELS / "lm", TEXT):
        if not path.exists():
            pytest.skip(f"REAL DATA MISSING: {path} is not there")
    return MODELS / "lm"


def plain_loss(folder, windows):
    """Nats per token of transformers' own network, window by window."""
    transformers = pytest.importorskip("transformers")
    network = transformers.AutoModelForCausalLM.from_pretrained(folder).float().eval()
    total = tokens = 0
    with torch.no_grad():
        for ids in windows:
            logits = network(ids[None]).logits[0, :-1].double()
            total += float(functional.cross_entropy(logits, ids[1:], reduction="sum"))
            tokens += len(ids) - 1
    return total / tokens


def test_nats_of_a_language_model_are_those_of_a_plain_loop(run, language_model, tmp_path):
    text = TEXT.read_bytes()
    (tmp_path / "book.txt").write_bytes(text[: 10 * LENGTH])
    words = ("evaluate", language_model, "--data", "text:book.txt", "--sequence-length", str(LENGTH), "--json")
    report = json.loads(run(*words).stdout)
    windows = torch.frombuffer(bytearray(text[: 10 * LENGTH]), dtype=torch.uint8).long().view(-1, LENGTH)
    assert report["model"]["samples"] == len(windows)
    assert report["model"]["loss"] == pytest.approx(plain_loss(language_model, windows), abs=1e-6)
    assert report["model"]["loss"] < 1.3


def test_a_default_cut_wrecks_it_and_that_is_said(run, language_model):
    """The spectrum's edge leaves 15.5 % of the weights, and what is left guesses."""
    pruned = run("prune", language_model, "-o", "small", "--json")
    assert "another answer" in one_error_line(pruned, status=1)
    kept = json.loads(pruned.stdout)["totals"]
    assert kept["parameters_after"] / kept["parameters"] == pytest.approx(0.155, abs=0.002)
    data = ("--data", f"text:{TEXT}", "--sequence-length", str(LENGTH), "--limit", "8")
    result = run("evaluate", "small", "--against", language_model, *data, "--json")
    report = json.loads(result.stdout)
    assert report["against"]["loss"] < 1.3
    assert 4.5 < report["model"]["loss"] < 5.6
    line = one_error_line(result, status=1)
    assert "its loss" in line
    assert "is nearer to guessing" in line
    assert "than to the original" in line


def test_right_answers_of_a_residual_network_are_those_of_a_plain_loop(run, real_data, tmp_path):
    """89.9 % of the first 2,500 test images, of which this asks the first 150."""
    if not (MODELS / "resnet").is_dir():
        pytest.skip(f"REAL DATA MISSING: {MODELS / 'resnet'} is no folder")
    for name in ("network.py", "resnet.pt"):
        shutil.copy(MODELS / "resnet" / name, tmp_path)
    records = (real_data / "cifar10" / "cifar-10-batches-bin" / "test_batch.bin").read_bytes()[: 3073 * IMAGES]
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "test_batch.bin").write_bytes(records)
    pixels = ("--mean", ".4914,.4822,.4465", "--std", ".2470,.2435,.2616")
    result = run("evaluate", "resnet.pt", "--arch", "network:Net", "--data", "first", *pixels, "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)["model"]

    rows = torch.frombuffer(bytearray(records), dtype=torch.uint8).view(IMAGES, 3073)
    mean, std = (
        torch.tensor(values).view(3, 1, 1) for values in ((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616))
    )
    network = runpy.run_path(str(tmp_path / "network.py"))["Net"]().eval()
    network.load_state_dict(torch.load(tmp_path / "resnet.pt", weights_only=True))
    right = 0
    with torch.no_grad():
        for start in range(0, IMAGES, 50):
            images = (rows[start : start + 50, 1:].view(-1, 3, 32, 32).float() / 255 - mean) / std
            right += int((network(images).argmax(1) == rows[start : start + 50, 0]).sum())
    assert report["accuracy"] == right / IMAGES
    assert report["accuracy"] > 0.85
