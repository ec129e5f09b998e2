"""Equal time (BSSZ24 §4.2.1): does training with cuts reach more in the seconds that training without them takes?

    python experiments/equal_time.py        # table and picture of what full_scale.py has measured

Of every pair of runs in experiments/data/reproduction/full/lines.jsonl with one beginning, the seconds of training,
analysis and cutting are added up (those of evaluation are not). The time is that of the run without cuts, and half
of it; each run stands there with the last epoch that it had finished. Eight runs shared one GPU, so a second of one
is not quite one of another: differences of a few per cent in time mean nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

from published import COLORS, FOLDER, GREY, figure

from rmt_compress.outputs import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Line = dict[str, Any]
FULL = FOLDER / "full"
PARTS = (0.5, 1.0)
LABELS = {
    "bssz24_mnist | final ReLU": "BSSZ24, final ReLU",
    "bssz24_mnist | no final ReLU": "BSSZ24, no final ReLU",
    "initializations | normal": "20 epochs, normal",
    "initializations | he": "20 epochs, He",
    "initializations | xavier": "20 epochs, Xavier",
    "initializations | sparse": "20 epochs, sparse",
    "sjk23_deep": "SJK23 4.6",
    "sjk23_splitting": "SJK23 4.3",
}


class At(NamedTuple):
    """A run at a moment: what it had reached by then."""

    epoch: int
    accuracy: float
    share: float


class Pair(NamedTuple):
    """A run without cuts and one with cuts that began alike."""

    label: str
    seed: int
    normal: Line
    pruned: Line


def pairs(lines: list[Line]) -> Iterator[Pair]:
    """All that there are; of two ways to cut in SJK23 4.3 the one that recombines, as both gave one network."""
    found = {(line["example"], line["arm"], line["seed"]): line for line in lines if line["finished"]}
    for (example, arm, seed), line in sorted(found.items()):
        if arm.split(", ")[-1] != "normal":
            continue
        start = arm.removesuffix("normal").removesuffix(", ")
        other = found.get(
            (example, "recombine" if example == "sjk23_splitting" else f"{start}, pruned".lstrip(", "), seed)
        )
        if other is not None:
            yield Pair(LABELS[f"{example} | {start}" if start else example], seed, line, other)


def course(line: Line) -> list[tuple[float, Line]]:
    """Seconds of training, analysis and cutting until the end of each event, and the event."""
    spent, found = 0.0, []
    for event in line["run"]["events"]:
        spent += event["seconds"]["train"] + event["seconds"]["analyze"]
        found.append((spent, event))
    return found


def at(line: Line, seconds: float) -> At:
    """What a run has reached after so many seconds."""
    _, event = [each for each in course(line) if each[0] <= seconds][-1]
    return At(event["epoch"], event["test_accuracy"], event["parameters"] / line["run"]["events"][0]["parameters"])


def table(lines: list[Line]) -> str:
    """A row for every kind of pair, means over its seeds."""
    head = ["", "seeds", "time, of training without cuts", "epochs without, with", "accuracy without, with"]
    rows = [[*head, "points, by seed", "parameters with cuts"]]
    found = list(pairs(lines))
    for label in dict.fromkeys(pair.label for pair in found):
        mine = [pair for pair in found if pair.label == label]
        for part in PARTS:
            times = [part * course(pair.normal)[-1][0] for pair in mine]
            without = [at(pair.normal, time) for pair, time in zip(mine, times, strict=True)]
            cut = [at(pair.pruned, time) for pair, time in zip(mine, times, strict=True)]
            points = [100 * (b.accuracy - a.accuracy) for a, b in zip(without, cut, strict=True)]
            both = [" / ".join(f"{fmean(each.epoch for each in side):.0f}" for side in (without, cut))]
            both.append(
                " / ".join(f"{100 * fmean(each.accuracy for each in side):.2f} %" for side in (without, cut))
            )
            each = ", ".join(f"{point:+.2f}" for point in points)
            left = f"{fmean(each.share for each in cut):.1%}"
            rows.append([label, str(len(mine)), f"{part:.0%}, {fmean(times):.0f} s", *both, each, left])
    lines_ = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines_) + "\n"


def markdown(lines: list[Line]) -> str:
    """The page."""
    title, _, rest = (__doc__ or "").partition("\n")
    text = rest.split("\n\n", 1)[1].strip()
    return f"# {title}\n\n{text}\n\n{table(lines)}\n![accuracy over the seconds](equal_time.png)\n"


def draw(lines: list[Line]) -> Figure:
    """Accuracy over the seconds, where no class can be lost."""
    labels = ["BSSZ24, no final ReLU", "20 epochs, He", "SJK23 4.3", "SJK23 4.6"]
    result, panels = figure(len(labels), width=4.2)
    for axes, label in zip(panels, labels, strict=True):
        mine = [pair for pair in pairs(lines) if pair.label == label]
        for index, pair in enumerate(mine):
            for side, line, color in (("not cut", pair.normal, GREY), ("cut", pair.pruned, COLORS[0])):
                x, y = zip(*((spent, 100 * event["test_accuracy"]) for spent, event in course(line)), strict=True)
                axes.plot(x, y, color=color, lw=1.3, label=side if index == 0 else None)
        axes.set(title=label, xlabel="seconds of training, analysis and cutting", ylim=(97, 99))
    panels[0].set_ylabel("test accuracy, %")
    panels[0].legend(frameon=False, loc="lower right")
    return result


def main(folder: Path = FULL) -> None:
    """Write both."""
    lines = [json.loads(line) for line in (folder / "lines.jsonl").read_text(encoding="utf-8").splitlines()]
    with replacing(folder / "equal_time.png") as path:
        draw(lines).savefig(path, dpi=130)
    with replacing(folder / "equal_time.md") as path:
        path.write_text(markdown(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
