"""`prune --sparsity` with its budgets, as a user types it."""

import json
from typing import get_args

import pytest

from rmt_compress.compression import zero_budget
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
        (("--sparsify-budget", "edge"), "sparsify-budget edge divides a share of zeros: add --sparsity"),
        (("--keep", "0.5", "--sparsify-budget", "edge", "--sparsity", "0.5"), "cannot be combined with a budget"),
    ],
)
def test_what_does_not_go_together_is_said_in_one_line(run, options, said):
    assert said in one_error_line(run("prune", DIGITS, *options))
