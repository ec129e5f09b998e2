"""`--quiet` and `--verbose`, which every command has: how much it says beside its results."""

from __future__ import annotations

from functools import wraps
from inspect import Parameter, signature
from typing import Annotated, Any, get_type_hints

import typer

from rmt_compress.cli.console import Loudness, speak
from rmt_compress.cli.options import Command
from rmt_compress.errors import SettingsError

_OPTIONS = {
    "quiet": ("-q", "Print results, warnings and errors only: no notes, no bars, no next step."),
    "verbose": ("-v", "Say on stderr what is read, what is done with it and how long each part takes."),
}
LOUDNESS = tuple(_OPTIONS)
"""Names of these options, which no result depends on."""


def with_loudness(command: Command) -> Command:
    """A command that takes both options beside its own, and speaks as they say."""

    @wraps(command)
    def run(*, quiet: bool, verbose: bool, **given: Any) -> None:
        if quiet and verbose:
            raise SettingsError(["--quiet and --verbose say the opposite of each other: leave out one"])
        speak(Loudness.QUIET if quiet else Loudness.VERBOSE if verbose else Loudness.USUAL)
        command(**given)

    parameters = [
        Parameter(
            name,
            Parameter.KEYWORD_ONLY,
            annotation=Annotated[bool, typer.Option(f"--{name}", short, help=text)],
            default=False,
        )
        for name, (short, text) in _OPTIONS.items()
    ]
    own, hints = signature(command), get_type_hints(command, include_extras=True)
    every = [
        each.replace(kind=Parameter.KEYWORD_ONLY, annotation=hints[each.name]) for each in own.parameters.values()
    ]
    # What typer reads; functions have no such attribute until it is set.
    run.__signature__ = own.replace(parameters=[*every, *parameters])  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in (*every, *parameters)}
    return run
