"""Every block of the README and of the how-to pages is run as it stands, or says who runs it or why nobody does."""

import re
import shlex

import pytest
import typer

from rmt_compress.cli.app import app
from tests.documentation.blocks import DOCS, Block, blocks, how_to_pages, typed
from tests.documentation.folders import prepared
from tests.documentation.sessions import alike, ran
from tests.samples.repository import REPOSITORY

PAGES = how_to_pages()
COMMANDS = typer.main.get_command(app).commands
NOTES = re.compile(r"recorded: \S.+|run by (?P<test>\S+\.py)")
LANGUAGES = {"console", "python", "text", "yaml"}


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # a reader's programs do not end at a warning
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_shows_what_is_printed(page, tmp_path, monkeypatch):
    for each in ran(page, prepared(page.name, tmp_path), monkeypatch):
        assert alike(each.shown, each.printed), f"{each.block}: {each.command}\n" + "\n".join(each.printed)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_is_not_run_here_says_why(page):
    for block in blocks(page):
        assert block.language in LANGUAGES, f"{block}: what is it?"
        if block.note:
            told = NOTES.fullmatch(block.note)
            assert told, f"{block}: {block.note}"
            assert not told["test"] or page.stem in (REPOSITORY / told["test"]).read_text(encoding="utf-8"), block
        else:
            assert block.language != "yaml", f"{block}: is not run"


@pytest.mark.parametrize(
    "page",
    [page for page in sorted(DOCS.glob("*.md")) if page.name != "cli-reference.md"],
    ids=lambda page: page.stem,
)
def test_every_command_is_one_that_the_program_takes(page):
    for block in blocks(page):
        for command, _ in typed(block) if block.language == "console" else []:
            _check(block, command)


def _check(block: Block, command: str) -> None:
    program, *words = shlex.split(command, comments=True) or [""]
    if program != "rmt-compress" or "|" in words or words[0].startswith(("--", "[")):
        return
    words = [word for word in words if word != "…"]
    # Parsed as typed: an option that is none, or a value that is no choice, is refused here.
    COMMANDS[words[0]].make_context(words[0], words[1:])


def test_the_job_runs_what_the_page_shows():
    (job,) = (block for block in blocks(DOCS / "five-tasks.md") if block.language == "yaml")
    _check(job, job.text.partition("run: ")[2])
    assert "--max-drop 2" in job.text


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    (
        ("rank 10 of 64", "rank 9 of  64", True),
        ("rank 10 of 64", "rank 20 of 64", False),
        ("rank 10 of 64", "ranks 10 of 64", False),
        ("loss 0.127", "loss 0.130", True),
        ("loss 0.127", "loss 0.327", False),
        ("accuracy 96.67% → 95.56%", "accuracy 96.11% → 95.56%", True),
        ("accuracy 96.67%", "accuracy 62.00%", False),
        ("  time, batch of 1   0.08 ms  0.07 ms  no gain", "  time, batch of 1  8 ms  0.07 ms  2× slower", True),
        ("one\n…\nfour", "one\ntwo\nthree\nfour", True),
        ("one\n…\nfour", "one\ntwo\nthree", False),
        ("one", "one\ntwo", False),
    ),
)
def test_words_are_the_same_and_numbers_nearly(shown, printed, same):
    assert alike(shown.splitlines(), printed.splitlines()) is same
