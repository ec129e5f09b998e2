"""Programs in files, asked data by `sweep` and `prune`: torch.export archives and TorchScript."""

import json
import warnings

import pytest
import torch

from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.data import load_data
from rmt_compress.networks.loading import load_model
from tests.samples.command_line import one_error_line
from tests.samples.repository import DIGITS

pytestmark = pytest.mark.slow

# Whose answers `evaluate` finds to be right.
ACCURACY = 0.975


class Pair(torch.nn.Module):
    """The sample's answer, and its input beside it."""

    def __init__(self, first):
        super().__init__()
        self.first = first

    def forward(self, x):
        return self.first(x), x.flatten(1)


@pytest.fixture(params=["net.pt2", "net.ts", "pair.ts"])
def program(request, tmp_path):
    """A file, and the words that let it run."""
    module, example = load_model(DIGITS), torch.rand(2, 1, 8, 8)
    path = tmp_path / request.param
    if path.suffix == ".pt2":
        any_number = ({0: torch.export.Dim("n", min=1, max=4096)},)
        torch.export.save(torch.export.export(module, (example,), dynamic_shapes=any_number), path)
        return path, ()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.trace(Pair(module) if path.stem == "pair" else module, example).save(path)
    return path, ("--trust",)


def test_prune_asks_both_and_writes_what_it_asked(run, program, tmp_path):
    path, trust = program
    out = tmp_path / f"small{path.suffix}"
    words = ("prune", path, "-o", out, "--layout", "dense", "--data", "digits", "--rule", "rank:9", *trust)
    result = run(*words, "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["accuracy"]["before"] == ACCURACY
    with open_checkpoint(out, trust=True) as checkpoint, torch.inference_mode():
        network, (batch,) = checkpoint.own_network(), load_data("digits", split="test").batches(360)
        answers = network(batch.inputs)
        if path.stem == "pair":
            answers, beside = answers
            assert torch.equal(beside, batch.inputs.flatten(1))
        right = int((answers.argmax(1) == batch.targets).sum())
    assert report["accuracy"]["after"] == right / 360 < ACCURACY


@pytest.mark.traced
def test_sweep_asks_it_at_every_point(run, program):
    path, trust = program
    words = (
        "sweep",
        path,
        "--data",
        "digits",
        "--what",
        "rank",
        "--limit",
        "60",
        "--points",
        "2",
        "--json",
        *trust,
    )
    result = run(*words)
    assert result.returncode == 0, result.stderr
    for curve in json.loads(result.stdout)["sweeps"][0]["curves"]:
        scores = [point["accuracy"] for point in curve["points"]]
        assert len(scores) >= 2
        assert all(0.1 <= score <= 1 for score in scores)


@pytest.mark.parametrize("program", ["net.ts"], indirect=True)
@pytest.mark.traced
def test_a_layout_that_does_not_run_and_a_program_that_is_not_trusted(run, program, tmp_path):
    path, trust = program
    asked = ("prune", path, "-o", "s.safetensors", "--data", "digits")
    assert "add --layout dense" in one_error_line(run(*asked, *trust))
    assert "--trust" in one_error_line(run("sweep", path, "--data", "digits"))
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
