"""What `prune` says of cuts that nobody has measured."""

import json

import pytest
import torch
from safetensors.torch import save_file

from tests.samples.matrices import spiked_weight
from tests.samples.repository import DIGITS


@pytest.fixture
def file(tmp_path):
    save_file(
        {"a.weight": spiked_weight(0, 1), "b.weight": spiked_weight(200, 2), "c.weight": torch.rand(8, 8)},
        tmp_path / "m.safetensors",
    )
    return tmp_path / "m.safetensors"


def test_prune_says_it_of_every_layer_that_it_cuts(run, file):
    report = json.loads(run("prune", file, "-o", "s.safetensors", "--rule", "rank:2", "--json").stdout)
    assert report["verified"] == "unverified"
    assert {each["name"]: each["risk"] for each in report["layers"]} == {"a": "high", "b": "low", "c": None}
    shown = run("prune", file, "-o", "t.safetensors", "--rule", "rank:2").stdout
    assert "risk of each cut alone: 1 low, 1 high" in shown
    assert [line.split()[4] for line in shown.splitlines() if "factorized" in line] == ["high", "low"]


def test_a_group_shows_the_least_and_the_greatest(run, tmp_path):
    weights = {f"blocks.{number}.fc.weight": spiked_weight(300 * number, number) for number in range(2)}
    save_file(weights, tmp_path / "m.safetensors")
    shown = run("prune", tmp_path / "m.safetensors", "-o", "s.safetensors", "--rule", "rank:2", "--group").stdout
    assert "low–high" in shown


@pytest.mark.slow
def test_what_is_measured_has_none(run):
    report = json.loads(run("prune", DIGITS, "-o", "s.safetensors", "--data", "digits", "--json").stdout)
    assert report["verified"] == "measured"
    assert {each["risk"] for each in report["layers"]} == {None}
