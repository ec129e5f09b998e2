"""Whole models saved by `torch.save(model)`: refused, and loaded for those who trust them."""

import json

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from rmt_compress.analysis import AnalysisSettings
from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.cli.app import app
from rmt_compress.errors import CheckpointError
from rmt_compress.networks.loading import load_model
from rmt_compress.planning.settings import PlanSettings
from rmt_compress.pruning.road import prune
from rmt_compress.saving.reloading import load
from tests.samples.compressed import inputs, network

SETTINGS = {"analysis": AnalysisSettings(min_size=8), "plan": PlanSettings(rule="ratio:0.25", gof=1.0)}


class Namespace:
    """An object of a class of its own, as trainers keep their arguments in."""

    rate = 0.1


@pytest.fixture(params=[True, False], ids=["zip", "legacy"])
def path(request, tmp_path):
    torch.save(network(), tmp_path / "model.pt", _use_new_zipfile_serialization=request.param)
    return tmp_path / "model.pt"


@pytest.mark.parametrize("command", ["analyze", "prune", "show"])
def test_the_command_line_names_the_classes_and_the_way_out(command, path):
    run = CliRunner().invoke(app, [command, str(path)])
    assert isinstance(run.exception, CheckpointError)
    message = str(run.exception)
    assert "torch.nn.modules.container.Sequential" in message
    assert "not run" in message
    assert "--trust" in message


@pytest.mark.parametrize("command", ["analyze", "prune", "evaluate", "sweep", "export", "show"])
def test_every_command_says_what_trust_means(command):
    text = " ".join(CliRunner().invoke(app, [command, "--help"]).stdout.replace("│", " ").split())
    assert "--trust" in text
    assert "Run code from the file" in text
    assert "anything you can do" in text


def test_trusted_it_is_a_module_with_the_kinds_of_its_layers(path):
    model = network()
    with open_checkpoint(path, trust=True) as checkpoint:
        assert checkpoint.format == "PyTorch (whole model)"
        assert checkpoint.files == (path,)
        assert {layer.tensor: layer.kind for layer in checkpoint.layers() if len(layer.shape) > 1} == {
            "conv.weight": "conv2d",
            "deconv.weight": "conv_transpose2d",
            "fc.weight": "linear",
            "head.weight": "linear",
        }
        for name, tensor in model.state_dict().items():
            assert torch.equal(checkpoint.read(name), tensor)
        assert "pickle was run" in checkpoint.notes[0]


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_it_is_compressed_into_a_state_dict(path, suffix, tmp_path):
    target = tmp_path / f"small{suffix}"
    result = prune(path, target, trust=True, **SETTINGS)
    assert result.source == str(path)
    assert any(layer.action == "factorized" for layer in result.outcomes)
    small = load(target, network())
    assert isinstance(small.get_submodule("fc"), nn.Sequential)
    assert small(inputs()).shape == (4, 10)
    if suffix == ".pt":
        torch.load(target, weights_only=True)


def test_the_command_line_from_whole_model_to_smaller_file(path, tmp_path):
    target = tmp_path / "small.pt"
    options = ["--trust", "--min-size", "8", "--rule", "ratio:0.25", "-o", str(target), "--json"]
    run = CliRunner().invoke(app, ["prune", str(path), *options])
    assert run.exit_code == 0, run.output
    assert CliRunner().invoke(app, ["show", str(target)]).exit_code == 0
    assert CliRunner().invoke(app, ["export", str(path), "--trust", "-o", str(tmp_path / "d.pt")]).exit_code == 0
    assert torch.load(tmp_path / "d.pt", weights_only=True).keys() == network().state_dict().keys()


def test_trusted_it_runs_without_an_architecture(path):
    model = load_model(open_checkpoint(path, trust=True))
    torch.testing.assert_close(model(inputs()), network()(inputs()))


def test_a_model_beside_other_things(tmp_path):
    path, target = tmp_path / "yolo.pt", tmp_path / "small.pt"
    torch.save({"epoch": 3, "model": network(1), "ema": network(), "args": Namespace(), "date": "today"}, path)
    with open_checkpoint(path, trust=True) as checkpoint:
        assert torch.equal(checkpoint.read("fc.weight"), network(1).get_parameter("fc.weight"))
        assert dict(checkpoint.beside)["ema"] == "Sequential"
    with open_checkpoint(path, trust=True, weights="ema") as checkpoint:
        assert torch.equal(checkpoint.read("fc.weight"), network().get_parameter("fc.weight"))
    result = prune(path, target, trust=True, weights="ema", carry_over=True, **SETTINGS)
    saved = torch.load(target, weights_only=True)
    assert (saved["epoch"], saved["date"]) == (3, "today")
    assert saved.keys() == {"epoch", "date", "state_dict", "rmt_compress", "metadata"}
    assert "args was left out: it cannot be loaded without running code" in result.notes
    assert "model was left out: it cannot be loaded without running code" in result.notes


