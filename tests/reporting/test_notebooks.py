"""What results show in a notebook, and their data frames."""

import sys

import pytest
import torch

import rmt_compress as rmt
from rmt_compress.errors import MissingDependencyError
from rmt_compress.sweep import Sweep, SweepCurve, SweepPoint
from tests.samples.pages import Page
from tests.samples.seeds import SEED

EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def analysis():
    torch.manual_seed(SEED)
    return rmt.analyze(
        {f"{EVIL}.weight": torch.randn(40, 60), "fc.weight": torch.randn(40, 50), "fc.bias": torch.ones(40)}
    )


@pytest.fixture
def sweep():
    points = (SweepPoint(1, 100, 0.5, {"fc": 1}), SweepPoint(4, 400, 0.875, {"fc": 4}))
    return Sweep("rank", None, "digits", 40, 1000, 0.9, (SweepCurve("fc", points, points[1]),))


def test_an_analysis(analysis):
    frame = analysis.to_pandas()
    assert list(frame["name"]) == [layer.name for layer in analysis.layers]
    told = {layer.name: layer for layer in analysis.analyzed}
    for _, row in frame[frame["status"] == "analyzed"].iterrows():
        assert row["gof"] == told[row["name"]].fit.gof
        assert row["shape"] == told[row["name"]].layer.shape
    assert frame["gof"].isna().sum() == 1
    page = Page(analysis._repr_html_())
    assert not page.all("img")
    assert EVIL in page.text
    assert f"leave {analysis.parameters_after:,} of {analysis.parameters:,} parameters" in page.text


def test_a_plan(analysis):
    plan = rmt.make_plan(analysis, rule="rank:7")
    frame = plan.to_pandas()
    assert list(frame["rank"].dropna()) == [layer.rank for layer in plan.layers if layer.rank]
    page = Page(plan._repr_html_())
    assert page.text.count("factorized") == sum(layer.action == "factorized" for layer in plan.layers)
    assert not page.all("img")


def test_a_sweep(sweep):
    frame = sweep.to_pandas()
    assert list(frame["accuracy"]) == [0.5, 0.875]
    assert list(frame["predicted"]) == [False, True]
    assert "87.50%" in sweep._repr_html_()


def test_long_ones_are_cut_short_and_say_so(sweep):
    points = tuple(SweepPoint(amount, amount, 0.5) for amount in range(1, 101))
    page = Page(Sweep("rank", None, "digits", 40, 1000, 0.9, (SweepCurve("fc", points),))._repr_html_())
    assert len(page.all("tr")) == 61
    assert "40 more rows: to_pandas() has all" in page.text


def test_without_pandas_one_line_says_what_to_install(sweep, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(
        MissingDependencyError, match=r"to_pandas\(\) needs pandas: pip install 'rmt-compress\[notebook\]'"
    ):
        sweep.to_pandas()
