"""`prune --sparsity` with its budgets, as a user types it."""

import json
from typing import get_args

import pytest

import rmt_compress as rmt
from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.compression import zero_budget
from rmt_compress.data import load_data
from rmt_compress.networks.loading import load_model
from rmt_compress.planning import settings
from tests.samples.command_line import one_error_line
from tests.samples.repository import DIGITS


def test_one_list_of_budgets():
    assert get_args(zero_budget.SparsifyBudget) == get_args(settings.SparsifyBudget)


@pytest.mark.slow
def test_a_budget_divides_an_exact_share(run, tmp_path):
    found = {}
    for budget in get_args(settings.SparsifyBudget):
        output = f"{budget}.safetensors"
        asked = ("--sparsity", "0.7", "--sparsify-budget", budget, "--gof", "0")
        result = run("prune", DIGITS, "-o", output, *asked, "--save-plan", f"{budget}.json", "--json")
        assert result.returncode == 0, result.stderr
        report = json.loads(result.stdout)
        layers = [layer for layer in report["layers"] if layer["sparsity"] is not None]
        entries = sum(layer["parameters"] for layer in layers)
        assert entries - sum(layer["nonzeros"] for layer in layers) == int(0.7 * entries)
        assert report["settings"].get("sparsify_budget", "uniform") == budget
        found[budget] = {layer["name"]: layer["sparsity"] for layer in layers}
        # The plan that was saved makes the same file again.
        again = run("prune", DIGITS, "-o", "again.safetensors", "--plan", f"{budget}.json", "--json", "--force")
        assert [layer.get("nonzeros") for layer in json.loads(again.stdout)["layers"]] == [
            layer["nonzeros"] for layer in report["layers"]
        ]
    assert len({tuple(shares.values()) for shares in found.values()}) == len(found)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--sparsify", "0.1", "--sparsity", "0.5"), "two ways to choose a threshold: give one"),
        (("--sparsity", "0.5", "--pattern", "2:4"), "a pattern says itself how many entries go"),
        (("--pattern", "4:2"), "a pattern is K:N, K of every N entries kept, 0 < K < N <= 16"),
        (("--sparsify-budget", "edge"), "sparsify-budget edge divides a share of zeros: add --sparsity"),
        (("--keep", "0.5", "--sparsify-budget", "edge", "--sparsity", "0.5"), "cannot be combined with a budget"),
    ],
)
def test_what_does_not_go_together_is_said_in_one_line(run, options, said):
    assert said in one_error_line(run("prune", DIGITS, *options))


def test_a_pattern_is_kept_in_every_row_and_shown(run, tmp_path):
    result = run("prune", DIGITS, "-o", "small.safetensors", "--pattern", "2:4", "--gof", "0")
    assert result.returncode == 0, result.stderr
    state = rmt.load_dense(tmp_path / "small.safetensors")
    for name in ("fc1", "fc2", "fc3"):
        assert int((state[f"{name}.weight"].reshape(-1, 4) != 0).sum(1).max()) == 2
    shown = run("show", "small.safetensors")
    assert shown.stdout.count("50.0% (pattern)") == 3


@pytest.mark.slow
def test_moments_choose_the_pattern(run, tmp_path):
    images = load_data("digits", split="train").images[:500]
    moments = rmt.calibrate(load_model(open_checkpoint(DIGITS)), list(images.split(100)))
    rmt.save_moments(moments, tmp_path / "moments.safetensors")
    scores, asked = [], ("--data", "digits", "--json", "--force", "-o", "small.safetensors")
    for options in ((), ("--moments", "moments.safetensors")):
        result = run("prune", DIGITS, *options, "--pattern", "1:16", "--gof", "0", *asked)
        report = json.loads(result.stdout)
        by = {layer.get("pattern_by") for layer in report["layers"] if layer.get("pattern")}
        assert by == ({"inputs"} if options else {None})
        scores.append(report["accuracy"]["after"])
    assert scores[1] > scores[0]
