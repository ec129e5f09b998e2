"""Run the blocks of a page in a folder of its own, and compare what they print with what the page shows.

Words must be the same, numbers nearly: another processor rounds otherwise, and a rank or an image of a hundred may
then be another. What takes time, and where a column stands, is not compared. A line ``…`` stands for any lines.
"""

import contextlib
import io
import re
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from rmt_compress.analysis.noise_models import NOISE_MODELS
from rmt_compress.cli.app import main
from rmt_compress.decomposition.bases import BASES
from rmt_compress.planning.rules import RULES
from tests.documentation.blocks import Block, blocks, typed
from tests.documentation.folders import scope_of

_NUMBER = re.compile(r"(?<![\w.])[-+]?\d[\d,]*(?:\.\d+)?(?:e-?\d+)?")
# A row of a table of times, but for its name; and what a time has decided.
_TIMED = re.compile(
    r"(?<=^  )(time, batch of \d+|tokens a second, \w+ \d+) .*|(latency [\d.]+ cannot be reached): [\d.]+"
)
# How far numbers may be apart, as a share, or where they count something: an answer of 180, a rank of ten.
_NEAR = 0.25
_POINTS = 2.0


@dataclass(frozen=True)
class Ran:
    """One command, or what a piece of Python printed into the block of text below it.

    Attributes:
        block: where it stands.
        command: as typed.
        shown: the lines on the page.
        printed: the lines now.
        seconds: of the processor that it took.
    """

    block: Block
    command: str
    shown: list[str]
    printed: list[str]
    seconds: float


def ran(page: Path, folder: Path, patch: pytest.MonkeyPatch) -> list[Ran]:
    """Run what a page has to be run, in order; a command that fails prints a line that the page has to show.

    What a page plugs into the tables of the package is taken out again.
    """
    with mock.patch.dict(RULES), mock.patch.dict(BASES), mock.patch.dict(NOISE_MODELS):
        return _ran(page, folder, patch)


def _ran(page: Path, folder: Path, patch: pytest.MonkeyPatch) -> list[Ran]:
    patch.chdir(folder)
    patch.syspath_prepend(str(folder))
    patch.setenv("COLUMNS", "120")
    scope = scope_of(page.name)
    found: list[Ran] = []
    printed: list[str] = []
    status, begin = 0, 0.0
    for block in blocks(page):
        if block.note:
            continue
        if block.language == "console":
            for command, shown in typed(block):
                begin = time.process_time()
                if command == "echo $?":
                    printed = [str(status)]
                else:
                    status, printed = _typed(command, patch)
                found.append(Ran(block, command, shown, printed, time.process_time() - begin))
        elif block.language == "python":
            begin = time.process_time()
            name = re.match(r"# (\w+\.py)\n", block.text)
            if name:
                # A file of the reader's own, which a later command names.
                (folder / name[1]).write_text(block.text, encoding="utf-8")
            else:
                printed = _executed(block, scope)
        elif block.language == "text":
            found.append(Ran(block, "python", block.text.splitlines(), printed, time.process_time() - begin))
    return found


def _typed(command: str, patch: pytest.MonkeyPatch) -> tuple[int, list[str]]:
    """Exit status and what is printed: notes, the output, then an error; without what one would do next."""
    words = shlex.split(command, comments=True)
    if words[:1] != ["rmt-compress"]:
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
        return done.returncode, (done.stdout + done.stderr).splitlines()
    patch.setattr(sys, "argv", words)
    out, err = io.StringIO(), io.StringIO()
    status = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as stopped:
            status = int(stopped.code or 0)
    said = [line.rstrip() for line in err.getvalue().splitlines() if not line.startswith("next: ")]
    errors = [line for line in said if line.startswith("error: ")]
    return status, [
        *(line for line in said if line not in errors),
        *(line.rstrip() for line in out.getvalue().splitlines()),
        *errors,
    ]


def _executed(block: Block, scope: dict[str, Any]) -> list[str]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(block.text, str(block), "exec"), scope)
    return out.getvalue().splitlines()


def alike(shown: list[str], printed: list[str]) -> bool:
    """Whether a page shows what was printed."""
    ours, theirs = (
        [_words(line) for line in shown if line.strip()],
        [_words(line) for line in printed if line.strip()],
    )
    return _follows(ours, theirs)


def _follows(shown: list[list[str | float]], printed: list[list[str | float]]) -> bool:
    if not shown:
        return not printed
    if shown[0] == ["…"]:
        return any(_follows(shown[1:], printed[start:]) for start in range(len(printed) + 1))
    return bool(printed) and _same(shown[0], printed[0]) and _follows(shown[1:], printed[1:])


def _same(shown: list[str | float], printed: list[str | float]) -> bool:
    if len(shown) != len(printed):
        return False
    for index, (a, b) in enumerate(zip(shown, printed, strict=True)):
        if isinstance(a, float) and isinstance(b, float):
            share = str(shown[index + 1 : index + 2]).strip("['").startswith(("%", "points"))
            slack = _POINTS if share or a.is_integer() else 0.0
            if abs(a - b) > max(_NEAR * max(abs(a), abs(b)), slack):
                return False
        elif a != b:
            return False
    return True


def _words(line: str) -> list[str | float]:
    """A line's words and numbers, without times and rules."""
    text = re.sub("─+", "─", _TIMED.sub(r"\1\2", line))
    words: list[str | float] = []
    end = 0
    for number in _NUMBER.finditer(text):
        words += text[end : number.start()].split()
        words.append(float(number[0].replace(",", "")))
        end = number.end()
    return words + text[end:].split()
