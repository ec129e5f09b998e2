"""The example notebook runs as it is printed, and its page is made of it."""

import base64
import re

import pytest

from docs import run_notebook
from tests.samples.repository import REPOSITORY


def masked(notebook):
    """What every cell shows, without numbers, which machines round otherwise, and names of temporary folders."""
    shown = []
    for cell in notebook["cells"]:
        for output in cell.get("outputs", ()):
            data = output.get("data", {"text/plain": output.get("text")})
            text = "".join(data.get("text/html", data["text/plain"]))
            shown.append(re.sub(r"[\d.,]+", "#", re.sub(r"/\S*/tmp\w+|/tmp/\w+", "TMP", text)))
    return shown


@pytest.mark.slow
def test_it_runs_and_shows_what_it_showed():
    kept = run_notebook.read()
    now = run_notebook.executed(kept)
    assert masked(now) == masked(kept)
    for before, after in zip(kept["cells"], now["cells"], strict=True):
        for old, new in zip(before.get("outputs", ()), after.get("outputs", ()), strict=True):
            assert old.get("data", {}).keys() == new.get("data", {}).keys()


def test_the_page_is_that_of_the_notebook():
    page, pictures = run_notebook.page_of(run_notebook.read())
    assert page == run_notebook.PAGE.read_text(encoding="utf-8")
    for place, png in pictures.items():
        assert (REPOSITORY / "docs" / place).read_bytes() == png
    assert len(pictures) == page.count("![") == 4
    assert "<style" not in page


def test_it_is_a_small_notebook_whose_cells_have_all_been_run_in_order():
    notebook = run_notebook.read()
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert all(cell["outputs"] for cell in code)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    assert run_notebook.NOTEBOOK.stat().st_size < 400_000


def test_what_a_cell_prints_and_what_it_ends_with_are_kept_apart():
    shown = run_notebook._outputs("x = 2\nprint('a')\nx + 1", {}, 7)
    assert [each["output_type"] for each in shown] == ["stream", "execute_result"]
    assert shown[0]["text"] == ["a\n"]
    assert shown[1]["data"] == {"text/plain": ["3"]}
    assert run_notebook._outputs("x = 2", {}, 8) == []
    figure = type("Figure", (), {"_repr_png_": lambda self: b"png"})()
    (drawn,) = run_notebook._outputs("figure", {"figure": figure}, 9)
    assert base64.b64decode(drawn["data"]["image/png"]) == b"png"
