"""BSSZ24 figure 16: how much of a signal's direction a spike still has, against BGN12.

W = R + θ·u·vᵀ, R of independent N(0, 1/n) entries, p × n with c = p/n, u and v random unit vectors. Asked are the
squared cosines of u and v with the first singular vectors of W, over the strength θ, and the singular value itself;
the curves are the limits of large matrices (Benaych-Georges and Nadakuditi 2012), 0 up to θ = c^¼. The paper draws
the same for its own matrices; what holds here in numbers is the distance from the curve, which falls with the size.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from published import COLORS, Arm, Arms, Example, Scale, Table, figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZES = {"small": ((100, 100), (400, 400), (100, 400)), "quick": ((40, 40),)}
SIZES["full"] = (*SIZES["small"], (2000, 2000), (500, 2000))
DRAWS = {"small": 30, "full": 30, "quick": 4}
STRENGTHS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0)


def limits(theta: float, c: float) -> tuple[float, float, float]:
    """Squared cosines of the short and the long side, and the singular value."""
    if theta <= c**0.25:
        return 0.0, 0.0, 1 + np.sqrt(c)
    square = theta**2
    short = 1 - c * (1 + square) / (square * (square + c))
    long = 1 - (c + square) / (square * (square + 1))
    return float(short), float(long), float(np.sqrt((1 + square) * (c + square) / square))


def measure(scale: Scale) -> Iterator[tuple[str, Arm]]:
    """Means and standard deviations over draws, for every size and strength."""
    for p, n in SIZES[scale]:
        records = []
        for theta in STRENGTHS:
            random = np.random.default_rng([16, p, n, round(100 * theta)])
            found = np.array([_draw(random, p, n, theta) for _ in range(DRAWS[scale])])
            records.append({"theta": theta, "mean": found.mean(0).tolist(), "std": found.std(0).tolist()})
        yield f"{p} × {n}", {"settings": {"p": p, "n": n, "draws": DRAWS[scale]}, "records": records}


def _draw(random: np.random.Generator, p: int, n: int, theta: float) -> tuple[float, float, float]:
    u, v = (side / np.linalg.norm(side) for side in (random.standard_normal(p), random.standard_normal(n)))
    noisy = random.standard_normal((p, n)) / np.sqrt(n) + theta * np.outer(u, v)
    # Of the smaller Gram matrix: its last vector, and what the matrix makes of it.
    values, vectors = np.linalg.eigh(noisy @ noisy.T)
    left, value = vectors[:, -1], float(np.sqrt(values[-1]))
    right = noisy.T @ left / value
    return float((left @ u) ** 2), float((right @ v) ** 2), value


def table(arms: Arms) -> Table:
    """A few strengths."""
    rows = [["size", "θ", "short side", "limit", "long side", "limit", "singular value", "limit"]]
    for name, arm in arms.items():
        c = arm["settings"]["p"] / arm["settings"]["n"]
        for record in arm["records"]:
            if record["theta"] in (0.5, 1.0, 1.5, 2.0, 4.0):
                cells = zip(record["mean"], record["std"], limits(record["theta"], c), strict=True)
                shown = [text for mean, std, limit in cells for text in (f"{mean:.3f} ± {std:.3f}", f"{limit:.3f}")]
                rows.append([name, f"{record['theta']}", *shown])
    return rows


def draw(arms: Arms) -> Figure:
    """Both sides over the strength."""
    result, panels = figure(2, rows=1, width=5.6, height=3.8)
    strengths = np.linspace(0.2, 5, 300)
    drawn: dict[float, str] = {}
    for color, (name, arm) in zip(COLORS, arms.items(), strict=False):
        c = arm["settings"]["p"] / arm["settings"]["n"]
        x = [record["theta"] for record in arm["records"]]
        for side, axes in enumerate(panels):
            mean, std = (np.array([record[key][side] for record in arm["records"]]) for key in ("mean", "std"))
            axes.errorbar(x, mean, std, fmt="o", ms=3.5, color=color, lw=0.8, label=name)
            if c not in drawn:
                axes.plot(
                    strengths, [limits(t, c)[side] for t in strengths], color=color, lw=1, label=f"limit, c = {c:g}"
                )
        drawn[c] = name
    for axes, called in zip(panels, ("short", "long"), strict=True):
        axes.set(
            xlabel="strength θ of the signal",
            ylabel="squared cosine",
            title=f"Singular vector of the {called} side",
        )
        axes.legend(frameon=False, fontsize=8, loc="lower right")
    return result


EXAMPLE = Example("overlaps", __doc__ or "", measure, table, draw)

if __name__ == "__main__":
    EXAMPLE.main()