class Model(dict):
    """Weights in an object of a class of its own."""

    def __init__(self, *arguments):
        super().__init__()
        self.kept = arguments


def test_weights_inside_an_object_need_trust(tmp_path):
    path = tmp_path / "training.pt"
    torch.save({"model": Model(network().state_dict()), "ema": network().state_dict(), "epoch": 3}, path)
    with pytest.raises(CheckpointError, match="Model"):
        open_checkpoint(path)
    with open_checkpoint(path, weights="ema") as checkpoint:
        assert checkpoint.read("fc.weight").shape == (40, 1200)
        assert dict(checkpoint.beside)["model"].endswith("Model")
    with open_checkpoint(path, trust=True) as checkpoint:
        assert checkpoint.read("fc.weight").shape == (40, 1200)
        checkpoint.close()
        assert checkpoint.read("fc.weight").shape == (40, 1200)
        assert checkpoint.notes[0] == "Its pickle was run, as the file is trusted."


def test_nothing_is_run_for_an_object_beside_the_weights(tmp_path):
    path = tmp_path / "training.pt"
    torch.save({"model": network().state_dict(), "args": Namespace()}, path)
    with open_checkpoint(path, trust=True) as checkpoint:
        assert checkpoint.read("fc.weight").shape == (40, 1200)
        assert not any("was run" in note for note in checkpoint.notes)


def test_a_trusted_file_can_still_be_damaged(tmp_path):
    path = tmp_path / "model.pt"
    torch.save(network(), path)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        open_checkpoint(path, trust=True)


def test_trust_runs_nothing_where_nothing_needs_it(tmp_path, monkeypatch):
    path = tmp_path / "state.pt"
    torch.save(network().state_dict(), path)
    original = torch.load
    asked = []
    monkeypatch.setattr(torch, "load", lambda *args, **options: asked.append(options) or original(*args, **options))
    with open_checkpoint(path, trust=True) as checkpoint:
        assert checkpoint.notes == ()
    assert [options["weights_only"] for options in asked] == [True]


def test_classes_are_found_in_the_current_folder_or_named(python, tmp_path):
    (tmp_path / "mynet.py").write_text("import torch\nclass Net(torch.nn.Linear):\n    pass\n")
    make = "import mynet, torch; torch.save(mynet.Net(40, 50), 'model.pt')"
    python.run("-c", make, cwd=tmp_path).check_returncode()
    look = ["analyze", "--trust", str(tmp_path / "model.pt")]
    # Not `-c` or `-m` from here: those put the folder first themselves.
    program = (
        "import sys; sys.path[:] = [entry for entry in sys.path if entry]\n"
        f"sys.argv[1:] = {look!r}\n"
        "from rmt_compress.cli.app import main; main()"
    )
    there, elsewhere = (python.run("-c", program, cwd=folder) for folder in (tmp_path, tmp_path.parent))
    assert there.returncode == 0, there.stderr
    assert elsewhere.returncode == 2
    assert "No module named 'mynet'" in elsewhere.stderr
    assert len(elsewhere.stderr.splitlines()) == 1


def test_accuracy_is_measured_with_the_model_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stripes.py").write_text(
        "import torch\ndef data():\n    x = torch.randn(400, 30)\n    yield x, (x[:, 0] > 0).long()\n"
    )
    torch.save(nn.Sequential(nn.Linear(30, 40), nn.ReLU(), nn.Linear(40, 2)), "model.pt")
    options = ["--trust", "--data", "stripes:data", "--min-size", "8", "--rule", "ratio:0.25", "-o", "small.pt"]
    run = CliRunner().invoke(app, ["prune", "model.pt", *options, "--json"])
    assert run.exit_code == 0, run.output
    assert {"before", "after"} == set(json.loads(run.stdout)["accuracy"])
    options = ["--trust", "--data", "stripes:data", "--json"]
    run = CliRunner().invoke(app, ["evaluate", "model.pt", *options])
    assert run.exit_code == 0, run.output
    assert json.loads(run.stdout)["model"]["parameters"] == 30 * 40 + 40 + 80 + 2
