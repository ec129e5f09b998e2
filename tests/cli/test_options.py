"""Options made from classes of settings."""

from dataclasses import dataclass
from typing import Annotated, Literal

import pytest
import typer
from typer.testing import CliRunner

from rmt_compress.cli.options import typed_settings, with_options
from rmt_compress.errors import SettingsError
from rmt_compress.settings.declaring import held, setting
from rmt_compress.settings.validation import problems_of, refuse


@dataclass(frozen=True)
class Inner:
    share: float = setting(0.5, "A share.", within="[0, 1]")
    names: tuple[str, ...] = setting((), "Names.", metavar="GLOB")
    quiet: bool = setting(False, "No words.")
    mode: Literal["one-way", "two-way"] = setting("one-way", "How.")
    hidden: int = setting(7)

    def __post_init__(self):
        refuse(problems_of(self))


@dataclass(frozen=True)
class Outer:
    every: int = setting(2, "Epochs.", within="[1, inf)", called="cut-every", flags=("--cut-every", "-e"))
    inner: Inner = held(Inner, without=("quiet",))

    def __post_init__(self):
        refuse(problems_of(self))


@pytest.fixture
def called():
    """Call a command that takes an `Outer` with options; what it received comes back with typer's result."""
    received = {}

    @with_options(("share", "colour", "every"), without=("names",))
    def command(
        context: typer.Context,
        *,
        outer: Outer,
        colour: Annotated[Literal["red", "green"], typer.Option(help="Of it.")] = "red",
    ) -> None:
        received.update(outer=outer, colour=colour, typed=typed_settings(context, Outer, Inner))

    app = typer.Typer()
    app.command()(command)

    def _call(*arguments):
        result = CliRunner().invoke(app, arguments)
        return received, result

    return _call


def test_a_command_receives_the_object_and_every_option_has_its_default(called):
    received, _ = called()
    assert received == {"outer": Outer(), "colour": "red", "typed": []}


def test_what_is_typed_arrives_in_the_settings_that_hold_it(called):
    received, _ = called("-e", "3", "--share", "1", "--mode", "two-way", "--colour", "green")
    assert received["outer"] == Outer(every=3, inner=Inner(share=1.0, mode="two-way"))
    assert type(received["outer"].inner.mode) is str
    assert received["colour"] == "green"
    assert received["typed"] == ["--share", "--cut-every", "--mode"]


def test_repeated_options_and_flags_become_a_tuple_and_true():
    received = []

    @with_options()
    def command(*, inner: Inner) -> None:
        received.append(inner)

    app = typer.Typer()
    app.command()(command)
    CliRunner().invoke(app, ["--names", "a*", "--names", "b", "--quiet"])
    assert received == [Inner(names=("a*", "b"), quiet=True)]


def test_problems_of_all_settings_are_named_at_once(called):
    _, result = called("--share", "2", "--cut-every", "0")
    assert isinstance(result.exception, SettingsError)
    assert result.exception.problems == (
        "share must lie between 0 and 1, got 2",
        "cut-every must be at least 1, got 0",
    )


def test_help_shows_the_order_asked_for_and_only_what_has_words(called):
    _, result = called("--help")
    places = [result.stdout.index(flag) for flag in ("--share", "--colour", "--cut-every", "--mode")]
    assert places == sorted(places)
    assert not any(flag in result.stdout for flag in ("--names", "--quiet", "--hidden"))
    assert "one-way|two-way" in result.stdout


def test_two_settings_of_one_name_have_two_options():
    @dataclass(frozen=True)
    class Other:
        share: float = setting(0.25, "Another share.")
        inner: Inner = held(Inner)

    received = []

    @with_options(renamed={(Inner, "share"): "inner_share"})
    def command(*, other: Other, outer: Outer) -> None:
        received.append((other.share, other.inner.share, outer.inner.share))

    app = typer.Typer()
    app.command()(command)
    result = CliRunner().invoke(app, ["--share", "0.5", "--inner-share", "0.75"])
    assert result.exit_code == 0, result.output
    assert received == [(0.5, 0.75, 0.75)]
