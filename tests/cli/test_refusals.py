"""What the command line itself refuses: one line like every other error, whatever the terminal."""

import os
import pty
import subprocess
import sys

import pytest

from tests.samples.command_line import one_error_line
from tests.samples.repository import REPOSITORY

CASES = (
    ("evaluate --zzzzzz", "No such option: --zzzzzz; usage: rmt-compress evaluate [OPTIONS]"),
    ("evaluate", "Missing argument 'model'; usage: rmt-compress evaluate [OPTIONS]"),
    ("evaluate m.pt --limit few", "Invalid value for '--limit'"),
    ("evaluate m.pt --limit 0", "Invalid value for '--limit'"),
    ("evaluate m.pt --data", "Option '--data' requires an argument; see rmt-compress evaluate --help"),
    ("evaluate m.pt --higher-is-better=1", "does not take a value; see rmt-compress evaluate --help"),
    ("prune m.pt other.pt", "unexpected extra argument(s) (other.pt); usage: rmt-compress prune [OPTIONS]"),
    ("prune m.pt --layout thin", "Invalid value for '--layout': 'thin' is not one of 'factorized', 'dense'"),
    ("sweep --pints 3", "--points"),
    ("prnue m.pt", "No such command 'prnue'. Did you mean 'prune'?; usage: rmt-compress [OPTIONS] COMMAND"),
    ("--nope", "No such option: --nope; usage: rmt-compress [OPTIONS] COMMAND"),
)


@pytest.mark.parametrize(("words", "said"), CASES)
def test_a_refusal_is_one_line(run, words, said):
    result = run(*words.split())
    assert said in one_error_line(result)
    assert len(result.stderr.splitlines()) == 1
    assert not result.stdout


def test_without_a_word_there_is_the_help(run):
    result = run()
    assert result.returncode == 2
    assert "rmt-compress [OPTIONS] COMMAND" in result.stdout
    assert "error:" not in result.stderr


@pytest.mark.slow
def test_a_terminal_of_80_columns_gets_one_line_too(tmp_path):
    """The terminal breaks it where it will; there is no box, and one line break."""
    ours, theirs = pty.openpty()
    try:
        command = [sys.executable, "-m", "rmt_compress", "evaluate", "m.pt", "--layers", "3"]
        environment = os.environ | {"COLUMNS": "80", "PYTHONPATH": str(REPOSITORY)}
        done = subprocess.run(command, cwd=tmp_path, env=environment, stdout=theirs, stderr=theirs, check=False)
        shown = os.read(ours, 65536).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == 2
    assert "No such option: --layers" in shown
    assert shown.count("\n") == 1
    assert not any(corner in shown for corner in "╭│╰")
