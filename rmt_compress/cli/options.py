"""The options of the commands: one for every setting, made from its class, and those that they share."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping
from dataclasses import is_dataclass
from functools import wraps
from inspect import Parameter, signature
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_type_hints

import typer

from rmt_compress.cli.completion import layer_names
from rmt_compress.cli.console import note
from rmt_compress.errors import SettingsError
from rmt_compress.settings.declaring import Declared, declared
from rmt_compress.settings.validation import choices, refuse

if TYPE_CHECKING:
    from rmt_compress.checkpoints import Checkpoint

Command = Callable[..., None]

DATA_HELP = (
    "mnist, fashion-mnist, cifar10, digits, a folder, text:FILE, array:FILE, csv:FILE, parquet:FILE, "
    "images:FOLDER, or package.module:name or file.py:name; docs/data.md lists all."
)
ARCH_FORMS = "mlp:784,1000,10, cnn:…, package.module:Net or net.py:Net, with arguments: 'net.py:Net(16, width=2)'"
# That of `saving`, which brings torch with it and would keep `--help` waiting.
Pack = Literal["none", "pivots"]
PACK_HELP = (
    "Store the two thin layers as pivots: rows of their product, and what the others are made of; the same product "
    "in fewer numbers, to the rounding of their type."
)
ARCH_HELP = f"The network: {ARCH_FORMS}; by default the one the file names."

REPORT_HELP = "Write all this as one HTML page too, to read, print or send: it needs no network."


def optional(
    text: str, metavar: str | None = None, *flags: str, least: int | None = None, panel: str | None = None
) -> Any:
    """An option that is not given by default."""
    return typer.Option(*flags, help=text, metavar=metavar, min=least, show_default=False, rich_help_panel=panel)


def switch(flag: str, text: str, panel: str | None = None) -> Any:
    """An option that is on or off."""
    return typer.Option(flag, help=text, rich_help_panel=panel)


Trust = Annotated[
    bool,
    switch(
        "--trust",
        "Run code from the file where it cannot be read or run otherwise: a whole pickled model, a TorchScript "
        "program, classes in a Hugging Face folder. It can do anything you can do: only for files whose origin "
        "you know.",
    ),
]
Weights = Annotated[
    str | None,
    optional("Which set of weights of a training checkpoint, such as ema; by default the usual one.", "NAME"),
]
Data = Annotated[str | None, optional(DATA_HELP)]
Arch = Annotated[str | None, optional(ARCH_HELP, "SPEC")]
Limit = Annotated[int | None, optional("Ask N samples only, evenly spread over the set.", "N", least=1)]
Report = Annotated[Path | None, optional(REPORT_HELP, "FILE.html")]
Device = Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, mps ….")]
Group = Annotated[
    bool,
    typer.Option(
        "--group",
        help="One row for layers whose names differ in the number of their block only, with the range of their "
        "values. The table only.",
    ),
]


def batch_size_option(when: str = "") -> Any:
    """How many samples are asked together."""
    return typer.Option(help=f"Samples at once{when}.", min=1)


def json_option(instead_of: str = "the table", panel: str | None = None) -> Any:
    """Nothing but JSON on stdout."""
    return switch("--json", f"Print one JSON object instead of {instead_of}.", panel)


def force_option(what: str, panel: str | None = None) -> Any:
    """Outputs may overwrite what is there."""
    return switch("--force", f"Overwrite {what}.", panel)


def opened(path: Path, *, trust: bool, weights: str | None = None, tells: bool = True) -> Checkpoint:
    """The checkpoint at `path`, for all that a command does with it; `tells` of what was noted on opening."""
    from rmt_compress.checkpoints import open_checkpoint

    checkpoint = open_checkpoint(path, trust=trust, weights=weights)
    if tells and checkpoint.manifest is None:
        for text in checkpoint.notes:
            note(text)
    return checkpoint


def with_options(
    *order: tuple[str, ...],
    without: tuple[str, ...] = (),
    renamed: Mapping[tuple[type, str], str] | None = None,
) -> Callable[[Command], Command]:
    """Make a command of a function that takes objects of settings: typer sees one option for every setting.

    A parameter that is a `Literal` becomes a choice.

    Args:
        order: chains of names, each of which is shown right behind the one before it; all else stands as in the
            function and in the classes.
        without: settings that this command has no option for.
        renamed: (class, setting) -> name of its option, where another class has one of the same name.
    """
    instead = renamed or {}

    def decorate(function: Command) -> Command:
        hints = get_type_hints(function, include_extras=True)
        parameters = [
            option
            for parameter in signature(function).parameters.values()
            for option in _parameters(parameter.replace(annotation=hints[parameter.name]), without, instead)
        ]
        hints.pop("return")

        @wraps(function)
        def run(**given: Any) -> None:
            problems: list[str] = []
            asked = {
                name: _object(hint, given, without, instead, problems)
                if is_dataclass(hint)
                else _value(given[name])
                for name, hint in hints.items()
            }
            refuse(problems)
            function(**asked)

        shown = {parameter.name: parameter for parameter in parameters}
        names = list(shown)
        for chain in order:
            for before, name in pairwise(chain):
                names.remove(name)
                names.insert(names.index(before) + 1, name)
        # What typer reads; functions have no such attribute until it is set.
        run.__signature__ = signature(function).replace(parameters=[shown[name] for name in names])  # type: ignore[attr-defined]
        run.__annotations__ = {name: shown[name].annotation for name in names}
        return run

    return decorate


def typed_settings(context: typer.Context, *kinds: type) -> list[str]:
    """Which options of these classes of settings the user has typed."""
    names = {name for kind in kinds for name, each in declared(kind).items() if each.setting.text}
    options = [option for option in context.command.params if option.name in names]
    return [option.opts[0] for option in options if was_typed(context, option.name or "")]


def was_typed(context: typer.Context, name: str) -> bool:
    """Whether the user has typed the option of this parameter."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


