"""Run the program inside this process, with or without pytest, and follow the advice of its refusals."""

import contextlib
import io
import re
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from rmt_compress.cli.app import main
from rmt_compress.networks import latency
from tests.samples.once import ONE_RUN


@dataclass(frozen=True)
class Finished:
    """What a run left.

    Attributes:
        status: 0, 1 or 2.
        stdout: its results.
        line: what the error line says, FILE for names of files; empty where there is none.
        options: options that earlier refusals asked for.
    """

    status: int
    stdout: str
    line: str
    options: tuple[str, ...] = ()


def invoke(folder: Path, *arguments: str | Path) -> Finished:
    """`rmt-compress ARGUMENTS`; a traceback or more than one error line is an AssertionError."""
    stdout, stderr = io.StringIO(), io.StringIO()
    status = 0
    with (
        mock.patch.object(sys, "argv", ["rmt-compress", *map(str, arguments)]),
        mock.patch.multiple(latency, **ONE_RUN),
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
        warnings.catch_warnings(),
    ):
        # torch warns of its own formats, which is no business of the page.
        warnings.simplefilter("ignore")
        try:
            main()
        except SystemExit as stopped:
            status = int(stopped.code or 0)
    text = stderr.getvalue()
    errors = [line.removeprefix("error:").strip() for line in text.splitlines() if line.startswith("error:")]
    assert len(errors) == (status != 0), f"{arguments}: exit status {status}, but it says {text!r}"
    return Finished(status, stdout.getvalue(), without_paths(errors[0] if errors else "", folder))


def without_paths(line: str, folder: Path) -> str:
    """A line with FILE in the place of every path in `folder`."""
    return re.sub(rf"{re.escape(str(folder))}/[\w.-]*\w", "FILE", line)


def invoke_as_advised(folder: Path, arch: str, sample: str, *arguments: str | Path) -> Finished:
    """`invoke`, and again as long as the refusal says which option to add.

    Args:
        folder: where all files are.
        arch: what to say for ``--arch``.
        sample: what to say for ``--input-shape``.
        arguments: of the first try.
    """
    advice = {"--trust": (), "--arch": (arch,), "--input-shape": (sample,)}
    options: list[str] = []
    finished = invoke(folder, *arguments)
    while finished.status == 2:
        asked = [option for option in advice if f"add {option} " in f"{finished.line} " and option not in options]
        if not asked:
            break
        options += [asked[0], *advice[asked[0]]]
        finished = invoke(folder, *arguments, *options)
    return Finished(finished.status, finished.stdout, finished.line, tuple(o for o in options if o.startswith("-")))
