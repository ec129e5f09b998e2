"""`.plot()` of every result, read back from the figure."""

import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import rmt_compress as rmt
from rmt_compress.analysis.trend import analyze_states
from rmt_compress.certificates.certificate import Certificate
from rmt_compress.errors import MissingDependencyError, SettingsError
from rmt_compress.networks.tasks.task import ACCURACY
from rmt_compress.pruning.result import PruneResult
from rmt_compress.reporting import spectrum_plots
from rmt_compress.reporting.chart_plots import draw_chart
from rmt_compress.reporting.html.page_parts import Axis, Chart, Point, Series
from rmt_compress.reporting.sweep_plots import sweep_figure
from rmt_compress.sweep import Sweep, SweepCurve, SweepPoint
from rmt_compress.training.finetuned import Finetuned, RunResult
from tests.samples.moments import moments_of
from tests.samples.pages import Page
from tests.samples.seeds import SEED


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(SEED)
    return nn.Sequential(nn.Linear(60, 80), nn.ReLU(), nn.Linear(80, 12)).eval()


@pytest.fixture(scope="module")
def analysis(model):
    return rmt.analyze(model, min_size=10)


def labels(axes):
    return axes.get_legend_handles_labels()[1]


def widths(axes):
    return [patch.get_width() for patch in axes.patches]


def test_an_analysis_has_a_panel_for_each_layer(analysis):
    figure = analysis.plot()
    assert [axes.get_title().partition(":")[0] for axes in figure.axes] == ["0", "2"]
    for axes, layer in zip(figure.axes, analysis.analyzed, strict=True):
        assert f"spikes ({layer.fit.spikes})" in labels(axes)
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_one_layer_has_the_picture_of_the_command(analysis):
    assert [axes.get_title() for axes in analysis.plot("2*").axes] == ["Spectrum", "Distribution function"]
    assert analysis.plot("2").get_suptitle() == analysis.analyzed[1].plot().get_suptitle()


def test_more_layers_than_a_figure_holds_are_counted(monkeypatch):
    monkeypatch.setattr(spectrum_plots, "_MOST", 4)
    many = rmt.analyze({f"layers.{number}.weight": torch.randn(33, 40) for number in range(11)})
    figure = many.plot()
    drawn = [axes for axes in figure.axes if axes.get_visible()]
    assert len(drawn) == 4
    assert "7 more layers by name" in figure.legends[0].get_title().get_text()
    assert drawn[-1].get_title().startswith("layers.3")


def test_layers_that_are_not_there_and_laws_that_are_not_drawn(analysis):
    with pytest.raises(SettingsError, match="no analysed layer is called 22; did you mean 2"):
        analysis.plot("22")
    with pytest.raises(SettingsError, match="no analysed layer to draw"):
        rmt.analyze({"bias": torch.ones(3)}).plot()
    general = rmt.analyze({"fc.weight": torch.randn(40, 60)}, noise="general")
    for drawn in (general, general.analyzed[0]):
        with pytest.raises(SettingsError, match="noise general"):
            drawn.plot()


def test_a_plan_has_a_bar_for_each_layer(analysis):
    figure = rmt.make_plan(analysis, rule="rank:6").plot()
    (axes,) = figure.axes
    assert widths(axes) == pytest.approx([100 * 6 / 60, 100 * 6 / 12])
    assert [text.get_text() for text in axes.texts] == ["rank 6", "rank 6"]
    assert labels(axes) == ["factorized"]


def test_a_plan_within_a_budget_shows_what_other_sizes_cost(analysis, model):
    plan = rmt.plan_within(analysis, moments_of(model, torch.randn(300, 60)), keep=0.6, metric="two-sided")
    bars, prices = plan.plot().axes
    assert sum(width < 100 for width in widths(bars)) == sum(layer.rank is not None for layer in plan.layers)
    (curve, ring) = prices.lines
    heights = curve.get_ydata()
    assert heights[0] > heights[-1] > 0
    assert ring.get_xdata()[0] == pytest.approx(plan.settings["budget"]["reached"]["keep"], abs=0.05)


