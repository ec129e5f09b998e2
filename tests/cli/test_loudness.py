"""`--quiet` and `--verbose`: how much a command says beside its results, and what it says of a bug."""

import logging

import pytest
import typer

from rmt_compress.cli import console, training_view
from rmt_compress.cli.app import app
from rmt_compress.cli.console import Loudness, speak
from rmt_compress.networks.loading import load_model
from tests.samples.command_line import one_error_line
from tests.samples.repository import DIGITS

COMMANDS = typer.main.get_command(app).commands


@pytest.fixture(autouse=True)
def _as_before():
    yield
    speak(Loudness.USUAL)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_both(name):
    flags = {flag for option in COMMANDS[name].params for flag in option.opts}
    assert {"--quiet", "-q", "--verbose", "-v"} <= flags


def test_quiet_says_the_results_alone(run):
    usual, quiet = run("analyze", DIGITS), run("analyze", DIGITS, "-q")
    assert "next: rmt-compress" in usual.stderr
    assert quiet.stderr == ""
    assert (quiet.returncode, quiet.stdout) == (usual.returncode, usual.stdout)


def test_quiet_keeps_errors_and_the_exit_status(run):
    one_error_line(run("analyze", "nothing.pt", "--quiet"))
    missed = run("prune", DIGITS, "--gof", "1e-9", "-q")
    assert missed.returncode == 1
    assert missed.stderr.startswith("error:")


def test_quiet_keeps_warnings(run, tmp_path):
    import torch

    torch.save({"fc.weight": torch.full((40, 50), torch.nan)}, tmp_path / "nan.pt")
    result = run("analyze", "nan.pt", "--quiet")
    assert result.returncode == 2
    assert result.stderr.startswith("warning: fc.weight skipped")


def test_verbose_says_what_is_read_which_way_is_taken_and_how_long_it_takes(run):
    usual, verbose = run("prune", DIGITS, "--dry-run"), run("prune", DIGITS, "--dry-run", "-v")
    lines = [line for line in verbose.stderr.splitlines() if line.startswith("verbose: ")]
    assert f"{DIGITS} is read as safetensors, with 6 tensors" in lines[0]
    assert "verbose: the rule bema decides the ranks, layer by layer; nothing is asked" in lines
    assert any(line.startswith("verbose: analysing took 0.") for line in lines)
    assert verbose.stdout == usual.stdout
    assert [line for line in verbose.stderr.splitlines() if line not in lines] == usual.stderr.splitlines()


def test_the_next_run_is_as_loud_as_ever(run):
    run("analyze", DIGITS, "-v")
    assert logging.getLogger("rmt_compress").handlers == []
    assert "verbose" not in run("analyze", DIGITS).stderr


def test_json_is_the_same(run):
    outputs = {run("analyze", DIGITS, "--json", *more).stdout for more in ((), ("-q",), ("-v",))}
    assert len(outputs) == 1


def test_both_at_once_are_refused(run):
    assert "leave out one" in one_error_line(run("show", DIGITS, "-qv"))


def test_a_bug_is_one_line_and_verbose_has_its_traceback(run, monkeypatch):
    def broken(*_, **__):
        raise KeyError("fc1\nfc2")

    monkeypatch.setattr("rmt_compress.saving.description.describe", broken)
    line = one_error_line(run("show", DIGITS), status=4)
    assert "KeyError: 'fc1\\nfc2': this is a bug" in line
    assert "--verbose" in line
    with pytest.raises(KeyError):
        run("show", DIGITS, "--verbose")


@pytest.mark.parametrize(("loudness", "lines"), ((Loudness.USUAL, 2), (Loudness.QUIET, 0)))
def test_a_training_tells_each_event_unless_it_is_quiet(loudness, lines, monkeypatch, capsys):
    monkeypatch.setattr("rmt_compress.reporting.training_table.event_line", lambda event: event["event"])
    speak(loudness)
    with training_view.training_listeners(None) as listeners:
        listeners.run("seed 1")
        listeners.event({"event": "epoch"})
    assert len(capsys.readouterr().err.splitlines()) == lines


def test_bars_are_for_terminals_and_quiet_has_none(monkeypatch):
    monkeypatch.setattr(console.sys.stderr, "isatty", lambda: True)
    assert console.draws_bars()
    speak(Loudness.QUIET)
    assert not console.draws_bars()
    speak(Loudness.USUAL)
    monkeypatch.setattr(console.sys.stderr, "isatty", lambda: False)
    assert not console.draws_bars()


def test_a_line_that_is_said_while_a_bar_is_drawn_stands_above_it(monkeypatch, capsys):
    monkeypatch.setattr(console.sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with console.progress_bar("Reading") as progress:
        progress(1, 4, "fc1")
        console.note("in between")
    said = capsys.readouterr().err
    before, after = said.split("note:")
    # The line of the bar is cleared before, and the bar is drawn anew behind.
    assert before.endswith("\x1b[2K") or "\x1b[2K" in before.rsplit("\n", 1)[-1]
    assert "Reading fc1" in after


def test_reading_a_network_counts_its_tensors():
    """What a bar needs to know for the time that is left."""
    steps = []
    load_model(DIGITS, progress=lambda *step: steps.append(step))
    assert [(done, total) for done, total, _ in steps] == [(done, 6) for done in range(1, 7)]
    assert {name for _, _, name in steps} == {
        f"fc{layer}.{part}" for layer in (1, 2, 3) for part in ("bias", "weight")
    }
