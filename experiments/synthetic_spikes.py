"""SJK23 3.3: a known signal in noise, W = R + S, and how the edge depends on α and β.

R is a standard normal 1000×1000 matrix and S_ij = tan(π/2 + 1/(j+1)) + cos(i)·ln(i+j+1) + sin(j)·cos(i/j),
counted from 1. α is the share of the ranks left out at either end of the fit, β the chance that noise alone
passes the edge. The paper finds λ₊ ≈ 4 and a handful of spikes. What the fit cannot know, we do: only those
singular values of S that exceed √1000 stick out of the noise (BGN12). Ours is `midpoint`; `paper` is the
published formula.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from published import COLORS, INK, Arm, Arms, Example, Scale, Table, figure

from rmt_compress.spectrum import QuantileRule, fit_bulk

# Of noise `spiked` says the same as `midpoint`.
RULES: tuple[QuantileRule, ...] = ("midpoint", "paper")

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZES = {"small": 1000, "full": 1000, "quick": 120}
SEEDS = {"small": 10, "full": 100, "quick": 2}
ALPHAS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45)
BETAS = (0.01, 0.05, 0.1, 0.3, 0.5, 0.7, 0.9)


def signal(size: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The matrix S."""
    i, j = np.meshgrid(np.arange(1.0, size + 1), np.arange(1.0, size + 1), indexing="ij")
    values = np.tan(np.pi / 2 + 1 / (j + 1)) + np.cos(i) * np.log(i + j + 1) + np.sin(j) * np.cos(i / j)
    return np.asarray(values, dtype=np.float64)


def measure(scale: Scale) -> Iterator[tuple[str, Arm]]:
    """λ₊, spikes and fit error over the grid of α and β, for each rule."""
    size = SIZES[scale]
    known = signal(size)
    visible = int((np.linalg.svd(known, compute_uv=False) > np.sqrt(size)).sum())
    spectra = []
    for seed in range(SEEDS[scale]):
        noise = np.random.default_rng([33, seed]).standard_normal((size, size))
        spectra.append(np.linalg.svd(noise + known, compute_uv=False) ** 2 / size)
    for rule in RULES:
        records = []
        for alpha in ALPHAS:
            for beta in BETAS:
                fits = [fit_bulk(each, size, alpha=alpha, beta=beta, quantiles=rule) for each in spectra]
                measured = {key: [getattr(fit, key) for fit in fits] for key in ("lambda_plus", "spikes", "gof")}
                records.append({"alpha": alpha, "beta": beta, **measured})
        settings = {"size": size, "seeds": SEEDS[scale], "visible": visible}
        yield rule, {"settings": settings, "records": records}


def table(arms: Arms) -> Table:
    """A few places of the grid."""
    rows = [["", "α", "β", "λ₊", "spikes", "fit error"]]
    rows.append(["SJK23", "0.25", "not said", "≈ 4", "a handful", ""])
    visible = arms["midpoint"]["settings"]["visible"]
    rows.append(["singular values of S above √N", "", "", "", str(visible), ""])
    for rule, arm in arms.items():
        for alpha, beta in ((0.25, 0.01), (0.25, 0.1), (0.25, 0.5), (0.25, 0.9), (0.05, 0.1), (0.45, 0.1)):
            at = _at(arm, alpha, beta)
            edge = f"{np.mean(at['lambda_plus']):.3f} ± {np.std(at['lambda_plus'], ddof=1):.3f}"
            spikes = f"{np.mean(at['spikes']):.1f} ({min(at['spikes'])}–{max(at['spikes'])})"
            rows.append([rule, f"{alpha}", f"{beta}", edge, spikes, f"{np.mean(at['gof']):.4f}"])
    return rows


def draw(arms: Arms) -> Figure:
    """λ₊ and spikes over α at β = 0.1, and over β at α = 0.25; bands are a standard deviation between draws."""
    result, panels = figure(2, rows=2, width=5.6, height=3.5)
    for color, (rule, arm) in zip(COLORS, arms.items(), strict=False):
        for column, (key, grid) in enumerate((("alpha", ALPHAS), ("beta", BETAS))):
            places = [_at(arm, x, 0.1) if key == "alpha" else _at(arm, 0.25, x) for x in grid]
            for row, what in enumerate(("lambda_plus", "spikes")):
                mean = np.array([np.mean(place[what]) for place in places])
                spread = np.array([np.std(place[what]) for place in places])
                axes = panels[2 * row + column]
                axes.plot(grid, mean, "o-", color=color, ms=3.5, label=rule)
                axes.fill_between(grid, mean - spread, mean + spread, color=color, alpha=0.15, lw=0)
    visible = arms["midpoint"]["settings"]["visible"]
    for index, axes in enumerate(panels):
        by_alpha = index % 2 == 0
        axes.set_xlabel("α: share of the ranks left out at either end" if by_alpha else "β: error rate asked for")
        if index < 2:
            axes.axhline(4, color=INK, lw=0.8, ls="--")
            axes.set(ylabel="edge λ₊", title=f"The edge over {'α, β = 0.1' if by_alpha else 'β, α = 0.25'}")
            axes.annotate(
                "4: the edge of infinite noise", (0.02, 4), xycoords=("axes fraction", "data"), va="bottom"
            )
        else:
            axes.axhline(visible, color=INK, lw=0.8, ls="--", label="singular values of S above √N")
            axes.set(ylabel="spikes", ylim=(0, 14))
        axes.legend(frameon=False, fontsize=8, loc="best")
    return result


def _at(arm: Arm, alpha: float, beta: float) -> dict[str, Any]:
    found: dict[str, Any] = next(each for each in arm["records"] if (each["alpha"], each["beta"]) == (alpha, beta))
    return found


EXAMPLE = Example("synthetic_spikes", __doc__ or "", measure, table, draw)

if __name__ == "__main__":
    EXAMPLE.main()
