"""The picture of a certificate says what the certificate says: data are read back from the figure."""

import numpy as np
import pytest

import rmt_compress as rmt
from rmt_compress.data import Dataset
from rmt_compress.reporting.certificate_plots import certificate_figure
from tests.samples.certified import cut_plan, mlp


@pytest.mark.parametrize("ranks", [{"fc1": 4, "fc2": 3}, {"fc2": 6}])
def test_bounds_changes_and_shares(ranks):
    import torch

    model, inputs = mlp(), torch.randn(60, 12)
    with torch.no_grad():
        labels = model(inputs).argmax(1)
    found = rmt.certify(model, cut_plan(model, ranks), Dataset("made", "test", inputs, labels, 5))
    figure = certificate_figure(found)
    figure.draw_without_rendering()
    left, right = figure.axes
    moved = np.abs(found.confidence_after - found.confidence)
    assert sorted(left.lines[0].get_xdata()) == pytest.approx(sorted(moved[moved > 0]))
    assert sorted(left.lines[0].get_ydata()) == pytest.approx(sorted(found.bound[moved > 0]))
    names = [text.get_text() for text in left.get_legend().get_texts()]
    assert names == ["all cuts", *(ranks if len(ranks) > 1 else ()), "bound = change"]
    curve, after, _, point = right.lines
    assert curve.get_ydata()[-1] == pytest.approx(100 * found.accuracy_certified)
    assert point.get_ydata()[0] == pytest.approx(100 * found.accuracy_certified)
    assert set(after.get_ydata()) == {100 * found.accuracy_after}
    assert list(curve.get_ydata()) == sorted(curve.get_ydata(), reverse=True)
