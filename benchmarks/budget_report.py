"""Tables and picture of what budget.py has measured."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = dict[str, Any]
OURS, ALONE, OWN = "rmt-compress, portfolio", "rmt-compress, one rule", "rmt-compress, without data"
METHODS = (
    OURS,
    ALONE,
    OWN,
    "SVD-LLM",
    "ASVD",
    "ASVD, sensitivity",
    "BALF",
    "SVD, energy share",
    "SVD, equal share",
)
STEPS = ("moments", "plan", "cut")


def joined(record: Row, others: list[Row]) -> Row:
    """The rows of other runs, in the place of the same ones of `record`, and when those were made."""
    for other in others:
        taken = {which(row) for row in other["rows"]}
        rows = [row for row in record["rows"] if which(row) not in taken] + other["rows"]
        about = "; ".join(line for line in other["machine"] if line.startswith(("date", "load")))
        methods: dict[tuple[str, str], list[int]] = {}
        for row in other["rows"]:
            if row["method"] != "uncut":
                seeds = methods.setdefault((row["network"], row["method"]), [])
                seeds += [row["seed"]] * (row["seed"] not in seeds)
        what = "; ".join(f"{name}, {method}, seeds {seeds}" for (name, method), seeds in methods.items())
        record = {
            "machine": [*record["machine"], f"another run: {about}: {what}".replace("[", "").replace("]", "")],
            "networks": record["networks"] | other["networks"],
            "rows": sorted(rows, key=lambda row: int(row["seed"])),
        }
    return record


def which(row: Row) -> tuple[str, int, str, float]:
    """What a row is of: network, seed, method and size."""
    return row["network"], row["seed"], row["method"], row["keep"]


def markdown(record: Row) -> str:
    """The tables: medians over the seeds, and how far they lie apart."""
    return "\n".join(_parts(record))


def _parts(record: Row) -> Iterator[str]:
    yield "# Benchmark of cuts to a size\n"
    yield from (f"- {line}" for line in record["machine"])
    yield "\nMedians over the seeds of calibration, in brackets the range; shares are of the weights of the layers"
    yield "that are cut; – where a method does not go so far, or has not been run. No network was retrained. Peers"
    yield "are written anew from their papers (benchmarks/budget_peers.py).\n"
    for name, about in record["networks"].items():
        rows = [row for row in record["rows"] if row["network"] == name]
        if all(row["method"] == "uncut" for row in rows):
            continue
        uncut = next(row for row in rows if row["method"] == "uncut")
        seeds = sorted({row["seed"] for row in rows})
        yield f"## {name}\n"
        asked = f"{about['samples']}; {about['unit']}, uncut {uncut['score']:.3f}."
        yield f"{asked} Seeds {', '.join(map(str, seeds))}.\n"
        keeps = sorted({row["keep"] for row in rows if row["method"] != "uncut"}, reverse=True)
        columns = [f"keep {keep:g}" for keep in keeps]
        every = f"all {uncut['samples']:,} test samples, uncut {uncut['whole']:.3f}" if "whole" in uncut else ""
        titles = (("score", "as cut"), ("renewed", "batch-norm statistics renewed"), ("whole", every))
        for kind, title in titles:
            if any(kind in row for row in rows if row["method"] != "uncut"):
                yield _line(title, columns)
                yield "|---|" + "---:|" * len(columns)
                for method in METHODS:
                    cells = [_scores(_of(rows, method, keep), kind) for keep in keeps]
                    if any(cell != "–" for cell in cells):
                        yield _line(method, cells)
                yield ""
        yield "Processor seconds at the largest share, decompositions and evaluations as parts of the plan.\n"
        yield _line("", [*STEPS, "all"])
        yield "|---|" + "---:|" * (len(STEPS) + 1)
        for method in METHODS:
            if found := [row["seconds"] for row in _of(rows, method, keeps[0])]:
                medians = [statistics.median(each.get(step, [0, 0])[1] for each in found) for step in STEPS]
                yield _line(method, [f"{seconds:.1f}" for seconds in (*medians, sum(medians))])
        yield ""
        rules = [f"{keep:g}: {', '.join(row['rule'] for row in _of(rows, OURS, keep))}" for keep in keeps]
        if any(_of(rows, OURS, keep) for keep in keeps):
            yield f"The portfolio chose, seed by seed, at {'; at '.join(rules)}.\n"


def _of(rows: list[Row], method: str, keep: float) -> list[Row]:
    """The rows of a method at a size, those left out that are larger: ASVD's smallest share of a layer is .1."""
    return [
        row for row in rows if row["method"] == method and row["keep"] == keep and row.get("left", 0) <= keep + 1e-6
    ]


def _line(first: str, cells: list[str] | tuple[str, ...]) -> str:
    return f"| {first} | {' | '.join(cells)} |"


def _scores(rows: list[Row], kind: str) -> str:
    known = [row[kind] for row in rows if kind in row]
    if not known:
        return "–"
    apart = f" ({min(known):.3f}–{max(known):.3f})" if max(known) - min(known) >= 0.0005 else ""
    return f"{statistics.median(known):.3f}{apart}"


def draw(record: Row, path: Path) -> None:
    """Score against size, a panel for each network; statistics renewed where there are any."""
    from matplotlib.figure import Figure

    names = list(record["networks"])
    figure = Figure(figsize=(4.6 * len(names), 4.4), layout="constrained")
    for place, name in enumerate(names):
        axes = figure.add_subplot(1, len(names), place + 1)
        _panel(axes, name, record["networks"][name]["unit"], [r for r in record["rows"] if r["network"] == name])
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=110)


COLORS = ("#1d3557", "#457b9d", "#2a9d8f", "#c8553d", "#d4a24c", "#b08968", "#8d6a9f", "#6c757d", "#adb5bd")


def _best_known(row: Row) -> float:
    """With statistics renewed, where there are any."""
    score: float = row["renewed"] if "renewed" in row else row["score"]
    return score


def _panel(axes: Axes, name: str, unit: str, rows: list[Row]) -> None:
    for method, color in zip(METHODS, COLORS, strict=True):
        keeps = sorted({row["keep"] for row in rows if _of(rows, method, row["keep"])})
        scores = [statistics.median([_best_known(row) for row in _of(rows, method, keep)]) for keep in keeps]
        own = method in (OURS, ALONE, OWN)
        axes.plot(
            [100 * keep for keep in keeps],
            scores,
            label=method,
            color=color,
            marker="o" if own else "s",
            markersize=5 if own else 3.5,
            linewidth=2 if own else 1,
            zorder=3 if own else 2,
        )
    uncut = next(row["score"] for row in rows if row["method"] == "uncut")
    axes.axhline(uncut, color="#6c757d", linewidth=0.8, linestyle=":")
    axes.annotate("uncut", (1, uncut), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8)
    renewed = ", statistics renewed" if any("renewed" in row for row in rows) else ""
    axes.set(title=name, xlabel="weights left of the layers that are cut (%)", ylabel=unit + renewed)
    axes.grid(color="#e9ecef", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
