"""What reports say, and that a stranger's names stay text in them."""

import base64
import hashlib
import json
import re
from dataclasses import replace

import pytest
import torch

import rmt_compress as rmt
from rmt_compress.analysis import Analysis, AnalysisSettings
from rmt_compress.reporting.html.analysis_report import analysis_page
from rmt_compress.reporting.html.budget_curves import tried_networks
from rmt_compress.reporting.html.layer_list import Cell, LayerList, LayerRow
from rmt_compress.reporting.html.layer_picture import in_words, picture
from rmt_compress.reporting.html.page import Run
from rmt_compress.reporting.html.page_file import page_text
from rmt_compress.reporting.spectrum_series import spectrum_series
from tests.samples.pages import Page
from tests.samples.repository import REPOSITORY
from tests.samples.seeds import SEED

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&\x1b[31m{{7*7}}"
RUN = Run("analyze", f"rmt-compress analyze '{EVIL[:20]}'")


def spiked(rows: int, columns: int, spikes: int = 2) -> torch.Tensor:
    left, right = (torch.linalg.qr(torch.randn(side, spikes))[0] for side in (rows, columns))
    return torch.randn(rows, columns) + 6 * (rows + columns) ** 0.5 * left @ right.T


@pytest.fixture(scope="module")
def analysis():
    torch.manual_seed(SEED)
    blocks = {f"blocks.{index}.up.weight": spiked(40, 60, 1 + index) for index in range(3)}
    return rmt.analyze({**blocks, f"{EVIL}.weight": torch.randn(48, 64), "head.weight": torch.randn(4, 40)})


def test_the_page_says_what_the_analysis_does(analysis):
    page = analysis_page(analysis)
    parsed = Page(page_text(page, RUN))
    assert not parsed.open
    assert "4 of 4 layers look like noise, with or without learned spikes" in parsed.text
    assert "unverified: nothing was run" in parsed.text
    assert "head: min(rows, columns) = 4 is below 32" in parsed.text
    share = analysis.parameters_after / analysis.parameters
    assert f"{share:.1%}" in parsed.text
    rows = [each for each in parsed.all("tr") if each.get("class", "").startswith("member")]
    assert [row["data-name"] for row in rows][:3] == ["blocks.0.up", "blocks.1.up", "blocks.2.up"]
    (block,) = [each for each in parsed.all("tr") if each.get("class") == "block"]
    assert block["data-name"] == "blocks.0–2.up"
    assert [cell.text for cell in page.layers.groups[0].cells[4:7:2]] == ["1–3/40", "mixed"]
    # Spikes are sorted by their number; a block by that of the layer with the most.
    assert [json.loads(row["data-orders"])[4] for row in (*rows[:3], block)] == [1, 2, 3, 3]


def test_a_row_for_several_says_how_many_say_what():
    said = [
        ("kept", "fit error 0.15 is above 0.1"),
        ("factorized", "rank 3 of 40"),
        ("factorized", "rank 12 of 40"),
    ]
    rows = [
        LayerRow(f"layers.{number}.up", (40, 60), word, (Cell(word, word), Cell("", None), Cell(why, why)))
        for number, (word, why) in enumerate(said)
    ]
    (group,) = LayerList.of(rows, (), caption="", choice="").groups
    texts = [cell.text for cell in group.cells]
    assert group.name == "layers.0–2.up"
    assert texts == [
        "1 × kept; 2 × factorized",
        "",
        "1 × fit error 0.15 is above 0.1; 2 × rank 3–12 of 40",
    ]


def test_names_are_text(analysis):
    parsed = Page(page_text(analysis_page(analysis), RUN))
    name = next(row["data-name"] for row in parsed.all("tr") if "alert" in (row.get("data-name") or ""))
    assert name == EVIL.replace("\x1b", "\\x1b")
    assert not parsed.all("img")
    assert not [key for _, attributes in parsed.elements for key in attributes if key.startswith("on")]
    data = next(script for script in parsed.scripts if script.startswith('{"charts"'))
    assert "<" not in data


def test_nothing_is_fetched_and_no_script_runs_but_ours(analysis):
    text = page_text(analysis_page(analysis), RUN)
    parsed = Page(text)
    assert not [name for name in ("link", "iframe", "object", "base") if parsed.all(name)]
    assert not [each for _, each in parsed.elements if "src" in each or str(each.get("href", "#"))[0] != "#"]
    policy = next(each["content"] for each in parsed.all("meta") if each.get("http-equiv"))
    assert policy.startswith("default-src 'none';")
    allowed = set(re.findall(r"'sha256-([^']+)'", policy))
    found = {
        base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        for script in parsed.scripts
        if not script.startswith('{"charts"')
    }
    assert found == allowed
    assert len(found) == 4
    assert "sourceMappingURL" not in text


def test_pictures_hold_every_eigenvalue_of_their_layer(analysis):
    page = analysis_page(analysis)
    for row, layer in zip(page.layers.rows, [*analysis.analyzed[:3], analysis.analyzed[3]], strict=True):
        drawn = row.picture
        beyond = int(drawn["beyond"].split()[0]) if drawn["beyond"] else 0
        area = drawn["width"] * (sum(drawn["bulk"]) + sum(drawn["spike"]))
        assert area == pytest.approx(1 - beyond / layer.fit.p, rel=2e-3)
        assert drawn["edge"] == pytest.approx(layer.fit.lambda_plus, rel=1e-3)
        law = drawn["law"]
        step = (law["to"] - law["from"]) / (len(law["heights"]) - 1)
        assert step * sum(law["heights"]) == pytest.approx(1, abs=0.05)
        assert f"{layer.fit.gof:.3f} apart" in row.alt[1]


def test_general_noise_has_a_page_without_the_law_of_another(analysis):
    settings = AnalysisSettings(noise="general")
    layer = replace(analysis.analyzed[0], settings=settings)
    series = spectrum_series(layer)
    drawn = picture(layer, series)
    assert (series.law, series.distribution, drawn["law"], drawn["distribution"]) == (None, None, None, None)
    assert "Marchenko" not in in_words(layer, series)[0]


def test_vega_is_as_published():
    folder = REPOSITORY / "rmt_compress/reporting/html/vega"
    sums = dict(re.findall(r"^\| (\S+\.js) \|.*\| (\w{64}) \|$", (folder / "README.md").read_text("utf-8"), re.M))
    assert sums == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.js")}
    assert len(sums) == 2


@pytest.mark.slow
def test_a_report_of_200_layers_can_be_mailed():
    (layer,) = rmt.analyze({"layers.0.mlp.up_proj.weight": spiked(700, 700, 30)}).analyzed
    names = [f"model.layers.{index}.mlp.up_proj" for index in range(200)]
    layers = [replace(layer, layer=replace(layer.layer, name=name)) for name in names]
    for each in layers:
        vars(each)["measures"] = layer.measures
    page = analysis_page(Analysis(None, "state dict", (), AnalysisSettings(), tuple(layers)))
    assert len(page_text(page, RUN).encode()) < 3_000_000


def test_of_rules_with_one_score_the_page_marks_the_one_that_was_chosen():
    rules = ("input tempered", "plain tempered", "plain uniform")
    tried = [
        {"rule": rule, "keep": 0.4, "score": score} for rule, score in zip(rules, (0.9, 0.9, 0.8), strict=True)
    ]
    budget = {"asked": {"keep": 0.4}, "reached": {"keep": 0.4}, "score": 0.9, "tried": tried}
    grid = tried_networks({**budget, "rule": "plain tempered"})
    assert [row[-1].text for row in grid.rows] == ["", "chosen", ""]
    # A plan from before that was recorded: the first with the score.
    assert [row[-1].text for row in tried_networks(budget).rows] == ["chosen", "", ""]