def test_what_was_pruned(tmp_path, model):
    torch.save(model.state_dict(), tmp_path / "net.pt")
    result = rmt.prune(
        tmp_path / "net.pt", tmp_path / "small.pt", plan=rmt.make_plan(analysis_of(model), rule="rank:5")
    )
    assert isinstance(result, PruneResult)
    (axes,) = result.plot().axes
    left = [100 * each.nonzeros / each.parameters for each in result.outcomes if each.action == "factorized"]
    assert widths(axes) == pytest.approx(left)
    page = Page(result._repr_html_())
    assert page.text.count("factorized") == len(left) == 2
    assert "small.pt" in page.text
    assert list(result.to_pandas()["rank"].dropna()) == [5, 5]


def analysis_of(model):
    return rmt.analyze(model.state_dict(), min_size=10)


def test_a_sweep_has_the_picture_of_the_command():
    points = (SweepPoint(1, 100, 0.5), SweepPoint(4, 400, 0.875))
    sweep = Sweep("rank", None, "digits", 40, 1000, 0.9, (SweepCurve("fc", points, points[1]),))
    ours, theirs = (figure.axes[0].lines for figure in (sweep.plot(), sweep_figure(sweep)))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one.get_xydata(), other.get_xydata())


def test_several_states(model):
    trend = analyze_states(
        [model.state_dict(), {k: 2 * v for k, v in model.state_dict().items()}], names=("a", "b")
    )
    assert trend.plot().axes[0].get_title().startswith("spikes")
    frame = trend.to_pandas()
    assert list(frame["state"]) == ["a", "b"] * len(trend.layers)
    assert list(frame["spectral_norm"][1::2]) == pytest.approx([2 * each for each in frame["spectral_norm"][::2]])
    (layer,) = trend.layers
    spikes = layer.states[0].fit.spikes
    assert f"{spikes} of 60 → {spikes} of 60" in Page(trend._repr_html_()).text


def test_a_training():
    seconds = dict.fromkeys(("train", "analyze", "evaluate"), 0.1)
    events = tuple(
        {
            "event": "end" if epoch == 2 else "epoch",
            "epoch": epoch,
            "train_loss": 2.0 / (epoch + 1),
            "test_loss": 2.1 / (epoch + 1),
            "test_score": 0.5 + epoch / 10,
            "score": asdict(ACCURACY),
            "parameters": 100 - epoch,
            "nonzeros": 100 - epoch,
            "seconds": seconds,
        }
        for epoch in range(3)
    )
    trained = Finetuned((RunResult("", 0, True, events),), Path("tuned.pt"), 400, Path("tuned.jsonl"), "mlp")
    score, *_ = trained.plot().axes
    assert list(score.lines[0].get_ydata()) == [50, 60]
    assert list(trained.to_pandas()["parameters"]) == [100, 99, 98]
    page = Page(trained._repr_html_())
    assert "50.00%" in page.text
    assert "70.00%" in page.text
    assert "tuned.pt was written" in page.text


def test_a_certificate():
    each = np.array([0.5, 1.0, 2.0])
    found = Certificate(
        *("digits", 3, 1.0, 0.9, 0.6, 1.0, 0.6, 0.1, 0.2, 0.9, 2.0, 0, (), {}),
        confidence=each,
        confidence_after=each + 0.1,
        bound=each,
        reserve=each,
        steps=(),
    )
    _, certified = found.plot().axes
    assert certified.get_title() == "60.00% certified"


def test_a_chart_of_a_page_is_drawn_with_all_that_it_marks():
    from matplotlib.figure import Figure

    points = tuple(Point(10.0**n, n / 4, "") for n in range(4))
    chart = Chart(
        *("title", "", Axis("size", logarithmic=True), Axis("score", format=".0%", zero=True)),
        series=(Series("one", points), Series("$other$", points[1:])),
        joined=False,
        chosen=points[:1],
        levels=((0.5, "as it is"),),
        marks=(3.0,),
    )
    axes = Figure().subplots()
    draw_chart(axes, chart)
    one, _, ring, level, mark = axes.lines
    assert one.get_linestyle() == "None"
    assert list(one.get_ydata()) == [point.y for point in points]
    assert ring.get_xydata().tolist() == [[1.0, 0.0]]
    assert level.get_ydata() == [0.5, 0.5]
    assert mark.get_xdata() == [3.0, 3.0]
    assert labels(axes) == ["one", r"\$other\$", "as it is"]
    assert (axes.get_xscale(), axes.get_ylim()[0]) == ("log", 0)


def test_without_matplotlib_one_line_says_what_to_install(analysis, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(
        MissingDependencyError, match=r"plot\(\) needs matplotlib: pip install 'rmt-compress\[report\]'"
    ):
        analysis.plot()
