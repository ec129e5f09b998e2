"""Every command, option and public name is documented, and what is documented is there."""

import re
from importlib import import_module

import pytest
import typer

import rmt_compress
from rmt_compress.cli.app import app
from tests.documentation.blocks import DOCS

COMMANDS = typer.main.get_command(app).commands
CLI, API = ((DOCS / name).read_text(encoding="utf-8") for name in ("cli-reference.md", "api.md"))
NAMES = re.findall(r"^::: (\S+)$", API, re.M)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_in_the_reference(name):
    (section,) = re.findall(rf"^## `rmt-compress {name}`\n(.*?)(?=^## |\Z)", CLI, re.S | re.M)
    for parameter in COMMANDS[name].params:
        for flag in parameter.opts if parameter.param_type_name == "option" else ():
            assert flag in re.findall(r"--?[\w-]+", section)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example_in_the_pages(name):
    assert f"$ rmt-compress {name} " in (DOCS / "commands.md").read_text(encoding="utf-8")


def test_every_public_name_is_in_the_reference():
    assert {name.removeprefix("rmt_compress.") for name in NAMES} >= set(rmt_compress.__all__)
    assert len(NAMES) == len(set(NAMES))


@pytest.mark.parametrize("name", NAMES)
def test_what_the_reference_shows_has_a_docstring(name):
    module, _, attribute = name.rpartition(".")
    found = getattr(import_module(module), attribute)
    assert found.__doc__
