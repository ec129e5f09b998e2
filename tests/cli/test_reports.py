"""`--report` as a user types it."""

import json
import sys

import pytest
import torch
from safetensors.torch import save_file

from tests.samples.command_line import one_error_line
from tests.samples.pages import Page
from tests.samples.repository import DIGITS


@pytest.fixture
def checkpoint(tmp_path):
    """A layer of noise with spikes, and one of noise."""
    path = tmp_path / "my model.safetensors"
    signal = 60 * torch.outer(torch.ones(64) / 8, torch.ones(100) / 10)
    save_file({"fc1.weight": torch.randn(64, 100) + signal, "fc2.weight": torch.randn(48, 64)}, path)
    return path


def test_analyze(run, checkpoint, tmp_path):
    done = run("analyze", checkpoint, "--json", "--gof", "0.3", "--report", "r.html")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    page = Page((tmp_path / "r.html").read_text("utf-8"))
    assert f"rmt-compress analyze '{checkpoint}' --json --gof 0.3 --report r.html" in page.text
    assert f"Cutting those to their spikes leaves {said['totals']['parameters_after']:,} of" in page.text
    assert "All settings, 3 of them typed" in page.text
    for layer in said["layers"]:
        assert f"{layer['gof']:.3f}" in page.text
    assert "already" in one_error_line(run("analyze", checkpoint, "--report", "r.html"))
    assert run("analyze", checkpoint, "--report", "r.html", "--force").returncode == 0


def test_refusals_come_before_the_work(run, checkpoint, tmp_path, monkeypatch):
    assert "ends in .html" in one_error_line(run("analyze", checkpoint, "--report", "r.txt"))
    assert "does not exist" in one_error_line(run("prune", checkpoint, "--report", "no/r.html"))
    page = checkpoint.rename(tmp_path / "model.html")
    assert "the output is the input" in one_error_line(run("analyze", page, "--report", page, "--force"))
    both = one_error_line(run("analyze", page, page, "--report", "r.html"))
    assert "--report is of one checkpoint" in both
    monkeypatch.setitem(sys.modules, "jinja2", None)
    from rmt_compress.reporting.html import page_file

    page_file._environment.cache_clear()
    missing = one_error_line(run("analyze", page, "--report", "r.html"))
    assert missing.endswith("--report needs jinja2: pip install 'rmt-compress[report]'")
    assert [path.name for path in tmp_path.iterdir()] == ["model.html"]


def test_prune(run, checkpoint, tmp_path):
    done = run("prune", checkpoint, "--json", "--report", "r.html", "--gof", "0.3")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    page = Page((tmp_path / "r.html").read_text("utf-8"))
    left = said["totals"]["nonzeros"] / said["totals"]["parameters"]
    assert f"{left:.1%} of the parameters are left. What that costs is unverified: nothing was run." in page.text
    for layer in said["layers"]:
        assert layer["reason"] in page.text
        if layer["risk"]:
            assert f"The risk of this cut by itself, by the weights alone, is {layer['risk']}" in page.text
    # A ready plan has no spectra, and so nothing to draw.
    run("prune", checkpoint, "--save-plan", "p.json", "--dry-run")
    done = run("prune", checkpoint, "--plan", "p.json", "-o", "again.safetensors", "--report", "plan.html")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "plan.html").read_text("utf-8")
    assert len(text) < 60_000
    assert "fc1" in Page(text).text


def test_evaluate(run, tmp_path):
    options = ("--data", "digits", "--limit", "20", "--json")
    done = run("evaluate", DIGITS, "--against", DIGITS, *options, "--report", "r.html")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)["model"]
    page = Page((tmp_path / "r.html").read_text("utf-8"))
    assert f"Accuracy {said['accuracy']:.2%} on 20 test samples of digits: +0.00 points" in page.text
    assert f"bytes on disk {said['bytes']:,}" in page.text
    assert "already" in one_error_line(run("evaluate", DIGITS, "--data", "digits", "--report", "r.html"))


@pytest.mark.slow
@pytest.mark.traced
def test_sweep(run, tmp_path):
    options = ("--data", "digits", "--points", "2", "--limit", "20", "-o", "s", "--json")
    done = run("sweep", DIGITS, *options, "--report", "r.html")
    assert done.returncode == 0, done.stderr
    page = Page((tmp_path / "r.html").read_text("utf-8"))
    charts = json.loads(next(script for script in page.scripts if script.startswith('{"charts"')))["charts"]
    for sweep, chart in zip(json.loads(done.stdout)["sweeps"], charts, strict=True):
        assert chart["levels"][0]["y"] == sweep["accuracy"]
        for curve, series in zip(sweep["curves"], chart["series"], strict=True):
            assert [point["accuracy"] for point in curve["points"]] == [point[1] for point in series["points"]]
        predicted = [curve["predicted"]["accuracy"] for curve in sweep["curves"] if curve["predicted"]]
        assert [point[1] for point in chart["chosen"]] == predicted
    assert "All layers, by rank rule" in page.text


@pytest.mark.slow
@pytest.mark.traced
def test_finetune(run, tmp_path):
    options = ("--data", "digits", "--epochs", "2", "--prune-every", "1", "--gof", "0.3", "--samples", "300")
    done = run("finetune", DIGITS, "-o", "x.safetensors", *options, "--json", "--report", "r.html")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)["runs"][0]
    page = Page((tmp_path / "r.html").read_text("utf-8"))
    accuracies = f"{said['accuracy_first']:.2%} → {said['test_accuracy']:.2%}"
    left = said["nonzeros"] / said["parameters_first"]
    assert f"Test accuracy {accuracies}" in page.text
    assert f"{left:.1%} of the weights left after {said['cycles']} cuts" in page.text
    charts = json.loads(next(script for script in page.scripts if script.startswith('{"charts"')))["charts"]
    lines = [json.loads(line) for line in (tmp_path / "x.log.jsonl").read_text().splitlines()]
    cuts = sorted({line["epoch"] for line in lines if line["event"] == "cycle"})
    assert [chart["marks"] for chart in charts] == [cuts] * 3
    scores = [line["test_score"] for line in lines if line["event"] != "end"]
    assert [point[1] for point in charts[0]["series"][0]["points"]] == scores
