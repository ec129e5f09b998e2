"""Where text goes: results to stdout, everything else to stderr."""

from __future__ import annotations

import codecs
import enum
import io
import json
import logging
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from rmt_compress.errors import CheckpointError
from rmt_compress.progress import PartOf
from rmt_compress.settings.sizes import shown_bytes
from rmt_compress.wording import printable

if TYPE_CHECKING:
    import rich.progress
    from rich.console import Console, RenderableType
    from rich.progress import ProgressColumn
    from rich.text import Text

    from rmt_compress.progress import Progress

# In a pipe or a file nothing is shortened: as wide as any line may be.
_PIPE_WIDTH = 100_000

# What stands for the characters of our own texts where they cannot be printed; of the same width, for tables.
_PLAIN = str.maketrans({"×": "x", "–": "-", "—": "-", "─": "-", "→": ">", "…": "~", "²": "2", "₊": "+", "±": "~"})
_PLAIN |= str.maketrans(dict(zip("▁▂▃▄▅▆▇█", "_.-=+*%#", strict=True)))
_PLAIN |= str.maketrans({"σ": "s", "ξ": "x", "\u0302": "", "’": "'", "·": ".", "≤": "<", "≥": ">"})


class Loudness(enum.Enum):
    """How much is said beside results, warnings and errors."""

    QUIET = enum.auto()
    USUAL = enum.auto()
    VERBOSE = enum.auto()


class _Speech:
    """How this process speaks at the moment.

    Attributes:
        loudness: how much it says.
        bar: the console of a bar that is being drawn, above which a line has to stand.
    """

    loudness = Loudness.USUAL
    bar: Console | None = None


class GoalNotReached(Exception):  # noqa: N818 - an outcome, not an error
    """The work was done, but not what it was done for; exit status 1."""


class StdoutLost(Exception):  # noqa: N818 - an outcome, not an error
    """The work was done, but its report could not be printed; exit status 3."""


def speak(loudness: Loudness) -> None:
    """Say so much from now on; what the library logs of its work too, where that is all."""
    _Speech.loudness = loudness
    logger = logging.getLogger("rmt_compress")
    for handler in [each for each in logger.handlers if isinstance(each, _Logged)]:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
    if loudness is Loudness.VERBOSE:
        logger.addHandler(_Logged())
        logger.setLevel(logging.INFO)


def speaks(loudness: Loudness) -> bool:
    """Whether this is how much is said."""
    return _Speech.loudness is loudness


class _Logged(logging.Handler):
    """What the library logs, a line each on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        _said("verbose:", "dim", record.getMessage())


def error_line(message: str) -> None:
    """Print one line on stderr, whatever line breaks the message holds."""
    _said("error:", "bold red", " ".join(message.split()))


def note(message: str) -> None:
    """Print a remark on stderr, unless nothing but results is asked for."""
    if not speaks(Loudness.QUIET):
        _said("note:", "dim", message)


def warning(message: str) -> None:
    """Print a warning on stderr."""
    _said("warning:", "yellow", message)


def next_step(*words: str | Path, because: str = "") -> None:
    """Print on stderr what one would do next: a command, its words quoted where a shell needs it."""
    if speaks(Loudness.QUIET):
        return
    command = " ".join(word if isinstance(word, str) else shlex.quote(str(word)) for word in words)
    _said("next:", "dim", f"rmt-compress {command}{f'  # {because}' if because else ''}")


def stderr_line(text: str | Text, *, style: str | None = None) -> None:
    """Print a line on stderr as it is."""
    (_Speech.bar or stderr_console()).print(text, style=style, soft_wrap=True)


def _said(what: str, style: str, message: str) -> None:
    from rich.text import Text

    stderr_line(Text.assemble((what, style), " ", printable(message, limit=100_000)))


def stdout_console() -> Console:
    """The console for results: as wide as the terminal, and as wide as need be where there is none."""
    return _console(width=None if sys.stdout.isatty() else _PIPE_WIDTH)


def stderr_console() -> Console:
    """The console for everything that is no result."""
    return _console(stderr=True)


def _console(*, stderr: bool = False, width: int | None = None) -> Console:
    """A console that takes every text as it is: file and layer names are a stranger's, their brackets no markup.

    Styles are given with `rich.text.Text`.
    """
    from rich.console import Console

    return Console(stderr=stderr, width=width, highlight=False, markup=False, emoji=False)


def print_result(result: RenderableType, *, written: Path | str | None = None) -> None:
    """Print a table or a line on stdout.

    Args:
        result: what to print.
        written: the file or folder that this run has written.

    Raises:
        StdoutLost: it cannot be printed.
    """
    console = stdout_console()
    collected = console.file = _LikeStdout()
    console.print(result, soft_wrap=isinstance(result, str))
    # Cells are padded to the width of their column, the last one of a line too.
    _print(re.sub(r"[ ]+(?=\n)", "", collected.getvalue()), written)


def print_json(report: object, *, written: Path | str | None = None) -> None:
    """Print one JSON value on stdout, on its own; `written` as for `print_result`.

    Raises:
        StdoutLost: it cannot be printed.
    """
    ascii_only = not _is_unicode(sys.stdout)
    _print(json.dumps(report, indent=2, ensure_ascii=ascii_only, allow_nan=False) + "\n", written)


class _LikeStdout(io.StringIO):
    """Collects what is printed, and passes for standard output where rich looks what that can show."""

    @property
    def encoding(self) -> str:  # type: ignore[override]  # an attribute in the stubs, though it cannot be set
        return sys.stdout.encoding or "utf-8"

    def isatty(self) -> bool:
        return sys.stdout.isatty()

    def fileno(self) -> int:
        return sys.stdout.fileno()


def _print(text: str, written: Path | str | None) -> None:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        done = f"; {written} has been written all the same" if written is not None else ""
        raise StdoutLost(f"the report cannot be printed: {error.strerror}{done}") from error


def degrade_text() -> None:
    """Let both streams print what they can of every text, whatever their encoding."""
    codecs.register_error("rmt-compress", _plain_characters)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="rmt-compress")


def _plain_characters(error: UnicodeError) -> tuple[str, int]:
    """A codec's error handler: our own characters become ASCII, others escapes."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    plain = error.object[error.start : error.end].translate(_PLAIN)
    return plain.encode("ascii", "backslashreplace").decode("ascii"), error.end


