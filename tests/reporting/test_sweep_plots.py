"""Pictures of sweeps say what the sweep says: data are read back from the figure."""

import pytest

from rmt_compress.reporting.sweep_plots import sweep_figure
from rmt_compress.sweep import Sweep, SweepCurve, SweepPoint

POINTS = tuple(
    SweepPoint(amount, weights, a) for amount, weights, a in ((0, 90, 0.8), (0.1, 200, 0.88), (1, 1000, 0.9))
)


def made(kind, *curves):
    return Sweep(kind, "model.pt", "made", 100, 1000, 0.9, curves)


@pytest.mark.parametrize("kind", ["rank", "share", "sparsity"])
def test_points_full_accuracy_and_prediction(kind):
    ours = SweepCurve("fc1" if kind == "rank" else "bema", POINTS, POINTS[0])
    other = SweepCurve("gd14", POINTS[1:2])
    figure = sweep_figure(made(kind, ours, other))
    axes = figure.axes[0]
    curve, ring = axes.lines[:2]
    assert list(curve.get_ydata()) == pytest.approx([80, 88, 90])
    expected = [0, 0.1, 1] if kind == "rank" else [9, 20, 100]
    assert list(curve.get_xdata()) == pytest.approx(expected)
    assert [ring.get_xdata()[0], ring.get_ydata()[0]] == pytest.approx([expected[0], 80])
    full = next(line for line in axes.lines if line.get_linestyle() == "--")
    assert set(full.get_ydata()) == {90.0}
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert "as it is: 90.00%" in texts
    if kind == "rank":
        assert "fc1: predicted rank 0, 80.00%" in texts
    # A few hundred samples make a rough curve: the picture says so by itself.
    assert axes.get_title().startswith("Accuracy on 100 samples of made")
    assert len(figure.axes) == (1 if kind == "rank" else 2)


def test_the_right_panel_of_a_share_sweep_shows_the_last_points():
    right = sweep_figure(made("share", SweepCurve("bema", POINTS, POINTS[0]))).axes[1]
    assert right.get_ylim() == pytest.approx((87, 90.5))
    assert right.get_xlim()[0] > 9


def test_nothing_near_the_full_accuracy_is_no_error():
    sweep_figure(made("share", SweepCurve("ratio", POINTS[:1]))).draw_without_rendering()


@pytest.mark.parametrize("kind", ["rank", "share", "sparsity"])
def test_titles_are_inside_the_picture(kind):
    curves = [SweepCurve("model.encoder.layers.11.$mlp", POINTS, POINTS[0]), SweepCurve("b", POINTS)]
    sweep = Sweep(kind, "model.pt", "a long name of a data set/" * 3, 10_000, 1000, 0.9, tuple(curves))
    figure = sweep_figure(sweep)
    figure.draw_without_rendering()
    for axes in figure.axes:
        box = axes.title.get_window_extent()
        assert 0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert box.y1 <= figure.bbox.y1
