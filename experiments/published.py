"""What the reproductions of published examples share: how they are run, and where their numbers go.

Every example is a script of its own beside this one:

    python experiments/bssz24_mnist.py                  # scaled down, minutes; what docs/reproduction.md shows
    python experiments/bssz24_mnist.py --scale full     # the published sizes and epochs, as far as they are known
    python experiments/bssz24_mnist.py --quick --out .  # seconds, on the embedded digits: does it run at all?
    python experiments/bssz24_mnist.py --draw           # table and picture again from the numbers in NAME.json

Each writes NAME.json, NAME.md and NAME.png to experiments/data/reproduction; NAME.json grows with every arm that is
done, so that what a long run has measured is not lost when it is broken off. `full_scale.py` runs the single seeds
of all of them several at a time on one GPU, a line a seed, to experiments/data/reproduction/full.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import torch

from rmt_compress.outputs import replacing
from rmt_compress.training import CycleSettings, TrainingSettings, finetune
from rmt_compress.training.event_log import Event
from rmt_compress.training.finetuning import Listeners
from rmt_compress.wording import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Scale = Literal["small", "full", "quick"]
Arm = dict[str, Any]
Arms = dict[str, Arm]
Table = list[list[str]]
"""Rows of cells, the heading first."""
Tell = Callable[[Event], None]
"""Is told what happens as it does."""

FOLDER = Path(__file__).parent / "data" / "reproduction"
INK, GREY = "#1d3557", "#6c757d"
COLORS = ("#c8553d", "#457b9d", "#8a9a5b", "#8d6a9f", "#d4a24c")
_EVENT = (
    *("event", "epoch", "train_loss", "learning_rate", "test_accuracy", "test_loss", "dead_outputs"),
    *("never_predicted", "parameters", "nonzeros", "keep_bulk", "threshold", "seconds"),
)
_LAYER = ("name", "action", "rank")


class Work(Protocol):
    """One arm, a seed at a time."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """One run each."""

    def settings(self) -> dict[str, Any]:
        """All that determines the runs, as plain data."""

    def one(self, seed: int, tell: Tell) -> dict[str, Any]:
        """A run, as plain data; `tell` is given its events as they come, in the form they have in it."""


@dataclass(frozen=True)
class Recipe:
    """All that determines the runs of one arm.

    Attributes:
        arch: the network, as for ``--arch``; empty for that of `source`.
        data: as for ``--data``.
        training: how it is trained.
        cycle: how it is cut; None for the plain training that the others are compared with.
        seeds: one run each.
        samples: training samples, spread evenly over the set; None for all.
        source: a checkpoint to begin with, relative to the repository; None to begin afresh.
    """

    arch: str
    data: str
    training: TrainingSettings
    cycle: CycleSettings | None = None
    seeds: tuple[int, ...] = (0,)
    samples: int | None = None
    source: str | None = None

    def plain(self) -> Recipe:
        """The same training without any cut."""
        return replace(self, cycle=None)

    def trained(self, **changes: Any) -> Recipe:
        """The same with other settings of training."""
        return replace(self, training=replace(self.training, **changes))

    def on_digits(self, arch: str, *, seeds: tuple[int, ...] | None = None, **changes: Any) -> Recipe:
        """The same on 300 of the embedded digits in batches of 32, with other settings of training."""
        small = replace(self, arch=arch, data="digits", samples=300, source=None, seeds=seeds or self.seeds)
        return small.trained(**{"batch_size": 32, **changes})

    def settings(self) -> dict[str, Any]:
        """All of it as plain data."""
        return {**asdict(self), "cycle": self.cycle and self.cycle.plain()}

    def one(self, seed: int, tell: Tell, keep: Path | None = None) -> dict[str, Any]:
        """See `Work`; the network is written to `keep`, if that is given."""
        with tempfile.TemporaryDirectory() as folder:
            done = finetune(
                None if self.source is None else Path(__file__).parents[1] / self.source,
                keep or Path(folder) / "network.safetensors",
                data=self.data,
                arch=self.arch or None,
                training=self.training,
                cycle=self.cycle,
                seeds=(seed,),
                samples=self.samples,
                resumable=False,
                force=True,
                listeners=Listeners(event=lambda event: tell(_slim(event))),
            )
        return {"seed": seed, "events": [_slim(event) for event in done.runs[0].events]}


def arm_of(work: Work, tell: Tell | None = None) -> Arm:
    """All runs of an arm, one after the other."""
    return {"settings": work.settings(), "runs": [work.one(seed, tell or tell_all) for seed in work.seeds]}


def measuring(works: Callable[[Scale], dict[str, Work]]) -> Callable[[Scale], Iterator[tuple[str, Arm]]]:
    """What `Example` measures, where arms have nothing to do with each other."""

    def measure(scale: Scale) -> Iterator[tuple[str, Arm]]:
        for name, work in works(scale).items():
            yield name, arm_of(work)

    return measure


@dataclass
class Example:
    """One published example.

    Attributes:
        name: of its files.
        text: what it is about: the script's own description.
        measure: yields its arms by name, one after the other.
        table: published and measured numbers side by side.
        draw: the picture.
        works: the same arms as `measure` yields, each to be run a seed at a time; None where that cannot be.
    """

    name: str
    text: str
    measure: Callable[[Scale], Iterator[tuple[str, Arm]]]
    table: Callable[[Arms], Table]
    draw: Callable[[Arms], Figure]
    works: Callable[[Scale], dict[str, Work]] | None = None
    arms: Arms = field(default_factory=dict)

    def main(self, arguments: Sequence[str] | None = None) -> None:
        """Run as the command line says."""
        parser = argparse.ArgumentParser(
            description=self.text, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        scales = [scale for scale in get_args(Scale) if scale != "quick"]
        parser.add_argument("--scale", choices=scales, default="small", help="default: small")
        parser.add_argument("--quick", action="store_true", help="seconds, on embedded data; needs --out")
        parser.add_argument("--draw", action="store_true", help="table and picture from the numbers there are")
        parser.add_argument("--out", type=Path, help="another folder than experiments/data/reproduction")
        asked = parser.parse_args(arguments)
        if asked.quick and asked.out is None:
            parser.error("--quick would overwrite the results that are committed: add --out")
        folder: Path = asked.out or FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{self.name}.json"
        if not asked.draw:
            self._measure("quick" if asked.quick else asked.scale, file)
        self.show(json.loads(file.read_text(encoding="utf-8")), file)

    def show(self, numbers: dict[str, Any], file: Path) -> None:
        """Table and picture beside a NAME.json."""
        with replacing(file.with_suffix(".png")) as path:
            self.draw(numbers["arms"]).savefig(path, dpi=130)
        with replacing(file.with_suffix(".md")) as path:
            path.write_text(self.markdown(numbers), encoding="utf-8")

    def _measure(self, scale: Scale, file: Path) -> None:
        begun = time.perf_counter()
        for name, arm in self.measure(scale):
            self.arms[name] = arm
            seconds = round(time.perf_counter() - begun, 1)
            head = {"name": self.name, "scale": scale, "seconds": seconds, "threads": torch.get_num_threads()}
            numbers = {**head, "torch": torch.__version__, "arms": self.arms}
            write_numbers(numbers, file)

    def markdown(self, numbers: dict[str, Any]) -> str:
        """The page with the table, from what NAME.json holds."""
        heading, *rows = self.table(numbers["arms"])
        lines = [heading, ["---"] * len(heading), *rows]
        table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
        title, _, rest = self.text.partition("\n")
        if numbers["scale"] == "full" and all("training" in arm["settings"] for arm in numbers["arms"].values()):
            rest = "\n".join(dict.fromkeys(_said(arm["settings"]) for arm in numbers["arms"].values()))
        ran = (
            f"Ran at scale `{numbers['scale']}` in {numbers['seconds'] / 60:.1f} minutes, torch {numbers['torch']}"
        )
        ran += numbers.get("where") or f" on {counted(numbers['threads'], 'thread')} of a shared CPU."
        return f"# {title}\n\n{rest.strip()}\n\n{ran}\n\n{table}\n\n![{title}]({self.name}.png)\n"


def _said(settings: dict[str, Any]) -> str:
    """What determines the runs of an arm, in a line of a list."""
    training, cycle = settings["training"], settings["cycle"]
    said = [f"`{settings['arch']}`", settings.get("data", ""), f"{training['epochs']} epochs"]
    said.append(f"batches of {training['batch_size'] or 128} at {training['learning_rate']:g}")
    said.append(f"rate {training['schedule']}, momentum {training['momentum']:g}")
    said += [f"{name} {training[name]:g}" for name in ("l1", "l2", "weight_decay") if training[name]]
    if cycle is not None:
        said.append(f"cut every {cycle['every']} ({cycle['mode']}), bulk kept {cycle['keep_bulk']}")
        said.append(f"fit errors up to {cycle['gof']:g}")
        said += [
            f"{name} {cycle[name]}"
            for name in ("when_not_smaller", "sparsify")
            if cycle[name] not in (None, "keep")
        ]
    return f"- {'; '.join(filter(None, said))}"


def write_numbers(numbers: dict[str, Any], file: Path) -> None:
    """Write a NAME.json."""
    with replacing(file) as path:
        path.write_text(json.dumps(rounded(numbers), indent=1, ensure_ascii=False) + "\n", "utf-8")


def ends(arm: Arm, key: str) -> list[float]:
    """A number of the network that each run leaves."""
    return [float(run["events"][-1][key]) for run in arm["runs"]]


def percent(values: Sequence[float], digits: int = 2) -> str:
    """Mean of shares in per cent, with the standard deviation where there are several."""
    mean = 100 * statistics.fmean(values)
    if len(values) == 1:
        return f"{mean:.{digits}f} %"
    return f"{mean:.{digits}f} ± {100 * statistics.stdev(values):.{digits}f} %"


def sizes(arm: Arm, key: str = "parameters") -> str:
    """Mean parameters before and after, and the share that is left."""
    first = statistics.fmean(run["events"][0]["parameters"] for run in arm["runs"])
    last = statistics.fmean(ends(arm, key))
    return f"{first:,.0f} → {last:,.0f} ({last / first:.1%})"


def overhead(arm: Arm) -> float:
    """Seconds of analysis and cutting over those of the training between the cuts, the largest of all runs."""
    shares: list[float] = []
    for run in arm["runs"]:
        cuts = [index for index, event in enumerate(run["events"]) if event["event"] == "cycle"]
        if not cuts:
            continue
        train = sum(event["seconds"]["train"] for event in run["events"][: cuts[-1]])
        shares.append(sum(run["events"][index]["seconds"]["analyze"] for index in cuts) / train)
    return max(shares, default=0.0)


def figure(columns: int, *, rows: int = 1, width: float = 5.2, height: float = 4.2) -> tuple[Figure, list[Axes]]:
    """A figure and its panels, row by row."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    result = Figure(figsize=(width * columns, height * rows), layout="constrained")
    FigureCanvasAgg(result)
    panels = result.subplots(rows, columns, squeeze=False).ravel().tolist()
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e9ecef")
        axes.set_axisbelow(True)
    return result, panels