def _is_unicode(stream: TextIO) -> bool:
    return (stream.encoding or "utf-8").lower().startswith("utf")


def draws_bars() -> bool:
    """Whether bars are drawn: on a terminal, colours forced or not, unless nothing but results is asked for."""
    return sys.stderr.isatty() and not speaks(Loudness.QUIET)


@contextmanager
def bar_of(*columns: ProgressColumn) -> Iterator[rich.progress.Progress]:
    """A bar on stderr that disappears when done; lines that are said meanwhile stand above it."""
    from rich.progress import Progress

    console = stderr_console()
    try:
        with Progress(*columns, console=console, transient=True) as bar:
            _Speech.bar = console
            yield bar
    finally:
        _Speech.bar = None


@contextmanager
def progress_bar(description: str) -> Iterator[Progress]:
    """A bar on stderr that disappears when done, with the parts done and left; nothing where none are drawn.

    Of parts that know their bytes, the bar and the time left go by these, and they are shown too.
    """
    if not draws_bars():
        yield lambda _done, _total, _name: None
        return
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

    text = TextColumn("{task.description}", markup=False)
    count = TextColumn("{task.fields[count]}", markup=False)
    with bar_of(text, BarColumn(), count, TimeRemainingColumn()) as bar:
        task = bar.add_task(description, total=None, count="")

        def advance(done: int, total: int, name: str) -> None:
            count, parts = f"{done}/{total}", (done, total)
            if isinstance(name, PartOf):
                parts = name.bytes_done, name.bytes_in_all
                count += f" · {shown_bytes(parts[0])} of {shown_bytes(parts[1])}"
            shown = f"{description} {printable(name, limit=60)}"
            bar.update(task, completed=parts[0], total=parts[1], description=shown, count=count)

        yield advance


def checkpoint_or_only_one_here(checkpoint: Path | None) -> Path:
    """The path given, or the only checkpoint in the current folder, named on stderr.

    Raises:
        CheckpointError: none was given and the folder holds none or several.
    """
    if checkpoint is not None:
        return checkpoint
    from rmt_compress.checkpoints.formats import weight_suffixes

    suffixes = weight_suffixes()
    # Hidden files are what a killed run has left behind.
    found = sorted(
        path.name
        for path in Path().iterdir()
        if path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file()
    )
    if not found:
        raise CheckpointError(
            f"no checkpoint given, and none ({', '.join(suffixes)}) in the current folder; "
            "name one: rmt-compress analyze model.safetensors"
        )
    if len(found) > 1:
        raise CheckpointError(f"no checkpoint given, and the current folder holds several: {', '.join(found)}")
    note(f"no checkpoint given, taking {found[0]}")
    return Path(found[0])
