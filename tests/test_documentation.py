"""The Python examples of the documentation run as printed, and its links lead somewhere."""

import re
import tomllib

import pytest
from torch import nn

from tests.samples.repository import REPOSITORY

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
LINKS = [
    (page, link)
    for page in PAGES
    for link in dict.fromkeys(re.findall(r"\]\(((?!http|#)[^)#]+)", page.read_text(encoding="utf-8")))
]
BLOCKS = [
    block
    for page in PAGES
    if page.name in ("loading.md", "python.md")
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
    # One runs without this package, in test_saving.py; one goes on with moments, in test_budgets.py.
    if "load_file" not in block and "moments" not in block
]


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(100, 120), nn.ReLU(), nn.Linear(120, 64))


def test_examples(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model = Net()
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


@pytest.mark.parametrize(("page", "link"), LINKS, ids=lambda each: getattr(each, "stem", each))
def test_links_lead_somewhere(page, link):
    assert (page.parent / link).exists()


def test_the_readme_fits_on_a_few_screens():
    lines = (REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) < 150
    assert lines[2].startswith("![")


def test_the_citation_is_of_this_version():
    import yaml

    cited = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (cited["title"], cited["version"], cited["license"]) == (
        project["name"],
        project["version"],
        project["license"],
    )