def in_sight(arms: Iterable[Arm], key: str) -> tuple[float, float]:
    """Whole per cents around all that the runs reach after the first quarter of their epochs."""
    late = [
        event[key]
        for arm in arms
        for run in arm["runs"]
        for event in run["events"]
        if 4 * event["epoch"] > run["events"][-1]["epoch"]
    ]
    return math.floor(100 * min(late)), math.ceil(100 * max(late))


def draw_runs(
    axes: Axes, arm: Arm, key: str, *, color: str, label: str, factor: float = 1.0, dashed: bool = False
) -> None:
    """One line a run over the epochs, a cut as a step at its epoch; grey is broad, to be seen under the others."""
    style = "--" if dashed else "-"
    width, alpha = (4.0, 0.5) if color == GREY else (1.5, 0.9)
    for index, run in enumerate(arm["runs"]):
        events = [event for event in run["events"] if event["event"] != "end"]
        x = [event["epoch"] for event in events]
        y = [factor * event[key] for event in events]
        axes.plot(x, y, style, color=color, label=label if index == 0 else None, lw=width, alpha=alpha)
    axes.set_xlabel("epoch")
    axes.locator_params(axis="x", integer=True)


def tell_all(event: Event) -> None:
    """Print the numbers of an event."""
    print({key: event[key] for key in _EVENT if key in event and key != "seconds"}, flush=True)


def _slim(event: Event) -> Event:
    """What a reader of the results needs of an event."""
    slim = {key: event[key] for key in _EVENT if key in event}
    layers = [layer for layer in event.get("layers", ()) if layer["action"] != "skipped"]
    if layers:
        slim["layers"] = [{key: layer.get(key) for key in (*_LAYER, *_fit(layer))} for layer in layers]
    return slim


def _fit(layer: dict[str, Any]) -> list[str]:
    return [key for key in ("spikes", "gof", "p") if key in layer]


def rounded(value: Any) -> Any:
    """Numbers with as many digits as they deserve."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    return [rounded(each) for each in value] if isinstance(value, list | tuple) else value
