"""What `--help` says of each command."""

import shlex

import pytest
import typer

import rmt_compress
from rmt_compress.cli.app import EXAMPLES, app
from tests.samples.repository import REPOSITORY

COMMANDS = typer.main.get_command(app).commands


def test_every_command_has_an_example():
    assert set(EXAMPLES) == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_is_one_that_the_command_takes(name):
    program, command, *words = shlex.split(COMMANDS[name].epilog.removeprefix("Example: "))
    assert (program, command) == ("rmt-compress", name)
    # Parsed as typed: an option that is none, or a value that is no choice, is refused here.
    COMMANDS[name].make_context(name, words)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_first_paragraph_is_one_sentence_and_no_line_is_broken_beforehand(name):
    first, *more = COMMANDS[name].help.split("\n\n")
    assert first.endswith(".")
    assert len(first) < 110
    assert all("\n" not in paragraph for paragraph in (first, *more))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_what_it_does(name):
    for parameter in COMMANDS[name].params:
        assert parameter.help, parameter.name


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_in_the_readme(name):
    assert name in (REPOSITORY / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", rmt_compress.__all__)
def test_every_public_name_has_a_docstring(name):
    assert getattr(rmt_compress, name).__doc__ or name == "__version__"
