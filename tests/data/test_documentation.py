"""What docs/data.md shows is what happens."""

import re
import sys

import pytest
import torch

from rmt_compress.data import open_samples
from rmt_compress.data.batches import as_batch
from rmt_compress.data.sources import FILE_KINDS
from tests.samples.repository import REPOSITORY

PAGE = (REPOSITORY / "docs" / "data.md").read_text(encoding="utf-8")
MODULE, SCRIPT = re.findall(r"```python\n(.*?)```", PAGE, re.S)


@pytest.fixture
def mydata(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mydata.py").write_text(MODULE)
    yield
    sys.modules.pop("mydata", None)


def test_the_examples_are_taken(mydata):
    named = re.findall(r"--data (mydata:\w+)", MODULE)
    assert len(named) == 4
    found = {name: open_samples(name) for name in named}
    kinds = {name: (source.comes_in, source.part("test").targets) for name, source in found.items()}
    assert kinds == {
        "mydata:images": ("splits", "classes"),
        "mydata:stream": ("one", "numbers"),
        "mydata:tokens": ("parts", "classes"),
        "mydata:pair": ("one", "classes"),
    }
    for source in found.values():
        for part in ("calibration", "selection", "test", "train"):
            assert sum(1 for _ in source.part(part).batches(50)) >= 1


def test_the_script_runs(mydata, capsys):
    scope = {}
    exec(SCRIPT, scope)
    assert (
        capsys.readouterr().out
        == "100 2 Of the test split of mydata:images one half chooses, and the other is the test part.\n"
    )
    assert scope["inputs"].shape == (100, 1, 28, 28)
    assert float(scope["inputs"].min()) == pytest.approx(-1, abs=0.01)


def test_batches_are_what_the_table_says():
    rows = re.findall(r"^\| (`[^|]*`[^|]*) \| `model\((.*)\)`", PAGE, re.M)
    assert len(rows) == 5
    scope = {name: torch.full((2, 3), float(ord(name))) for name in "abx"} | {"y": torch.tensor([0, 1])}
    scope["model"] = lambda *given, **named: named or (given if len(given) > 1 else given[0])
    for batch, call in rows:
        for code in re.findall(r"`([^`]*[xy][^`]*)`", batch):
            inputs, targets = as_batch("page", eval(code, scope))
            assert (targets is None) == ("y" not in code)
            assert str(inputs) == str(eval(f"model({call})", scope))


def test_every_kind_of_file_is_told_of():
    assert all(f"`{kind}:" in PAGE for kind in FILE_KINDS)
