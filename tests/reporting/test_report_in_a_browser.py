"""A report in a real browser: what its scripts do, how it looks in both schemes, and what axe says of it."""

import shutil
from dataclasses import replace

import pytest
import torch

import rmt_compress as rmt
from rmt_compress.reporting.html.analysis_report import analysis_page
from rmt_compress.reporting.html.curves import sweep_charts
from rmt_compress.reporting.html.page import Run, Setting
from rmt_compress.reporting.html.page_file import page_text
from rmt_compress.reporting.html.page_parts import Grid, GridCell
from rmt_compress.sweep import Sweep, SweepCurve, SweepPoint
from tests.samples.seeds import SEED

BROWSERS = ("chromium", "chromium-headless-shell", "google-chrome")
BROWSER = next((path for name in BROWSERS if (path := shutil.which(name))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason=f"no browser here: none of {', '.join(BROWSERS)} is installed"),
]
EVIL = "</script><img src=x onerror=alert(1)><script>alert(2)</script>"
SCHEMES = ("light", "dark")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A report with every part that a page may have: blocks, a stranger's name, curves and small tables."""
    torch.manual_seed(SEED)

    def spiked(spikes: int) -> torch.Tensor:
        left, right = (torch.linalg.qr(torch.randn(side, spikes))[0] for side in (40, 60))
        return torch.randn(40, 60) + 60 * left @ right.T

    state = {f"blocks.{i}.{part}.weight": spiked(1 + (3 * i) % 5) for i in range(4) for part in ("up", "down")}
    state |= {f"{EVIL}.weight": torch.randn(48, 64), "head.weight": torch.randn(40, 60).exp()}
    points = tuple(SweepPoint(amount, 100 * amount, 0.5 + amount / 100) for amount in (1, 10, 40))
    curves = (SweepCurve("fc1", points, points[1]), SweepCurve(EVIL, points[1:]))
    charts = sweep_charts(Sweep("rank", None, "digits", 100, 4000, 0.95, curves))
    grid = Grid(("layer", "rank"), ((GridCell("fc1"), GridCell("12", "good")),), "a small table")
    page = replace(analysis_page(rmt.analyze(state)), charts=charts, grids=(grid,))
    *groups, head = page.layers.groups
    (row,) = head.members
    drawn = {"points": [[1, 0.5], [2, 0.25], [3, 1e-4]], "kept": 2, "worth": "worth"}
    row = replace(row, picture={**row.picture, "calibrated": drawn}, alt=(*row.alt, "three directions"))
    page = replace(page, layers=replace(page.layers, groups=(*groups, replace(head, members=(row,)))))
    path = tmp_path_factory.mktemp("report") / "report.html"
    run = Run("analyze", f"rmt-compress analyze '{EVIL}'", (Setting("--gof", "0.1", typed=True),), ("a remark",))
    path.write_text(page_text(page, run), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, file):
    """Open the report; whatever it asks for, and whatever it complains of, fails the test."""
    said, pages = [], []

    def _open(*, width=1280, scheme="light"):
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        pages.append(page)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: (said.append(f"dialog {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: said.append(request.url) if request.url != file.as_uri() else None)
        page.goto(file.as_uri())
        page.wait_for_selector(".chart svg")
        return page

    yield _open
    for page in pages:
        page.close()
    assert not said


def names(page):
    """Of the rows that are seen, blocks among them."""
    return page.locator("#layer-table tr:is(.block, .member):visible").evaluate_all(
        "rows => rows.map((row) => row.dataset.name)"
    )


def test_blocks_are_folded_and_layers_open_by_keyboard(opened):
    page = opened()
    assert names(page)[:2] == ["blocks.0–3.up", "blocks.0–3.down"]
    assert len(names(page)) == 4
    block = page.get_by_role("button", name="blocks.0–3.down")
    block.focus()
    page.keyboard.press("Enter")
    assert block.get_attribute("aria-expanded") == "true"
    assert names(page)[1:6] == ["blocks.0–3.down", *(f"blocks.{index}.down" for index in range(4))]
    layer = page.get_by_role("button", name="blocks.2.down")
    layer.focus()
    page.keyboard.press("Space")
    view = page.locator(f"#{layer.get_attribute('aria-controls')}")
    view.locator("svg").nth(1).wait_for()
    assert "It looks like" in view.inner_text()
    assert "Histogram of 40 eigenvalues" in view.locator(".chart").first.get_attribute("aria-label")
    # The law and the edge over the bars; the edge and two functions over the window.
    assert view.locator(".role-mark.mark-rule").count() == 2
    assert view.locator(".mark-line").count() == 3
    page.keyboard.press("Space")
    assert not view.is_visible()
    page.get_by_label("repeated blocks as one row").uncheck()
    assert len(names(page)) == 10
    assert "blocks.0–3.up" not in names(page)


def test_the_calibrated_spectrum_is_the_third_picture_where_there_is_one(opened):
    page = opened()
    page.locator("tr.member[data-name=head] button").click()
    view = page.locator(".view:visible")
    view.locator("svg").nth(2).wait_for()
    assert view.locator("figcaption").all_inner_texts()[2:] == ["Calibrated spectrum"]
    third = view.locator(".chart").nth(2)
    assert third.get_attribute("aria-label") == "three directions"
    assert third.locator(".mark-line path").count() == 2
    assert third.locator(".role-mark.mark-rule").count() == 1


def test_headings_sort(opened):
    page = opened()
    page.get_by_label("repeated blocks as one row").uncheck()
    first = names(page)
    heading = page.locator("#layer-table thead button", has_text="fit error")
    values = page.locator("#layer-table tr.member")
    column = "rows => rows.map((row) => Number(row.cells[3].textContent))"
    heading.click()
    assert page.locator("th[aria-sort]").get_attribute("aria-sort") == "ascending"
    # Layers of a block stay together, in order; so do blocks, by their largest.
    found = dict(zip(names(page), values.evaluate_all(column), strict=True))
    up = [value for name, value in found.items() if name.endswith(".up")]
    assert up == sorted(up)
    assert list(found)[-1] == "head"
    heading.click()
    found = dict(zip(names(page), values.evaluate_all(column), strict=True))
    up = [value for name, value in found.items() if name.endswith(".up")]
    assert up == sorted(up, reverse=True)
    assert next(iter(found)) == "head"
    heading.click()
    assert names(page) == first
    assert page.locator("th[aria-sort]").count() == 0


def test_rows_are_filtered(opened):
    page = opened()
    page.get_by_label("Layers with this in their row").fill("UP mixed")
    assert names(page) == ["blocks.0–3.up", *(f"blocks.{index}.up" for index in range(4))]
    assert page.get_by_role("status").inner_text() == "4 of 10 layers"
    page.get_by_label("Layers with this in their row").fill("")
    page.get_by_label("Verdict").select_option("structured")
    assert names(page) == ["head"]
    page.get_by_label("Layers with this in their row").fill("nothing like this")
    assert names(page) == []
    assert page.get_by_role("status").inner_text() == "0 of 10 layers"


@pytest.mark.parametrize("width", [390, 1280, 1920])
def test_the_page_is_as_wide_as_the_screen(opened, width):
    page = opened(width=width)
    page.locator("button.open:visible").first.click()
    page.locator(".view svg").nth(1).wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    body = page.locator(".view-body").first
    widths = body.evaluate_all("all => all.map((each) => each.getBoundingClientRect().right)")
    assert max(widths) <= width
    charts = page.locator(".chart svg").evaluate_all("all => all.map((each) => each.getBoundingClientRect().width)")
    assert min(charts) > 250


def test_colours_follow_the_scheme_and_paper_is_white(opened):
    page = opened(scheme="light")
    back = "getComputedStyle(document.body).backgroundColor"
    line = "getComputedStyle(document.querySelector('.chart .mark-line path')).stroke"
    light = page.evaluate(back), page.evaluate(line)
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate(back), page.evaluate(line)
    assert light[0] == "rgb(255, 255, 255)"
    assert light[0] != dark[0]
    assert light[1] != dark[1]
    page.emulate_media(color_scheme="dark", media="print")
    assert (page.evaluate(back), page.evaluate(line)) == light
    assert not page.locator(".tools").is_visible()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_axe_finds_nothing_serious(opened, scheme):
    from axe_playwright_python.sync_playwright import Axe

    page = opened(scheme=scheme)
    page.locator("button.unfold").first.click()
    page.locator("button.open:visible").first.click()
    page.locator(".view svg").nth(1).wait_for()
    for summary in page.locator("summary:visible").all():
        summary.click()
    found = Axe().run(page).response
    assert found["passes"]
    assert [
        (each["id"], [node["html"][:200] for node in each["nodes"]])
        for each in found["violations"]
        if each["impact"] in ("serious", "critical")
    ] == []


def test_on_paper_all_columns_stand_and_nothing_that_is_for_clicking(opened):
    """On a page as narrow as a tablet, where the screen leaves columns out."""
    page = opened(width=720, scheme="dark")
    assert not page.locator("#layer-table th.desk").first.is_visible()
    page.emulate_media(media="print", color_scheme="dark")
    assert all(page.locator("#layer-table thead th").evaluate_all("all => all.map((each) => each.offsetWidth > 0)"))
    for gone in ("nav", ".tools", "summary"):
        assert not page.locator(gone).first.is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.locator("#curves svg").first.bounding_box()["width"] == pytest.approx(480, abs=1)
    assert page.evaluate("document.documentElement.scrollWidth") <= 720
