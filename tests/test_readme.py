"""The Python examples of the README run as printed."""

import re

import pytest
from torch import nn

from tests.samples.repository import REPOSITORY

README = REPOSITORY / "README.md"
BLOCKS = [
    block
    for block in re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.S)
    # One runs without this package, in test_saving.py; one goes on with moments, in test_budgets.py.
    if "load_file" not in block and "moments" not in block
]


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(100, 120), nn.ReLU(), nn.Linear(120, 64))


def test_examples(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model = Net()
    # The README loads first and compresses later; a reader has the file already.
    blocks = sorted(BLOCKS, key=lambda block: "rmt.load" in block)
    assert len(blocks) == 2
    scope = {"model": model, "Net": Net}
    for block in blocks:
        exec(block, scope)
    assert "noise" in capsys.readouterr().out
    assert isinstance(scope["model"][0], nn.Sequential)
    assert {name: tensor.shape for name, tensor in scope["state"].items()} == {
        name: tensor.shape for name, tensor in model.state_dict().items()
    }


@pytest.mark.parametrize("link", re.findall(r"\]\(((?!http)[^)]+)\)", README.read_text(encoding="utf-8")))
def test_links_lead_somewhere(link):
    assert (README.parent / link).exists()
