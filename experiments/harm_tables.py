"""Table and picture of what single cuts cost and of how well rules foretell it; see harm.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from harm_rules import (
    CUTS,
    GRADES,
    LIMITS,
    RULES,
    Row,
    Table,
    balanced_error,
    grade_limits,
    graded,
    left_out,
    nested,
    share,
    spread,
)
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLORS = ("#c8553d", "#457b9d")
TITLES = {"edge": "cut at the edge", "half": "half of the rank kept", "both": "both"}
HEAD = """# What cutting one layer alone costs

Harm is the rise of the loss on samples that were not trained on, as a share of what the network has learned (the
loss of the best constant answer less the loss uncut). Asked are samples, for texts bytes. One seed;
`experiments/harm.py` says how, `harm.jsonl` has every number, `harm.png` is the picture.
"""
BETWEEN = """
## Do the weights foretell it?

Balanced errors of two questions, does the cut cost 1 % or more and does it cost 10 % or more, leaving one network
out (a coin, or always the same answer: .50), with the 95 % interval over networks drawn anew. *Chosen* chooses the
rule on the other networks as well, and is the honest figure; the best of the rows above it is too good by chance.
"""


GRADED = """
## Grades

By the only rule above whose interval stays below .50 in every column: removed energy · stable rank / p =
Σ_{i>r} s_i² / (p·s₁²), the squares of the singular values that a cut to rank r takes away, in units of the
largest's and over the number of all. Each network is graded by limits that the others gave; shares with the 95 %
interval over networks drawn anew.
"""


def markdown(rows: Sequence[Row]) -> str:
    """Networks with their harms, the errors of every rule, and what became of each grade."""
    parts = [HEAD, _networks(rows), BETWEEN]
    tables = {cut: Table.of(rows, cuts) for cut, cuts in CUTS.items()}
    heads = [f"{TITLES[cut]}, {limit:.0%}" for cut in CUTS for limit in LIMITS]
    parts += ["| rule | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for rule in RULES:
        cells = [
            _error(table, left_out(table, rule, limit), limit) for table in tables.values() for limit in LIMITS
        ]
        parts.append(f"| {rule} | " + " | ".join(cells) + " |")
    cells, calls = [], []
    for cut, table in tables.items():
        for limit in LIMITS:
            said, rules = nested(table, limit)
            cells.append(_error(table, said, limit))
            counted = sorted(((rules.count(rule), rule) for rule in set(rules)), reverse=True)
            calls.append(f"{TITLES[cut]}, {limit:.0%}: " + ", ".join(f"{rule} ({n}×)" for n, rule in counted))
    parts.append("| *chosen* | " + " | ".join(cells) + " |")
    parts.append("\nChosen: " + "; ".join(calls) + ".\n")
    parts += [GRADED, *_grades(tables)]
    return "\n".join(parts) + "\n"


def _networks(rows: Sequence[Row]) -> str:
    lines = ["| network | layers | asked | loss, uncut | constant answer | right |"]
    lines[0] += "".join(f" {TITLES[cut]}: median harm (least to most) |" for cut in ("edge", "half"))
    lines.append("|---" * 8 + "|")
    for uncut in rows:
        if uncut["cut"] != "none":
            continue
        right = "–" if uncut["score"] is None else f"{uncut['score']:.1%}"
        cells, count = [], 0
        for cut in ("edge", "half"):
            table = Table.of([uncut, *(row for row in rows if row["network"] == uncut["network"])], (cut,))
            count = table.harm.size
            if not count:
                cells.append("–")  # of a run that is not done
                continue
            low, middle, high = np.quantile(table.harm, (0, 0.5, 1))
            cells.append(f"{middle:.1%} ({low:.1%} to {high:.1%})" if count > 1 else f"{middle:.1%}")
        lines.append(
            f"| {uncut['network']}: {uncut['about']} | {count} | {uncut['samples']:,} | {uncut['loss']:.3f} "
            f"| {uncut['guess']:.3f} | {right} | {' | '.join(cells)} |"
        )
    return "\n".join(lines)


def _error(table: Table, said: NDArray[np.bool_], limit: float) -> str:
    low, high = spread(table, said, limit)
    return f"{_everywhere(table, said, limit):.2f} ({low:.2f}–{high:.2f})"


def _everywhere(table: Table, said: NDArray[np.bool_], limit: float) -> float:
    return balanced_error(table, said, limit, np.ones(table.harm.size, dtype=bool))


def _grades(tables: dict[str, Table]) -> list[str]:
    table = tables["both"]
    everything = np.ones(table.harm.size, dtype=bool)
    low, high = grade_limits(table, everything)
    lines = [f"Made on all networks the limits are {low:.4f} and {high:.4f}.\n"]
    lines += ["| cuts | called | how many | cost 1 % or more | cost 10 % or more |", "|---|---|---|---|---|"]
    grades = graded(table)
    for cut, cuts in CUTS.items():
        part = np.isin(table.cuts, cuts)
        for number, name in enumerate(GRADES):
            mine = np.where(part, grades, -1)
            count = int((mine == number).sum())
            shares = [share(table, mine, number, limit) if count else (0.0, 0.0, 0.0) for limit in LIMITS]
            cells = [f"{each:.0%} ({least:.0%}–{most:.0%})" if count else "–" for each, least, most in shares]
            lines.append(f"| {TITLES[cut]} | {name} | {count} | " + " | ".join(cells) + " |")
        cells = [f"{(table.harm[part] >= limit).mean():.0%}" for limit in LIMITS]
        lines.append(f"| {TITLES[cut]} | all | {part.sum()} | " + " | ".join(cells) + " |")
    return lines


def draw(rows: Sequence[Row]) -> Figure:
    """Harms by network; errors by rule."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 7), layout="constrained")
    harms, errors = figure.subplots(1, 2)
    names = list(dict.fromkeys(row["network"] for row in rows))
    for shift, (cut, color) in enumerate(zip(("edge", "half"), COLORS, strict=True)):
        table = Table.of(rows, (cut,))
        places = np.array([names.index(name) for name in table.networks]) + 0.3 * (shift - 0.5)
        shown = np.maximum(table.harm, 1e-5)
        harms.plot(shown, places, "o", color=color, ms=4, alpha=0.6, label=TITLES[cut])
    harms.set(title="Harm of one layer's cut, a dot a layer", xscale="log", xlabel="share of what was learned")
    harms.set_xlim(left=0.7e-5)
    for limit in LIMITS:
        harms.axvline(limit, color="grey", lw=0.8, ls=":")
    harms.set_yticks(range(len(names)), names)
    harms.invert_yaxis()
    harms.legend(frameon=False, loc="upper right", fontsize=8)
    table = Table.of(rows, CUTS["both"])
    for shift, (limit, color) in enumerate(zip(LIMITS, COLORS, strict=True)):
        for place, rule in enumerate(RULES):
            said = left_out(table, rule, limit)
            at = place + 0.3 * (shift - 0.5)
            errors.plot(spread(table, said, limit), (at, at), color=color, lw=1.5, alpha=0.6)
            label = f"{limit:.0%} or more" if not place else None
            errors.plot(_everywhere(table, said, limit), at, "o", color=color, ms=4, label=label)
    errors.axvline(0.5, color="grey", lw=0.8, ls=":")
    errors.set_yticks(range(len(RULES)), RULES, fontsize=8)
    errors.invert_yaxis()
    errors.set(
        title="Is a cut harmful? Both kinds of cut", xlabel="balanced error, one network left out", xlim=(0, 1)
    )
    errors.legend(frameon=False, fontsize=8)
    return figure
