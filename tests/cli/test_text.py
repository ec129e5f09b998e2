"""What people read: names with brackets, narrow and full and old outputs, what to do next."""

import json
import re
import subprocess
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.samples.command_line import one_error_line
from tests.samples.repository import DIGITS

NAMES = [f"bert.encoder.layer.{i}.attention.self.{part}" for i in range(3) for part in ("query", "key", "value")]
NEEDS_DEV_FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")


@pytest.fixture
def bert(tmp_path):
    """Layers whose names differ in their middle and at their end."""
    path = tmp_path / "bert.pt"
    torch.save({f"{name}.weight": torch.randn(64, 64) for name in NAMES}, path)
    return path


@pytest.fixture
def process(python, tmp_path):
    """Run the program with another environment and standard output; its status and what it wrote, as bytes."""

    def _process(*args, stdout=None, **environment):
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            status = python.start(
                *("-m", "rmt_compress", *args), cwd=tmp_path, env=environment, stdout=stdout or out, stderr=err
            ).wait(300)
            for stream in (out, err):
                stream.seek(0)
            return subprocess.CompletedProcess(args, status, out.read(), err.read())

    return _process


def on_a_terminal(run, monkeypatch, columns, *args):
    """The lines that a terminal of so many columns shows, without their colours."""
    with monkeypatch.context() as patch:
        patch.setattr("rmt_compress.cli.console._PIPE_WIDTH", columns)
        result = run(*args)
    assert result.returncode == 0, result.stderr
    return [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in result.stdout.splitlines()]


@pytest.mark.parametrize("command", ["analyze", "show", "prune"])
@pytest.mark.parametrize("columns", [80, 100, 160])
def test_every_row_tells_its_layer(run, bert, monkeypatch, columns, command):
    lines = on_a_terminal(run, monkeypatch, columns, command, bert)
    prefix = "bert.encoder.layer."
    said_once = any(line.endswith(f"begins with {prefix}") for line in lines)
    for name in NAMES:
        shown = (name.removeprefix(prefix) if said_once else name) + ".weight" * (command == "show")
        assert sum(line.split()[:1] == [shown] for line in lines) == 1, lines
    for word in {"analyze": ("verdict", "spikes", "fit error"), "show": ("shape",), "prune": ("action", "why")}[
        command
    ]:
        assert any(word in line for line in lines)


def test_a_pipe_is_never_truncated(process, tmp_path):
    name = ".".join(f"part{i}" for i in range(40))
    torch.save({f"{name}.weight": torch.randn(64, 64)}, tmp_path / "long.pt")
    for command in ("analyze", "prune"):
        result = process(command, "long.pt", COLUMNS="80", NO_COLOR="1")
        lines = result.stdout.decode().splitlines()
        assert sum(name in line for line in lines) == 1
        assert not any(line.endswith(" ") for line in lines)


def test_blocks_are_folded_with_their_range(run, bert):
    analysis = {layer["name"]: layer for layer in json.loads(run("analyze", bert, "--json").stdout)["layers"]}
    result = run("analyze", bert, "--group")
    for part in ("query", "key", "value"):
        members = [analysis[name] for name in NAMES if name.endswith(part)]
        errors = sorted(layer["gof"] for layer in members)
        worst = max(members, key=lambda layer: layer["gof"])["name"].split(".")[3]
        (line,) = (line for line in result.stdout.splitlines() if f".0–2.attention.self.{part} " in line)
        assert line.split()[1:5] == ["3×", "64×64", f"{errors[0]:.3f}–{errors[-1]:.3f}", worst]
    (line,) = (line for line in run("prune", bert, "--group").stdout.splitlines() if "self.key " in line)
    assert line.split()[:2] == ["bert.encoder.layer.0–2.attention.self.key", "3×"]


@pytest.mark.parametrize("name", ["model[final].pt", "exp[/1].pt", "a :dog: b.pt"])
def test_names_are_no_markup(run, tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    torch.save({":dog:[/x].weight": torch.randn(64, 64)}, tmp_path / name)
    for command in ("analyze", "show", "prune"):
        result = run(command, name)
        assert result.returncode == 0, result.stderr
        assert name in result.stdout
        assert ":dog:[/x]" in result.stdout
        assert name in result.stderr
    assert name.removesuffix(".pt") in one_error_line(run("prune", name))


@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("model_best.pth.tar", "model_best.pruned.pth"),
        ("w.th", "w.pruned.pt"),
        ("net.v1", "net.v1.pruned.pt"),
        ("checkpoint", "checkpoint.pruned.pt"),
        ("M.SAFETENSORS", "M.pruned.safetensors"),
        ("old.PT", "old.pruned.pt"),
        ("n" * 240 + ".pt", "n" * 240 + ".pruned.pt"),
        ("é" * 125 + ".pt", "é" * 122 + ".pruned.pt"),
    ],
)
def test_default_outputs_are_names_that_are_taken(run, tmp_path, source, output):
    state = {"fc.weight": torch.randn(64, 64)}
    save_file(state, tmp_path / source) if "SAFE" in source else torch.save(state, tmp_path / source)
    result = run("prune", source)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / output).is_file()
    assert run("analyze", output).returncode == 0


