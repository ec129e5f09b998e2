"""Files that the first version wrote, of every schema, are read by this one and hold what they held."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

import rmt_compress as rmt
from rmt_compress.checkpoints import journal
from rmt_compress.checkpoints.journal import Journal
from rmt_compress.decomposition.moments_file import load_inputs, load_moments
from rmt_compress.networks.calibration.interrupted import Partial
from rmt_compress.plan import load_plan
from rmt_compress.saving.description import describe
from rmt_compress.saving.reloading import load
from rmt_compress.training.event_log import of_kind, read_lines
from rmt_compress.training.state import TrainingState
from tests.golden.outputs import OUTPUTS, lasting, printed
from tests.golden.reading import held
from tests.samples.repository import REPOSITORY

FOLDER = Path(__file__).parent / "v1"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())


def near(found, expected, rel=1e-6):
    """Whether both are alike, numbers to six digits."""
    if isinstance(expected, float):
        return found == pytest.approx(expected, rel=rel, abs=1e-9)
    if isinstance(expected, dict):
        return expected.keys() <= found.keys() and all(near(found[key], expected[key], rel) for key in expected)
    if isinstance(expected, list):
        return len(found) == len(expected) and all(near(*pair, rel) for pair in zip(found, expected, strict=True))
    return found == expected


@pytest.fixture
def copied(tmp_path):
    """The files in a folder that may be written to."""
    shutil.copytree(FOLDER, tmp_path / "v1")
    return tmp_path / "v1"


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_compressed_files(name):
    assert near(held(FOLDER / name), EXPECTED[name])
    description = describe(FOLDER / name).to_json()
    assert description["compressed"]
    assert {layer["action"] for layer in description["layers"]} >= {
        "factorized" if EXPECTED[name]["ranks"] else "kept"
    }
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


def changed(found, expected, path=""):
    """Where two objects of JSON are not alike: for a message that says more than that they are not."""
    if isinstance(expected, dict) and isinstance(found, dict):
        missing = [f"{path}/{key} is gone" for key in expected.keys() - found.keys()]
        both = expected.keys() & found.keys()
        return missing + [each for key in both for each in changed(found[key], expected[key], f"{path}/{key}")]
    return [] if near(found, expected, 1e-4) else [f"{path}: {found}, not {expected}"]


@pytest.mark.parametrize("name", sorted(OUTPUTS))
def test_commands_print_what_they_printed(name, copied):
    """Who reads `--json` finds every key and number that the first version printed; others may come."""
    expected = json.loads((FOLDER / "said" / f"{name}.json").read_text())
    assert expected["schema"].startswith("rmt-compress/")
    assert changed(lasting(printed(copied, name)), lasting(expected)) == []


def test_journals_of_interrupted_runs(copied, monkeypatch):
    """Each entry that the first version wrote is whole; what a later version makes of them is the same analysis."""
    facts = {}
    for name in ("layers.journal", "layers.journal.factors"):
        path, said = copied / name, []
        of = json.loads(path.read_bytes().partition(b"\n")[0])["rmt_compress_journal"]
        monkeypatch.setattr(journal, "tool_version", lambda of=of: of["version of rmt-compress"])
        with Journal(path, of, said.append) as held_open:
            facts[name] = {entry.facts["tensor"]: entry.facts for entry in held_open.entries}
            values = {entry.facts["tensor"]: held_open.bytes_of(entry) for entry in held_open.entries}
        assert said == [f"{path}: 2 finished layers taken from it"]
    with rmt.open_checkpoint(FOLDER / "factorized.safetensors") as checkpoint:
        up = checkpoint.read("0.up.weight")
        assert facts["layers.journal.factors"]["0.weight"]["values"][1] == [list(up.shape), "float32"]
        assert up.numpy().tobytes() in values["0.weight"]
    fits = {tensor: each["found"]["fit"] for tensor, each in facts["layers.journal"].items()}
    analyses = [
        rmt.analyze(copied / "whole.safetensors", min_size=8, gof=0.1, resume=resume)
        for resume in (None, copied / "layers.journal")
    ]
    for layer, resumed in zip(*(analysis.analyzed for analysis in analyses), strict=True):
        assert layer.fit.sigma2 == pytest.approx(fits[layer.tensor]["sigma2"], rel=1e-6)
        assert resumed.fit == layer.fit


def test_half_a_calibration(copied):
    from tests.golden.make import layer_sums

    partial, sums = Partial(copied / "calibration", "digest"), {"2.weight": layer_sums()}
    assert partial.block(0).layers["0.weight"].mean.tolist() == [0, 1, 2]
    assert partial.resume(1, sums) == {"batches": 3}
    assert sums["2.weight"].inputs.total.tolist() == [12, 15, 18, 21]
    assert sums["2.weight"].outputs.products.tolist() == [[3, 3], [3, 3]]


def test_every_schema_is_among_them():
    """Each name of a schema that the source has stands in a golden file, and so do the two forms without a name."""
    names = {
        name
        for path in (REPOSITORY / "rmt_compress").rglob("*.py")
        for name in re.findall(r'"(rmt-compress/[a-z]+/\d+)"', path.read_text())
    }
    assert len(names) >= 13
    held_here = b"".join(path.read_bytes() for path in FOLDER.rglob("*") if path.is_file())
    assert [name for name in sorted(names) if name.encode() not in held_here.replace(b"\\/", b"/")] == []
    assert b'{"rmt_compress_journal"' in held_here
    assert b"rmt_compress_sums" in held_here


def test_every_form_is_among_them():
    with rmt.open_checkpoint(FOLDER / "pivots.safetensors") as checkpoint:
        assert checkpoint.manifest.pivots
    with rmt.open_checkpoint(FOLDER / "sparse.safetensors") as checkpoint:
        assert checkpoint.manifest.sparse
    with rmt.open_checkpoint(FOLDER / "pattern.safetensors") as checkpoint:
        assert checkpoint.manifest.patterned
    assert len(list((FOLDER / "sharded").glob("*.safetensors"))) == 2


def test_they_are_small():
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 300_000
