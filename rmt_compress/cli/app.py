"""The `rmt-compress` program: its commands, and how errors become one line and an exit status.

Exit status: 0 done; 1 the work was done but its goal was not reached, or nobody reads what it prints; 2 bad
usage or bad input; 3 the work was done, but its report could not be printed; 4 a bug; 128 and the number of the
signal that stopped it.
"""

from __future__ import annotations

import errno
import os
import sys
from functools import cache
from importlib import import_module
from inspect import cleandoc
from typing import Annotated, Any

import typer

from rmt_compress.cli.console import (
    GoalNotReached,
    Loudness,
    StdoutLost,
    degrade_text,
    error_line,
    speak,
    speaks,
)
from rmt_compress.cli.loudness import with_loudness
from rmt_compress.cli.stopping import stopped, stopped_because, stopped_status, stopping
from rmt_compress.errors import RmtCompressError
from rmt_compress.wording import one_line

EXAMPLES = {
    "analyze": "analyze model.safetensors --sort saving",
    "prune": "prune model.safetensors --data mnist --max-drop 0.5 -o small.safetensors",
    "sweep": "sweep model.safetensors --data mnist --what budget",
    "evaluate": "evaluate small.safetensors --against model.safetensors --data mnist",
    "finetune": "finetune model.safetensors --data mnist --epochs 6 --prune-every 2",
    "export": "export small.safetensors -o small.onnx",
    "certify": "certify model.safetensors --cut small.safetensors --data mnist",
    "show": "show small.safetensors",
}
"""Each command with what one would type first, in the order of the help; a module of its name holds it."""


def _paragraphs(text: str) -> str:
    """A docstring that a terminal of any width may break anew."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in cleandoc(text).split("\n\n"))


@cache
def program(*names: str) -> typer.Typer:
    """The program with these of its commands; only their modules are imported."""
    made = typer.Typer(
        name="rmt-compress",
        help="Find the noise in a saved neural network with random matrix theory, and cut it.",
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    made.callback()(root)
    for name in names:
        command = getattr(import_module(f"rmt_compress.cli.{name}"), name)
        example = f"Example: rmt-compress {EXAMPLES[name]}"
        made.command(name, help=_paragraphs(command.__doc__), epilog=example)(with_loudness(command))
    return made


def _asked() -> typer.Typer:
    """The program with the one command that is typed, or with all of them where that is not plain to see."""
    words = [word for word in sys.argv[1:] if word != "--debug"]
    return program(words[0]) if words and words[0] in EXAMPLES else program(*EXAMPLES)


def __getattr__(name: str) -> typer.Typer:
    # Made on first use: a run of one command does not wait for the modules of the others.
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return program(*EXAMPLES)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"rmt-compress {version('rmt-compress')}")
        raise typer.Exit


def root(
    _version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True),
    ] = False,
    _debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error instead of one line.")
    ] = False,
) -> None:
    """Find the noise in a saved neural network with random matrix theory, and cut it."""


# What typer says no with, of an unknown option as of a wrong value; which module it lies in depends on the version.
_Refusal: type[Exception] = typer.BadParameter.__bases__[0]


def main() -> None:
    """Run the program on `sys.argv` and exit."""
    with stopping():
        _run(debug="--debug" in sys.argv)


def _run(*, debug: bool) -> None:
    degrade_text()
    try:
        sys.exit(_status(debug=debug))
    except _Refusal as error:
        # Without any argument it has printed the help, and its message is empty.
        if said := _refused(error):
            error_line(said)
        sys.exit(2)
    except RmtCompressError as error:
        if debug:
            raise
        error_line(str(error))
        sys.exit(2)
    except GoalNotReached as outcome:
        error_line(str(outcome))
        sys.exit(1)
    except BrokenPipeError:
        # The reader of a pipe (`| head`) has gone.
        _close_stdout()
        sys.exit(1)
    except StdoutLost as outcome:
        _close_stdout()
        error_line(str(outcome))
        sys.exit(3)
    except OSError as error:
        if debug or speaks(Loudness.VERBOSE):
            raise
        if error.errno == errno.ENOSPC and error.filename is None:
            # Help and version are printed by typer.
            _close_stdout()
            error_line(f"{error.strerror}: standard output is full, or the disk of a temporary file")
        else:
            error_line(f"the system refused a file: {one_line(error)}; see to that, and start again")
        sys.exit(2)
    # Whatever is left is a mistake of ours, which is said in one line and never shown as a success.
    except Exception as error:
        if debug or speaks(Loudness.VERBOSE):
            raise
        error_line(f"{one_line(error)}: this is a bug of rmt-compress; please report what --verbose says of it")
        sys.exit(4)
    finally:
        speak(Loudness.USUAL)


def _status(*, debug: bool) -> Any:
    """Run the command that is typed; its exit status, or that of a run that was stopped."""
    status = None
    try:
        status = _asked()(prog_name="rmt-compress", standalone_mode=False)
    except Exception:
        # What is asked to stop may say so in words of its own: a library whose import Ctrl-C breaks off is called
        # one that cannot be imported.
        if debug or not stopped():
            raise
    if stopped():
        error_line(stopped_because())
        status = stopped_status()
    return status


def _refused(error: Any) -> str:
    """A refusal of typer's as one line, with the usage; empty where it says nothing."""
    said = error.format_message().strip().rstrip(".").replace(": Value error, ", ": ")
    if not said:
        return ""
    if error.ctx is not None:
        usage = error.ctx.get_usage().removeprefix("Usage: ")
        return f"{said}; usage: {usage}; see {error.ctx.command_path} --help"
    # The parser's own complaints come without the command; it is the first word that is the name of one.
    command = next((f" {word}" for word in sys.argv[1:] if word in EXAMPLES), "")
    return f"{said}; see rmt-compress{command} --help"


def _close_stdout() -> None:
    """Throw away what could not be printed: closing the stream again at exit must not complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