def test_capital_suffixes_are_taken_and_names_that_are_too_long_refused(run, tmp_path, bert):
    assert run("prune", bert, "-o", "OUT.SAFETENSORS").returncode == 0
    assert (tmp_path / "OUT.SAFETENSORS").is_file()
    assert "too long" in one_error_line(run("prune", bert, "-o", "n" * 260 + ".pt"))


@pytest.mark.slow
@NEEDS_DEV_FULL
def test_a_report_that_cannot_be_printed_is_no_failed_prune(process, bert, tmp_path):
    for number, extra in enumerate([(), ("--json",)]):
        with Path("/dev/full").open("wb") as full:
            result = process("prune", bert.name, "-o", f"s{number}.pt", *extra, stdout=full)
        assert result.returncode == 3
        (line,) = result.stderr.decode().splitlines()
        assert line.startswith("error: the report cannot be printed: ")
        assert f"s{number}.pt has been written all the same" in line
        assert (tmp_path / f"s{number}.pt").is_file()


@NEEDS_DEV_FULL
def test_help_that_cannot_be_printed_is_one_line(process):
    with Path("/dev/full").open("wb") as full:
        result = process("--help", stdout=full)
    assert result.returncode == 2
    assert len(result.stderr.decode().splitlines()) == 1


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_tables_degrade_where_unicode_cannot_be_printed(process, bert, encoding):
    for command in ("analyze", "prune", "show"):
        result = process(command, bert.name, PYTHONIOENCODING=encoding)
        assert result.returncode == 0, result.stderr
        text = result.stdout.decode(encoding)
        assert ("64x64" if encoding == "ascii" else "64×64") in text
        assert "----" in text
        assert "?" not in text
    assert json.loads(process("analyze", bert.name, "--json", PYTHONIOENCODING=encoding).stdout)["layers"]


def test_no_bars_in_a_log_with_forced_colours(process, bert):
    result = process("analyze", bert.name, FORCE_COLOR="1")
    assert re.sub(r"\x1b\[[0-9;]*m", "", result.stderr.decode()) == "next: rmt-compress prune bert.pt\n"


def test_what_comes_next(run, bert, tmp_path):
    def last(*args):
        return run(*args).stderr.splitlines()[-1:]

    assert last("analyze", bert) == [f"next: rmt-compress prune {bert}"]
    assert last("show", bert) == [f"next: rmt-compress analyze {bert}"]
    told = last("prune", bert, "--dry-run", "--save-plan", "p.json")
    assert told == [f"next: rmt-compress prune {bert} --plan p.json  # the same options without --dry-run"]
    assert last("prune", bert, "-o", "s m.pt") == [
        f"next: rmt-compress evaluate 's m.pt' --against {bert} --data DATA"
    ]
    assert last("analyze", bert, "--json") == []
    assert last("prune", bert, "-o", "t.pt", "--json") == []


def test_excluded_layers_are_counted(run, bert):
    for command in ("analyze", "prune"):
        result = run(command, bert, "--exclude", "*.0.*", "--exclude", "*.1.*")
        assert " skipped 6 layers: excluded\n" in result.stdout


@pytest.mark.slow
def test_did_you_mean(run):
    assert "'analyze'" in run("analyse", "x.pt").stderr
    assert "--sort" in run("analyze", "x.pt", "--sortt", "name").stderr
    assert "did you mean fashion-mnist?" in one_error_line(run("evaluate", DIGITS, "--data", "fasion-mnist"))


def test_one_architecture_for_the_side_that_needs_it(run, tmp_path):
    state = {"fc1.weight": torch.randn(16, 64), "fc1.bias": torch.zeros(16)}
    state |= {"fc2.weight": torch.randn(10, 16), "fc2.bias": torch.zeros(10)}
    torch.save(state, tmp_path / "bare.pt")
    asked = ("evaluate", DIGITS, "--against", "bare.pt", "--data", "digits", "--limit", "20")
    assert "--arch" in one_error_line(run(*asked))
    result = run(*asked, "--against-arch", "mlp:64,16,10")
    assert result.returncode == 0, result.stderr
    assert "--against" in one_error_line(run("evaluate", DIGITS, "--data", "digits", "--against-arch", "mlp:1,2"))


def test_a_run_stopped_before_its_first_epoch_promises_nothing(run, tmp_path, monkeypatch):
    def stopped(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("rmt_compress.training.finetune", stopped)
    result = run("finetune", DIGITS, "--data", "digits", "-o", "t.pt")
    assert result.returncode == 130
    assert "nothing is kept" in result.stderr
    (tmp_path / "t.training.pt").touch()
    assert "--resume" in run("finetune", DIGITS, "--data", "digits", "-o", "t.pt").stderr
