"""Run docs/notebook.ipynb, keep what its cells show in it, and write the page docs/notebook.md of it.

The cells are Python alone, so that they run in this process, one after the other: no kernel is needed, and the page
is plain Markdown with pictures beside it. In Jupyter the notebook opens and runs as any other.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import os
import re
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
NOTEBOOK = FOLDER / "notebook.ipynb"
PAGE = FOLDER / "notebook.md"

Notebook = dict[str, Any]


def read() -> Notebook:
    """The notebook as it lies in docs/."""
    found: Notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return found


def executed(notebook: Notebook) -> Notebook:
    """The same with what its cells show now: printed text, and what a cell ends with."""
    scope: dict[str, Any] = {"__name__": "__main__"}
    cells, count = [], 0
    with contextlib.chdir(FOLDER):
        for cell in notebook["cells"]:
            if cell["cell_type"] == "markdown":
                cells.append(cell)
                continue
            count += 1
            outputs = _outputs("".join(cell["source"]), scope, count)
            cells.append({**cell, "execution_count": count, "outputs": outputs})
    return {**notebook, "cells": cells}


def _outputs(source: str, scope: dict[str, Any], count: int) -> list[dict[str, Any]]:
    body = ast.parse(source).body
    last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
    printed = io.StringIO()
    shown = None
    with contextlib.redirect_stdout(printed):
        exec(compile(ast.Module(body, []), str(NOTEBOOK), "exec"), scope)
        if isinstance(last, ast.Expr):
            shown = eval(compile(ast.Expression(last.value), str(NOTEBOOK), "eval"), scope)
    outputs: list[dict[str, Any]] = []
    if text := printed.getvalue():
        outputs.append({"output_type": "stream", "name": "stdout", "text": _lines(text)})
    if shown is not None:
        result = {"execution_count": count, "metadata": {}, "output_type": "execute_result"}
        outputs.append({**result, "data": _shown(shown)})
    return outputs


def _shown(value: object) -> dict[str, Any]:
    """What a notebook keeps of an object: a picture or a table where it has one, and its text."""
    if hasattr(value, "_repr_png_"):
        return {"image/png": base64.b64encode(value._repr_png_()).decode(), "text/plain": ["a figure"]}
    if hasattr(value, "_repr_html_"):
        html = re.sub(r"<style.*?</style>\s*", "", value._repr_html_(), flags=re.S)
        return {"text/html": _lines(html), "text/plain": [f"{type(value).__name__} as a table"]}
    return {"text/plain": _lines(repr(value))}


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def page_of(notebook: Notebook) -> tuple[str, dict[str, bytes]]:
    """The notebook as Markdown, and its pictures by their paths in docs/."""
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {"text/plain": output.get("text", [])})
            if "image/png" in data:
                place = f"images/notebook-{len(pictures) + 1}.png"
                pictures[place] = base64.b64decode(data["image/png"])
                parts.append(f"![{_title(source)}]({place})")
            elif "text/html" in data:
                parts.append("".join(data["text/html"]).strip())
            else:
                parts.append(f"```text\n{''.join(data['text/plain']).rstrip()}\n```")
    return "\n\n".join(parts) + "\n", pictures


def _title(source: str) -> str:
    """What a picture shows, as its cell says in the comment at its end."""
    return source.rpartition("# ")[2]


def main() -> None:
    """Run it and write both."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    notebook = executed(read())
    NOTEBOOK.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    page, pictures = page_of(notebook)
    PAGE.write_text(page, encoding="utf-8")
    for place, png in pictures.items():
        (FOLDER / place).write_bytes(png)


if __name__ == "__main__":
    main()
