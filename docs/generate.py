"""Write docs/cli-reference.md from the program's own --help; with --check, fail where it is out of date."""

from __future__ import annotations

import html
import re
import subprocess
import sys
from pathlib import Path

TARGET = Path(__file__).parent / "cli-reference.md"


def cli_reference() -> str:
    """The reference page, by typer's own generator."""
    command = [sys.executable, "-m", "typer", "rmt_compress.cli.app", "utils", "docs", "--name", "rmt-compress"]
    page = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    # Outside code spans Markdown shows entities as they are meant, inside them it does not.
    page = re.sub(r"`[^`]*`", lambda code: html.unescape(code.group()), page)
    return page.rstrip() + "\n"


def main() -> None:
    """Write the page or compare it."""
    page = cli_reference()
    if "--check" not in sys.argv:
        TARGET.write_text(page, encoding="utf-8")
    elif not TARGET.exists() or TARGET.read_text(encoding="utf-8") != page:
        sys.exit(f"{TARGET.name} is out of date: run `make docs`")


if __name__ == "__main__":
    main()