_Names = Mapping[tuple[type, str], str]


def _parameters(parameter: Parameter, without: tuple[str, ...], renamed: _Names) -> Iterator[Parameter]:
    """What typer is to see in the place of a command's parameter."""
    kind, default = parameter.annotation, parameter.default
    if not is_dataclass(kind):
        inner, *extras = get_args(kind) if hasattr(kind, "__metadata__") else (kind,)
        inner, default = _for_typer(inner, default)
        annotation = Annotated[(inner, *extras)] if extras else inner
        yield Parameter(parameter.name, Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
        return
    for name, each in _asked(kind, without, renamed):
        inner, default = _for_typer(each.kind, each.default)
        annotation = Annotated[inner, _option(name, each)]
        yield Parameter(name, Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def _asked(kind: Any, without: tuple[str, ...], renamed: _Names) -> Iterator[tuple[str, Declared]]:
    """The settings of a class that have an option, by its name; those of the settings it holds among them."""
    for name, each in declared(kind).items():
        if each.holds_others:
            yield from _asked(each.kind, (*without, *each.setting.without), renamed)
        elif each.setting.text and name not in without:
            yield renamed.get((kind, name), name), each


def _option(name: str, declared: Declared) -> Any:
    setting = declared.setting
    return typer.Option(
        *(setting.flags or (f"--{name.replace('_', '-')}",)),
        help=setting.text,
        metavar=setting.metavar,
        min=setting.minimum,
        show_default=setting.default_shown and declared.default is not None,
        rich_help_panel=setting.panel,
        autocompletion=layer_names if setting.metavar == "GLOB" else None,
    )


def _for_typer(kind: Any, default: Any) -> tuple[Any, Any]:
    """The type that typer takes for this one, and the default as one of these."""
    if names := choices(kind):
        # mypy knows only members that stand there as text.
        values = enum.StrEnum("Choice", {name: name for name in names})  # type: ignore[misc]
        return (values | None, None) if default is None else (values, values(default))
    if isinstance(default, tuple):
        return list[str] | None, None
    # The class tells words from numbers and from what only Python has.
    return (str | None if str in get_args(kind) else kind), default


def _value(given: Any) -> Any:
    return given.value if isinstance(given, enum.Enum) else given


def _object(
    kind: Any, given: dict[str, Any], without: tuple[str, ...], renamed: _Names, problems: list[str]
) -> Any:
    """An object of settings from the values of its options; its problems join the others."""
    values: dict[str, Any] = {}
    asked = dict(_asked(kind, without, renamed))
    for name, each in declared(kind).items():
        if each.holds_others:
            values[name] = _object(each.kind, given, (*without, *each.setting.without), renamed, problems)
        elif (called := renamed.get((kind, name), name)) in asked:
            values[name] = tuple(given[called] or ()) if isinstance(each.default, tuple) else _value(given[called])
    try:
        return kind(**values)
    except SettingsError as error:
        problems += error.problems
        return kind()
