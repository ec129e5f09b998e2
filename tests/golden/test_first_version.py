"""Files that the first version wrote, of every schema, are read by this one and hold what they held."""

import json
from pathlib import Path

import pytest
import torch

import rmt_compress as rmt
from rmt_compress.decomposition.moments_file import load_inputs, load_moments
from rmt_compress.plan import load_plan
from rmt_compress.saving.description import describe
from rmt_compress.saving.reloading import load
from rmt_compress.training.event_log import of_kind, read_lines
from rmt_compress.training.state import TrainingState
from tests.golden.reading import held

FOLDER = Path(__file__).parent / "v1"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())


def near(found, expected):
    """Whether both are alike, numbers to six digits."""
    if isinstance(expected, float):
        return found == pytest.approx(expected, rel=1e-6, abs=1e-9)
    if isinstance(expected, dict):
        return expected.keys() <= found.keys() and all(near(found[key], value) for key, value in expected.items())
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(near, found, expected))
    return found == expected


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_compressed_files(name):
    assert near(held(FOLDER / name), EXPECTED[name])
    description = describe(FOLDER / name).to_json()
    assert description["compressed"]
    assert {layer["action"] for layer in description["layers"]} >= {"factorized"}
    # Fewer than there were, unless zeros count for nothing: these are still there.
    assert description["totals"]["nonzeros"] < description["totals"]["parameters_before"]


def test_a_plan_is_carried_out_again():
    plan = load_plan(FOLDER / "plan.json")
    written = EXPECTED["factorized.safetensors"]["ranks"]
    assert {layer.tensor: layer.rank for layer in plan.layers if layer.action == "factorized"} == written
    assert json.loads(plan.to_json()) == json.loads((FOLDER / "plan.json").read_text())
    state = rmt.compress(FOLDER / "whole.safetensors", plan)
    with rmt.open_checkpoint(FOLDER / "factorized.safetensors") as checkpoint:
        assert checkpoint.manifest.plan.by_tensor.keys() == plan.by_tensor.keys()
        assert {name: tuple(tensor.shape) for name, tensor in state.items()} == {
            name: info.shape for name, info in checkpoint.tensors.items()
        }


def test_an_analysis_says_the_same():
    analysis = json.loads((FOLDER / "analysis.json").read_text())
    today = rmt.analyze(FOLDER / "whole.safetensors", min_size=8).to_json()
    today["checkpoint"]["path"] = "whole.safetensors"
    assert near(today, analysis)


def test_moments():
    moments, inputs = load_moments(FOLDER / "moments.safetensors"), load_inputs(FOLDER / "moments.safetensors")
    own = moments.layers["0.weight"]
    assert (own.inputs.shape, own.mean.shape, own.outputs.shape, own.count) == ((24, 24), (24,), (32, 32), 50)
    assert torch.linalg.eigvalsh(own.inputs)[0] > 0
    assert moments.left_out == {"2.weight": "left out"}
    assert inputs.tensors["x"].shape == (4, 24)
    assert inputs.record == {"how": "by hand"}


def test_a_training_state_and_its_log():
    state = TrainingState.load(FOLDER / "state.pt")
    assert (state.epoch, state.events, state.limit, state.seconds) == (4, 2, 0.85, 1.5)
    assert state.network.splits == [("0.weight", 3)]
    with rmt.open_checkpoint(FOLDER / "whole.safetensors") as whole:
        assert torch.equal(state.best.weights["2.weight"], whole.read("2.weight"))
        assert torch.equal(state.masks["2.weight"], whole.read("2.weight") > 0)
    assert state.bulk_fits()["0.weight"].edge > 0
    events = read_lines(FOLDER / "log.jsonl")
    assert [event["event"] for event in events] == ["epoch", "end"]
    assert of_kind(events, "end")[0]["why"] == "all epochs are done"


def test_a_network_computes_what_it_computed():
    """The factors in their places, not only their sums: both forms of the file give one network."""
    from tests.golden.make import network

    x = torch.linspace(-1, 1, 48).reshape(2, 24)
    first = load(FOLDER / "factorized.safetensors", network())(x)
    second = load(FOLDER / "factorized.pt", network())(x)
    assert torch.allclose(first, second, atol=1e-6)
    assert not torch.allclose(first, network()(x), atol=1e-3)
    assert torch.allclose(first.sum(), torch.tensor(0.37179), atol=1e-4)


def test_every_form_is_among_them():
    with rmt.open_checkpoint(FOLDER / "pivots.safetensors") as checkpoint:
        assert checkpoint.manifest.pivots
    with rmt.open_checkpoint(FOLDER / "sparse.safetensors") as checkpoint:
        assert checkpoint.manifest.sparse


def test_they_are_small():
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 300_000
