"""BSSZ24 figures 13 to 15: a(N, σ), and the norms on which it rests, over the width N.

One hidden layer W = S + R between W₁ and W₃: R of independent N(0, σ²/N) entries, S of the singular values 3 to 1
in the five directions that the inputs meet most; inputs are 20 random unit vectors of 100 entries, W₁ is of
N(0, 1/N) entries, ν = ReLU(W₁s) is what W reads. Removing R moves no output by more than ‖W₃‖_∞‖Rν‖_∞, ‖W₃‖_∞ the
largest row sum, and with a chance of 1 − 1/N by no more than

    a(N, σ) = 2σ ‖W₃‖_∞ ‖ν‖ √(ln(2N)/N)

(the lemma of the same group in 2026, a factor of √2 sharper than they write it). It is told for a last layer of
N(0, 1/N) entries and for one of N(0, 1/N²). Beside it stand what removing R does to the outputs, and the ratios
‖Rν‖_∞/‖ν‖ (figure 14) and ‖Rν‖₂/‖Wν‖₂ (figure 15). Which norms the paper sets in relation we do not know: the first
is the step that its proof takes, the second says how much of what W gives is noise. Medians over inputs, 5 draws.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from published import COLORS, Arm, Arms, Example, Scale, Table, figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

WIDTHS = {"small": (100, 200, 500, 1000, 2000, 5000), "quick": (50, 100)}
WIDTHS["full"] = (*WIDTHS["small"], 10_000)
SIGMAS = (0.5, 1.0, 2.0)
OUTER = {"1/N": 0.5, "1/N²": 1.0}
"""Variance of the last layer's entries -> the power of N in their deviation."""
INPUTS, OUTPUTS, ENTRIES, DRAWS = 20, 10, 100, 5
STRENGTHS = np.linspace(3, 1, 5)
KEYS = ("bound", "change", "largest", "share")


def measure(scale: Scale) -> Iterator[tuple[str, Arm]]:
    """A kind of last layer and a σ at a time."""
    for outer, power in OUTER.items():
        for sigma in SIGMAS:
            records = []
            for width in WIDTHS[scale]:
                random = np.random.default_rng([13, width, round(10 * sigma), round(10 * power)])
                found = np.concatenate([_draw(random, width, sigma, power) for _ in range(DRAWS)])
                middle = dict(zip(KEYS, np.median(found, axis=0).tolist(), strict=True))
                over = float((found[:, 1] > found[:, 0]).mean())
                records.append({"width": width, **middle, "over": over, "asked": len(found)})
            yield f"{outer}, σ = {sigma:g}", {"settings": {"outer": outer, "sigma": sigma}, "records": records}


def _draw(random: np.random.Generator, width: int, sigma: float, power: float) -> NDArray[np.float64]:
    """(inputs, 4): a(N, σ), the largest change of an output, both ratios."""
    inputs = random.standard_normal((ENTRIES, INPUTS))
    inputs /= np.linalg.norm(inputs, axis=0)
    read = np.maximum(random.standard_normal((width, ENTRIES)) / math.sqrt(width) @ inputs, 0)
    last = random.standard_normal((OUTPUTS, width)) / width**power
    left = np.linalg.qr(random.standard_normal((width, len(STRENGTHS))))[0]
    right = np.linalg.svd(read, full_matrices=False)[0][:, : len(STRENGTHS)]
    kept = left @ (STRENGTHS[:, None] * (right.T @ read))
    noise = sigma / math.sqrt(width) * random.standard_normal((width, width)) @ read
    change = last @ (np.maximum(kept + noise, 0) - np.maximum(kept, 0))
    length = np.linalg.norm(read, axis=0)
    scale = 2 * sigma * math.sqrt(math.log(2 * width) / width)
    return np.stack(
        (
            scale * np.abs(last).sum(1).max() * length,
            np.abs(change).max(0),
            np.abs(noise).max(0) / length,
            np.linalg.norm(noise, axis=0) / np.linalg.norm(kept + noise, axis=0),
        ),
        axis=1,
    )


def table(arms: Arms) -> Table:
    """Both ends of the width."""
    rows = [
        [
            *("last layer", "σ", "N", "a(N, σ)", "largest change of an output", "farther than a(N, σ)"),
            *("‖Rν‖_∞/‖ν‖", "σ√(2 ln N / N)", "‖Rν‖₂/‖Wν‖₂"),
        ]
    ]
    for arm in arms.values():
        outer, sigma = arm["settings"]["outer"], arm["settings"]["sigma"]
        for record in arm["records"]:
            if (width := record["width"]) in (50, 100, 1000, 5000):
                over = f"{record['over'] * record['asked']:.0f} of {record['asked']}"
                limit = sigma * math.sqrt(2 * math.log(width) / width)
                row = [outer, f"{sigma:g}", f"{width}", f"{record['bound']:.3g}", f"{record['change']:.3g}", over]
                rows.append([*row, f"{record['largest']:.3f}", f"{limit:.3f}", f"{record['share']:.3f}"])
    return rows


def draw(arms: Arms) -> Figure:
    """a(N, σ) with what happens, for both last layers, and the two ratios."""
    result, panels = figure(2, rows=2, height=3.7)
    for arm in arms.values():
        outer, sigma = arm["settings"]["outer"], arm["settings"]["sigma"]
        color = COLORS[SIGMAS.index(sigma)]
        widths = np.array([record["width"] for record in arm["records"]])
        of = {key: [record[key] for record in arm["records"]] for key in KEYS}
        axes = panels[list(OUTER).index(outer)]
        axes.plot(widths, of["bound"], color=color, label=f"σ = {sigma:g}")
        axes.plot(widths, of["change"], "o", ms=4, color=color)
        axes.set(title=f"Last layer N(0, {outer}): a(N, σ), dots: what happens", ylabel="change of an output")
        if outer == next(iter(OUTER)):
            panels[2].plot(widths, of["largest"], "o", ms=4, color=color, label=f"σ = {sigma:g}")
            panels[2].plot(widths, sigma * np.sqrt(2 * np.log(widths) / widths), color=color, lw=1)
            panels[3].plot(widths, of["share"], "o-", ms=4, color=color, label=f"σ = {sigma:g}")
    panels[2].set(title="‖Rν‖_∞ / ‖ν‖, lines: σ√(2 ln N / N)", ylabel="ratio", yscale="log")
    panels[3].set(title="‖Rν‖₂ / ‖Wν‖₂", ylabel="ratio", ylim=(0, 1.05))
    for axes in panels:
        axes.set(xlabel="width N", xscale="log")
        axes.legend(frameon=False, fontsize=8)
    for axes in panels[:2]:
        axes.set(yscale="log", ylim=(5e-5, 20))
    panels[2].yaxis.set_minor_formatter("")
    return result


EXAMPLE = Example("noise_over_width", __doc__ or "", measure, table, draw)

if __name__ == "__main__":
    EXAMPLE.main()
