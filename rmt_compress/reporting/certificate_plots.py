"""A picture of a certificate: bound against measured change, and against the confidence it must not exceed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rmt_compress.reporting.blanks import blank_figure, said_in_figure, write_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from rmt_compress.certificates.certificate import Certificate

_COLORS = ("#c8553d", "#457b9d", "#8a9a5b", "#8d6a9f", "#d4a24c", "#1d3557", "#4aa3a2", "#b56576")
_ALL = "#343a40"
# More layers than have colours of their own are not told apart.
_POINTS = 2000


def certificate_figure(certificate: Certificate) -> Figure:
    """Left every sample's bound over its measured change, right what smaller bounds would certify."""
    figure = blank_figure(11.4, 4.8, "--plot")
    left, right = figure.subplots(1, 2)
    shown = np.linspace(0, certificate.samples - 1, min(certificate.samples, _POINTS)).astype(int)
    moved = np.abs(certificate.confidence_after - certificate.confidence)
    series = [("all cuts", certificate.bound, moved, _ALL)]
    for layer, (bound, measured), color in zip(certificate.layers, certificate.steps, _COLORS, strict=False):
        series.append((layer.name, bound, measured, color))
    if len(certificate.layers) == 1:
        series = series[:1]
    lowest = []
    for name, bound, measured, color in series:
        x, y = measured[shown], bound[shown]
        inside = (x > 0) & (y > 0)
        left.plot(x[inside], y[inside], ".", ms=3, alpha=0.5, color=color, label=said_in_figure(name, 40))
        lowest += [np.concatenate((x[inside], y[inside]))]
    every = np.concatenate(lowest)
    if every.size:
        # The smallest of thousands are samples that hardly move, and say nothing.
        ends = np.quantile(every, 0.002), every.max()
        left.plot(ends, ends, "--", color="#6c757d", lw=1, label="bound = change")
        left.set_xlim(ends[0] / 2, ends[1] * 2)
        left.set_ylim(ends[0] / 2, ends[1] * 2)
        left.set_xscale("log")
        left.set_yscale("log")
    left.set_xlabel("measured change of the confidence δ")
    left.set_ylabel("certified bound on it")
    left.set_title(said_in_figure(certificate.data, 60), fontsize=10)
    left.legend(frameon=False, fontsize=8, markerscale=3)
    factors = np.geomspace(1e-3, 1, 200)
    safe = [float((certificate.reserve > factor).mean()) for factor in factors]
    right.plot(
        factors, [100 * share for share in safe], color=_ALL, label="certified, were the bound so much smaller"
    )
    right.axhline(100 * certificate.accuracy_after, color=_COLORS[0], lw=1, label="accuracy after, measured")
    right.axhline(100 * certificate.accuracy_before, color=_COLORS[1], lw=1, ls="--", label="accuracy before")
    right.plot([1], [100 * certificate.accuracy_certified], "o", color=_ALL)
    right.set_xscale("log")
    right.set_ylim(0, 100)
    right.set_xlabel("share of the bound")
    right.set_ylabel("samples, %")
    right.set_title(f"{certificate.accuracy_certified:.2%} certified", fontsize=10)
    right.legend(frameon=False, fontsize=8)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def write_certificate_plot(certificate: Certificate, target: Path) -> None:
    """Draw it into a PNG file."""
    write_figure(certificate_figure(certificate), target)
