"""What the pictures show, read back from the figure."""

import numpy as np
import pytest
import torch
from scipy.integrate import trapezoid

import rmt_compress as rmt
from rmt_compress.reporting.spectrum_plots import layer_figure, plot_layers, plot_name


@pytest.fixture
def analysis():
    spikes = torch.linalg.qr(torch.randn(60, 3))[0] * torch.tensor([80.0, 60.0, 40.0])
    weight = torch.randn(60, 90) + spikes @ torch.linalg.qr(torch.randn(90, 3))[0].T
    return rmt.analyze({"block/../fc.weight": weight, "tiny.weight": torch.randn(2, 2)})


def test_histogram_and_law_are_densities_of_the_same_eigenvalues(analysis):
    (layer,) = analysis.analyzed
    left, right = layer_figure(layer).axes
    areas = [patch.get_height() * patch.get_width() for patch in left.patches]
    eigenvalues = layer.singular_values**2 / 90
    assert sum(areas) == pytest.approx(np.mean(eigenvalues <= left.get_xlim()[1]), abs=1e-9)
    law = next(line for line in left.lines if line.get_label() == "Marchenko–Pastur")
    assert trapezoid(law.get_ydata(), law.get_xdata()) == pytest.approx(1.0, abs=0.01)
    labels = [text.get_text() for text in left.get_legend().get_texts()]
    assert labels[:2] == ["bulk (57)", "spikes (3)"]
    assert left.get_xlim()[1] > layer.fit.lambda_plus
    step = next(line for line in right.lines if line.get_label() == "this layer")
    np.testing.assert_allclose(step.get_ydata()[-1], 1.0)
    np.testing.assert_allclose(np.sort(eigenvalues), step.get_xdata())


def test_spikes_left_out_of_the_ranks_are_left_out_of_the_law():
    p, n, spikes = 120, 200, 36
    left, right = (torch.linalg.qr(torch.randn(side, spikes))[0] for side in (p, n))
    weight = torch.randn(p, n) + 90.0 * left @ right.T
    (layer,) = rmt.analyze({"fc.weight": weight}, quantiles="spiked").analyzed
    assert layer.fit.left_out == spikes
    histogram, distribution = layer_figure(layer).axes
    law = next(line for line in histogram.lines if line.get_label() == "Marchenko–Pastur")
    assert trapezoid(law.get_ydata(), law.get_xdata()) == pytest.approx(1 - spikes / p, abs=0.01)
    drawn, step = (
        next(line for line in distribution.lines if line.get_label() == label)
        for label in ("Marchenko–Pastur", "this layer")
    )
    # Where it was fitted it goes through what it was fitted to.
    first, last = layer.fit.window
    inside = slice(first - 1, last)
    at = np.interp(step.get_xdata()[inside], drawn.get_xdata(), drawn.get_ydata())
    np.testing.assert_allclose(at, step.get_ydata()[inside], atol=layer.fit.gof * (1 - spikes / p) + 0.01)


def test_files(analysis, tmp_path):
    seen = []
    written = plot_layers(analysis, tmp_path / "a" / "b", progress=lambda *step: seen.append(step))
    assert [path.name for path in written] == ["block_.._fc.png"]
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["block_.._fc.png"]
    assert seen == [(1, 1, "block/../fc")]


def test_names_stay_in_the_folder(analysis):
    assert "/" not in plot_name(analysis.analyzed[0])
