"""`--report` as a user types it; that of `sweep` and `finetune` is tested where these are."""

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
    monkeypatch.setitem(sys.modules, "jinja2", None)
    from rmt_compress.reporting.html import page_file

    page_file._environment.cache_clear()
    missing = one_error_line(run("analyze", page, "--report", "r.html"))
    assert missing.endswith("--report needs jinja2: pip install 'rmt-compress[report]'")
    assert [path.name for path in tmp_path.iterdir()] == ["model.html"]


def test_analyze_of_several_states(run, checkpoint, tmp_path):
    """Every quantity of both states, in the row of its layer; a layer that is in one of them alone is named."""
    save_file(
        {"fc1.weight": torch.randn(64, 100), "fc2.weight": torch.randn(48, 64), "fc0.weight": torch.randn(40, 50)},
        tmp_path / "start.safetensors",
    )
    done = run("analyze", "start.safetensors", checkpoint.name, "--json", "--report", "r.html")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    page = Page((tmp_path / "r.html").read_text("utf-8"))
    spikes = [sum(layer["spikes"][place] for layer in said["layers"]) for place in (0, 1)]
    assert f"in my model than in start: {spikes[0]} → {spikes[1]} in 2 layers" in page.text
    for layer in said["layers"]:
        before, after = (f"{each:.3f}" for each in layer["gof"])
        assert f"{before} → {after}" in page.text
    assert "fc0: my model: there is no such layer" in page.text
    edges = {each["name"]: each["points"] for each in page.data["charts"][1]["series"]}
    for layer in said["layers"]:
        assert edges[layer["name"]][1][1] == pytest.approx(layer["edge"][1] / layer["edge"][0])


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
def test_certify(run, tmp_path):
    run("prune", DIGITS, "--gof", "0.3", "--save-plan", "p.json", "--dry-run")
    options = ("--plan", "p.json", "--data", "digits", "--limit", "30", "--json", "--report", "r.html")
    done = run("certify", DIGITS, *options)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    page = Page((tmp_path / "r.html").read_text("utf-8"))
    assert f"at least {said['accuracy']['certified']:.2%} of the answers are right" in page.text
    charts = page.data["charts"]
    # A bound that a change exceeds would be none.
    assert all(bound >= moved for moved, bound, _ in charts[0]["series"][0]["points"])
    assert charts[1]["chosen"][0][1] == said["accuracy"]["certified"]
    assert charts[1]["series"][0]["points"][-1][1] == pytest.approx(said["accuracy"]["certified"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "inputs"),
    (((), "inputs that the network made itself"), (("--calibrate", "digits"), "the inputs that calibrated it")),
)
def test_it_says_what_an_unmeasured_cut_was_run_on(run, tmp_path, given, inputs):
    quick = ("--calibration-samples", "24", "--search", "one", "--repair", "none")
    done = run("prune", DIGITS, "--keep", "0.2", *given, *quick, "-o", "s.safetensors", "--report", "r.html")
    assert done.returncode == 0, done.stderr
    text = Page((tmp_path / "r.html").read_text("utf-8")).text
    assert f"synthetic: run only on {inputs}" in text
    assert f"What that costs is known only on {inputs}." in text
