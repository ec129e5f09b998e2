"""Write what commands print now into sessions that show something else: `python -m tests.documentation PAGE …`."""

import sys
import tempfile
from pathlib import Path

import pytest

from tests.documentation.folders import prepared
from tests.documentation.sessions import alike, ran


def main() -> None:
    """Each page that is named, anew."""
    for page in map(Path, sys.argv[1:]):
        with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
            results = ran(page.resolve(), prepared(page.name, Path(folder)), patch)
        text = page.read_text(encoding="utf-8")
        # From the last to the first, so that places stay where they are.
        for each in reversed(results):
            print(f"{each.seconds:6.2f} s  {each.block}: {each.command}")
            if alike(each.shown, each.printed):
                continue
            typed = f"$ {each.command}\n" if each.block.language == "console" else ""
            before = text.index(typed, each.block.start) + len(typed)
            shown, printed = ("".join(f"{line}\n" for line in lines) for lines in (each.shown, each.printed))
            if not text.startswith(shown, before):
                sys.exit(f"{each.block}: {each.command} is typed twice in one block, or over several lines")
            text = text[:before] + printed.rstrip() + "\n" + text[before + len(shown) :]
        page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
