"""Write the pages of docs/ that are made of something else; with --check, fail where one is out of date.

The command line's of the program's own --help, those of the benchmarks, the reproduction and the versions of
committed results.
"""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
DOCS = REPOSITORY / "docs"
BENCHMARKS = REPOSITORY / "benchmarks" / "results"
# Columns of the table of runs.
_RUNS = 8
REPRODUCTION = REPOSITORY / "experiments" / "data" / "reproduction"


def cli_reference() -> str:
    """The reference page, by typer's own generator."""
    program = ["-m", "typer", "--app", "app", "rmt_compress.cli.app"]
    command = [sys.executable, *program, "utils", "docs", "--name", "rmt-compress"]
    page = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    # Outside code spans Markdown shows entities as they are meant, inside them it does not.
    page = re.sub(r"`[^`]*`", lambda code: html.unescape(code.group()), page)
    # Stars of patterns are no emphasis, unlike those that begin a line or stand in pairs.
    page = re.sub(r"(?<=[\w.: ])\*(?=[.\w)])|(?<=\.)\*(?= )", r"\\*", page)
    return page.rstrip() + "\n"


def benchmarks() -> str:
    """The reports of the benchmarks, those that compare with other tools first."""
    first = [BENCHMARKS / f"{name}.md" for name in ("analyze", "budget", "prune", "gpu", "device")]
    intro = (
        "# Benchmarks\n\nMade by `python docs/generate.py` of the reports in `benchmarks/results`, each written by "
        "a script in `benchmarks/`. Machines were shared with other programs: ratios hold better than seconds.\n"
    )
    rest = [path for path in sorted(BENCHMARKS.glob("*.md")) if path not in first]
    return _joined(intro + _history(), [*first, *rest])


def _history() -> str:
    """The numbers of every run of `make bench` that was kept, the newest first."""
    path = BENCHMARKS / "history.jsonl"
    if not path.exists():
        return ""
    runs = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()][::-1][:_RUNS]
    names = list(dict.fromkeys(name for run in runs for name in run["numbers"]))
    head = [f"{run['date']}<br>{run['commit']}<br>load {run['load']:g}" for run in runs]
    rows = [
        [name, *(f"{run['numbers'][name]:g}" if name in run["numbers"] else "–" for run in runs)] for name in names
    ]
    lines = [["ratio", *head], ["---", *["---:"] * len(runs)], *rows]
    text = (
        '\n<a id="history"></a>\n\n## From run to run\n\n`make bench` adds a line to '
        "[history.jsonl](../benchmarks/results/history.jsonl) each time; the newest come first, + is a commit with "
        "changes. Numbers are how many times as long the other way takes, in processor time where the report says "
        "nothing else; scores are ours over the best peer's.\n\n"
    )
    return text + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def reproduction_tables() -> str:
    """What each script of the reproduction wrote."""
    intro = (
        "# Tables of the reproduction\n\nMade by `python docs/generate.py` of what the scripts in `experiments/` "
        "wrote to `experiments/data/reproduction`. [Reproduction](reproduction.md) says what to make of it.\n"
    )
    return _joined(intro, sorted(REPRODUCTION.glob("*.md")))


def reproduction_full() -> str:
    """What `experiments/full_scale.py` and `experiments/equal_time.py` made of the runs at the published size."""
    intro = (
        "# Tables at the published size\n\nMade by `python docs/generate.py` of what `experiments/full_scale.py` "
        "and `experiments/equal_time.py` wrote to `experiments/data/reproduction/full`, on one GPU. "
        "[Reproduction](reproduction.md) says what to make of it.\n"
    )
    return _joined(intro, sorted((REPRODUCTION / "full").glob("*.md")))


def versions() -> str:
    """What came of the tests in the lowest and the newest environments."""
    command = [sys.executable, str(REPOSITORY / ".ci" / "matrix" / "table.py")]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _joined(intro: str, reports: Iterable[Path]) -> str:
    """One page of many, each under its own anchor, its headings one level down and its links led out of docs/."""
    parts = [intro]
    for report in reports:
        folder = report.parent.relative_to(REPOSITORY).as_posix()
        text = re.sub(r"^#", "##", report.read_text(encoding="utf-8").rstrip(), flags=re.M)
        text = re.sub(r"\]\((?!http|#)", f"](../{folder}/", text)
        parts.append(f'<a id="{report.stem}"></a>\n\n{text}\n')
    return "\n".join(parts)


PAGES: dict[str, Callable[[], str]] = {
    "cli-reference.md": cli_reference,
    "benchmarks.md": benchmarks,
    "reproduction-tables.md": reproduction_tables,
    "reproduction-full.md": reproduction_full,
    "versions.md": versions,
}


def main() -> None:
    """Write the pages or compare them."""
    for name, make in PAGES.items():
        page, target = make(), DOCS / name
        if "--check" not in sys.argv:
            target.write_text(page, encoding="utf-8")
        elif not target.exists() or target.read_text(encoding="utf-8") != page:
            sys.exit(f"{name} is out of date: run `python docs/generate.py`")


if __name__ == "__main__":
    main()
