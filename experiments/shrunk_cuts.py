"""Whether shrinking the singular values that a cut keeps helps or harms: scores at the same ranks.

    python experiments/shrunk_cuts.py      # some minutes on one core

Every layer is cut at the edge, by `midpoint` and by `spiked`, whatever its fit error. Asked: the first 1,000 test
images, accuracy; or 8 stretches of 512 bytes spread over the test text, nats a byte. Nothing in it is random.

Writes experiments/data/shrunk_cuts.json and the table to experiments/data/shrunk_cuts.md.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from real_networks import SHARED, SUBJECTS, Subject

import rmt_compress
from rmt_compress.planning.settings import Shrink

DATA = Path(__file__).parent / "data"
LOSSES: tuple[Shrink, ...] = ("none", "frobenius", "operator", "nuclear")
RULES: tuple[Literal["midpoint", "spiked"], ...] = ("midpoint", "spiked")
IMAGES, STRETCHES = 1000, 8


def measure(name: str, subject: Subject) -> list[dict[str, Any]]:
    """A row for each rule: the uncut score and that of each cut."""
    questions = subject.asked(STRETCHES if subject.unit.startswith("nats") else IMAGES)
    uncut = questions.score(subject.model)
    rows = []
    for rule in RULES:
        analysis = rmt_compress.analyze(subject.model, gof=1.0, quantiles=rule, include=subject.layers)
        row: dict[str, Any] = {"network": name, "quantiles": rule, "unit": subject.unit, "uncut": uncut}
        for loss in LOSSES:
            plan = rmt_compress.make_plan(analysis, shrink=loss)
            row["ranks"] = sum(decision.rank or 0 for decision in plan.layers)
            row[loss] = questions.score(rmt_compress.compress(subject.model, plan, layout="dense"))
        print(row, flush=True)
        rows.append(row)
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table."""
    lines = [
        "| network | ranks by | ranks in all | uncut | none | frobenius | operator | nuclear |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        scores = " | ".join(f"{row[key]:.3f}" for key in ("uncut", *LOSSES))
        lines.append(f"| {row['network']} ({row['unit']}) | {row['quantiles']} | {row['ranks']} | {scores} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write."""
    rows = [row for name, subject in SUBJECTS.items() for row in measure(name, subject(SHARED))]
    (DATA / "shrunk_cuts.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    (DATA / "shrunk_cuts.md").write_text(markdown(rows), encoding="utf-8")
    print(markdown(rows))


if __name__ == "__main__":
    main()
