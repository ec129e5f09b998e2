"""What `finetune` has trained and written: plain data."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmt_compress.networks.tasks.task import Metric
from rmt_compress.notebooks.figures import figure_of
from rmt_compress.notebooks.notebook_tables import data_frame, html_table
from rmt_compress.training.event_log import Event, metric_of, of_kind

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

SCHEMA = "rmt-compress/finetune/1"


@dataclass(frozen=True)
class RunResult:
    """One run.

    Attributes:
        name: empty for the only run there is, else ``pruned seed 1`` or ``baseline seed 1``.
        seed: its seed.
        pruned: whether anything was to be cut.
        events: its lines of the log.
    """

    name: str
    seed: int
    pruned: bool
    events: tuple[Event, ...]

    @property
    def first(self) -> Event:
        """The network before training."""
        return self.events[0]

    @property
    def last(self) -> Event:
        """The network that is left."""
        return self.events[-1]

    @property
    def metric(self) -> Metric:
        """What every ``test_score`` is."""
        return metric_of(self.first)

    @property
    def scores(self) -> list[float]:
        """Of the network before training, after every epoch and cut, and of the one that is left."""
        return [event["test_score"] for event in self.events if "test_score" in event]

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds spent training, analysing and cutting, and evaluating."""
        parts = ("train", "analyze", "evaluate")
        return {part: sum(event["seconds"][part] for event in self.events) for part in parts}

    @property
    def over_budget(self) -> str:
        """Which budgets the network that is left misses: ``keep 0.4, not 0.1``; empty where it keeps all."""
        asked, left = self.last.get("budget", {}), self.last.get("left", {})
        return ", ".join(
            f"{name} {left[name]:.3g}, not {share:g}"
            for name, share in asked.items()
            if left[name] > share * (1 + 1e-9)
        )

    def to_json(self) -> dict[str, Any]:
        """Name, seed, and the numbers of the network that is left."""
        kept = (
            *("test_accuracy", "test_loss", "dead_outputs", "parameters", "nonzeros", "epoch", "reason"),
            *("budget", "left", "limit"),
        )
        first = {"accuracy_first": self.first["test_accuracy"]} if "test_accuracy" in self.first else {}
        return {
            "name": self.name,
            "seed": self.seed,
            "pruned": self.pruned,
            **first,
            "score_first": self.first["test_score"],
            "parameters_first": self.first["parameters"],
            **{key: self.last[key] for key in kept if key in self.last},
            "score": {**asdict(self.metric), "value": self.last["test_score"]},
            "cycles": len(of_kind(self.events, "cycle")),
            "seconds": self.seconds,
        }


@dataclass(frozen=True)
class Finetuned:
    """What has been trained and written.

    Attributes:
        runs: one, or one per seed and side of a comparison.
        output: the file with the first pruned run's network; None where this process is not the one that writes.
        bytes: its size.
        log: the file of events.
        architecture: the network in one word.
        notes: remarks for the user.
        goal_missed: why the score asked for was not reached; empty where it was, or none was asked for.
    """

    runs: tuple[RunResult, ...]
    output: Path | None
    bytes: int
    log: Path
    architecture: str
    notes: tuple[str, ...] = ()
    goal_missed: str = ""

    def mean(self, key: str, *, pruned: bool) -> tuple[float, float]:
        """Mean and standard deviation over the seeds of a number of the networks that are left."""
        values = [float(run.last[key]) for run in self.runs if run.pruned == pruned]
        return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0

    def plot(self) -> Figure:
        """Score, loss and size over the epochs with the cuts marked, as `finetune --plots` draws them.

        Raises:
            MissingDependencyError: there is no matplotlib.
        """
        return figure_of(self)

    def to_pandas(self) -> pd.DataFrame:
        """A row for each event of the log, with the run that it is of.

        Raises:
            MissingDependencyError: there is no pandas.
        """
        return data_frame({"run": run.name, **event} for run in self.runs for event in run.events)

    def _repr_html_(self) -> str:
        """What a notebook shows of it: each run's first and last network."""
        rows = [
            (
                run.name or "the only one",
                *(f"{run.metric.shown(event['test_score'])}" for event in (run.first, run.last)),
                *(f"{event['parameters']:,}" for event in (run.first, run.last)),
                f"{run.last['nonzeros']:,}",
            )
            for run in self.runs
        ]
        name = self.runs[0].metric.name
        columns = ("run", f"{name} before", name, "parameters before", "parameters", "not zero")
        return html_table(self.architecture, columns, rows, f"{self.output or 'nothing'} was written")

    def to_json(self) -> dict[str, Any]:
        """The object printed by `finetune --json`."""
        report: dict[str, Any] = {
            "schema": SCHEMA,
            "output": None if self.output is None else str(self.output),
            "bytes": self.bytes,
            "log": str(self.log),
            "architecture": self.architecture,
            "runs": [run.to_json() for run in self.runs],
        }
        if len(self.runs) > 1:
            sides = sorted({run.pruned for run in self.runs}, reverse=True)
            report["mean"] = {
                "pruned" if pruned else "baseline": {
                    key: dict(zip(("mean", "deviation"), self.mean(key, pruned=pruned), strict=True))
                    for key in ("test_accuracy", "test_score", "parameters", "nonzeros")
                    if key in self.runs[0].last
                }
                for pruned in sides
            }
        return report
