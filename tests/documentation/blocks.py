"""The blocks of a page: which are run, which are said to be run elsewhere, and which say why nobody runs them."""

import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.samples.repository import REPOSITORY

DOCS = REPOSITORY / "docs"
_FENCE = re.compile(r"(?:^<!-- (?P<note>[^\n]*?) -->\n+)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.S | re.M)


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        page: where it stands.
        start: of its text in the page's text.
        language: behind the fence.
        text: between the fences.
        note: the comment right above it: ``recorded: WHY`` or ``run by FILE``; empty for what is run here.
    """

    page: Path
    start: int
    language: str
    text: str
    note: str

    def __str__(self) -> str:
        line = self.page.read_text(encoding="utf-8")[: self.start].count("\n") + 1
        return f"{self.page.name}:{line}"


def blocks(page: Path) -> list[Block]:
    """Those of a page, in order."""
    return [
        Block(page, found.start("text"), found["language"], found["text"], found["note"] or "")
        for found in _FENCE.finditer(page.read_text(encoding="utf-8"))
    ]


def how_to_pages() -> list[Path]:
    """The README and what the site's navigation calls the start and how-to pages."""
    (pages,) = (entry["How to"] for entry in _navigation() if "How to" in entry)
    return [REPOSITORY / "README.md", DOCS / "start.md", *(DOCS / name for page in pages for name in page.values())]


def _navigation() -> list[dict[str, object]]:
    return yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]


def typed(block: Block) -> list[tuple[str, list[str]]]:
    """The commands of a terminal session, each with the lines that it printed."""
    found: list[tuple[str, list[str]]] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        elif found and not found[-1][1] and found[-1][0].endswith("\\"):
            found[-1] = (f"{found[-1][0][:-1].rstrip()} {line.strip()}", [])
        elif found:
            found[-1][1].append(line)
        else:
            raise ValueError(f"{block}: a session begins with a command, not with {line!r}")
    return found
