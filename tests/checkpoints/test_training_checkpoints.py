"""Checkpoints as trainers write them: the weights among much else."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

from rmt_compress.analysis import AnalysisSettings, analyze
from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.cli.app import app
from rmt_compress.errors import CheckpointError, OutputError
from rmt_compress.planning.settings import PlanSettings
from rmt_compress.pruning.road import prune
from rmt_compress.saving.reloading import load, load_dense
from tests.samples.seeds import repeatable

SETTINGS = {"analysis": AnalysisSettings(min_size=8), "plan": PlanSettings(rule="ratio:0.25", gof=1.0)}


@repeatable
def network():
    return nn.Sequential(nn.Linear(32, 48), nn.ReLU(), nn.Linear(48, 10))


def trained(steps=2):
    """A network, its optimizer and its schedule after some steps."""
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.ones(4, 32)).sum().backward()
        optimizer.step()
        schedule.step()
    return model, optimizer, schedule


def lightning():
    """What Lightning 2 writes, key by key."""
    model, optimizer, schedule = trained()
    return {
        "epoch": 2,
        "global_step": 2,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": {f"net.{name}": tensor for name, tensor in model.state_dict().items()},
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"current": {"ready": 3}}}},
        "callbacks": {"ModelCheckpoint{'monitor': 'loss'}": {"best_model_score": torch.tensor(0.5)}},
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [schedule.state_dict()],
        "hparams_name": "kwargs",
        "hyper_parameters": {"width": 48, "lr": 1e-3},
    }


def plain():
    model, optimizer, schedule = trained()
    average = {name: tensor * 0.5 for name, tensor in model.state_dict().items()}
    return {
        "model": model.state_dict(),
        "ema": average,
        "optimizer": optimizer.state_dict(),
        "scheduler": schedule.state_dict(),
        "epoch": 3,
        "best": torch.tensor(0.25),
    }


@pytest.fixture
def path(tmp_path):
    torch.save(plain(), tmp_path / "training.pt")
    return tmp_path / "training.pt"


def test_lightning_weights_are_found_and_the_rest_is_listed(tmp_path):
    path = tmp_path / "last.ckpt"
    torch.save(lightning(), path)
    with open_checkpoint(path) as checkpoint:
        assert list(checkpoint.tensors) == ["net.0.weight", "net.0.bias", "net.2.weight", "net.2.bias"]
        kinds = dict(checkpoint.beside)
        (note,) = checkpoint.notes
    assert kinds == {
        "epoch": "number",
        "global_step": "number",
        "pytorch-lightning_version": "text",
        "loops": "1 entry",
        "callbacks": "1 entry",
        "optimizer_states": "optimizer state",
        "lr_schedulers": "learning-rate schedule",
        "hparams_name": "text",
        "hyper_parameters": "2 entries",
    }
    assert note.startswith("Took 'state_dict'; left alone: epoch (number), ")


def test_show_lists_what_else_the_file_holds(path):
    run = CliRunner().invoke(app, ["show", str(path), "--json"])
    assert run.exit_code == 0
    assert json.loads(run.stdout)["beside"] == [
        {"name": "ema", "kind": "weights, 4 tensors"},
        {"name": "optimizer", "kind": "optimizer state"},
        {"name": "scheduler", "kind": "learning-rate schedule"},
        {"name": "epoch", "kind": "number"},
        {"name": "best", "kind": "number"},
    ]
    run = CliRunner().invoke(app, ["show", str(path)])
    assert "beside it  ema (weights, 4 tensors), optimizer (optimizer state)" in run.stdout


def test_another_set_of_weights_can_be_named(path):
    average = plain()["ema"]
    with open_checkpoint(path, weights="ema") as checkpoint:
        assert torch.equal(checkpoint.read("0.weight"), average["0.weight"])
        assert dict(checkpoint.beside)["model"] == "weights, 4 tensors"
    with open_checkpoint(plain(), weights="ema") as checkpoint:
        assert torch.equal(checkpoint.read("0.weight"), average["0.weight"])
    report = CliRunner().invoke(app, ["analyze", str(path), "--weights", "ema", "--json"])
    assert json.loads(report.stdout)["layers"][0]["sigma2"] == pytest.approx(
        analyze(average).analyzed[0].fit.sigma2, rel=1e-6
    )


@pytest.mark.parametrize("name", ["model.weights", "optimizer", "mo", "epoch"])
def test_a_set_that_is_not_there_is_refused_with_those_that_are(name, path):
    with pytest.raises(CheckpointError, match=rf"training\.pt: .*called '{name}'; there are: model, ema"):
        open_checkpoint(path, weights=name)


def test_names_with_dots_and_sets_further_down(tmp_path):
    path = tmp_path / "gan.pt"
    state = {"fc.weight": torch.ones(3, 3)}
    torch.save({"nets": {"gen.v2": {"state_dict": state}, "disc": {"fc.weight": torch.zeros(3, 3)}}}, path)
    with pytest.raises(CheckpointError, match="--weights"):
        open_checkpoint(path)
    with open_checkpoint(path, weights="nets.gen.v2") as checkpoint:
        assert checkpoint.read("fc.weight").sum() == 9
    with open_checkpoint(path, weights="nets.disc") as checkpoint:
        assert checkpoint.read("fc.weight").sum() == 0


def test_a_file_without_a_choice_says_so(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"w": torch.ones(2, 2)}, path)
    with pytest.raises(CheckpointError, match="leave out --weights ema"):
        open_checkpoint(path, weights="ema")


@pytest.mark.parametrize("layout", ["factorized", "dense"])
def test_what_is_carried_over_loads_without_running_code(layout, path, tmp_path):
    target = tmp_path / "small.pt"
    result = prune(path, target, layout=layout, carry_over=True, **SETTINGS)
    saved = torch.load(target, weights_only=True)
    assert saved["epoch"] == 3
    assert saved["best"] == torch.tensor(0.25)
    assert saved["scheduler"] == plain()["scheduler"]
    assert torch.equal(saved["ema"]["0.weight"], plain()["ema"]["0.weight"])
    assert "optimizer" not in saved
    assert result.notes[-2:] == (
        "carried over as it was: ema, scheduler, epoch, best",
        "optimizer was left out: the state of an optimizer does not fit other weights",
    )
    with open_checkpoint(target) as checkpoint:
        assert checkpoint.manifest.layout == layout
        assert dict(checkpoint.beside).keys() == {"ema", "scheduler", "epoch", "best"}
    if layout == "factorized":
        dense = network()
        dense.load_state_dict(load_dense(target))
        x = torch.randn(3, 32)
        torch.testing.assert_close(load(target, network())(x), dense(x), rtol=1e-4, atol=1e-5)


def test_lightning_keeps_its_hyper_parameters(tmp_path):
    path, target = tmp_path / "last.ckpt", tmp_path / "small.ckpt"
    torch.save(lightning(), path)
    prune(path, target, layout="dense", carry_over=True, **SETTINGS)
    saved = torch.load(target, weights_only=True)
    expected = lightning()
    assert saved["state_dict"].keys() == expected["state_dict"].keys()
    assert saved["hyper_parameters"] == expected["hyper_parameters"]
    assert saved["pytorch-lightning_version"] == "2.5.0"
    assert "optimizer_states" not in saved


def test_nothing_is_carried_over_unasked(path, tmp_path):
    prune(path, tmp_path / "small.pt", **SETTINGS)
    assert torch.load(tmp_path / "small.pt", weights_only=True).keys() == {"state_dict", "rmt_compress", "metadata"}


def test_safetensors_have_no_room_for_more(path, tmp_path):
    with pytest.raises(OutputError, match=r"small\.safetensors: only a \.pt"):
        prune(path, tmp_path / "small.safetensors", carry_over=True, **SETTINGS)
    assert not (tmp_path / "small.safetensors").exists()
