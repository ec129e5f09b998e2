"""What a sweep finds: plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from rmt_compress.networks.tasks.task import ACCURACY, Metric
from rmt_compress.notebooks.figures import figure_of
from rmt_compress.notebooks.notebook_tables import data_frame, html_table

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

SCHEMA = "rmt-compress/sweep/1"

SweepKind = Literal["rank", "share", "sparsity", "budget"]
Measure = Literal["keep", "macs", "latency"]
"""What is bounded, by the name of its budget."""
SWEEP_KINDS: tuple[SweepKind, ...] = get_args(SweepKind)


@dataclass(frozen=True)
class SweepPoint:
    """One network that was tried.

    Attributes:
        amount: what was varied: singular values kept (``rank``); the rule's number, be it f of ``bema`` or a share
            of energy or of ranks (``share``); the threshold ξ (``sparsity``); the share asked for (``budget``).
        weights: entries of all parameters that are left, a layer split only where it shrinks; in a ``sparsity``
            sweep those that are not 0.
        score: what the metric says of it.
        ranks: layer -> singular values kept, for the layers that were cut.
        macs: multiply-adds for one sample, of a ``budget`` sweep; None elsewhere, and where they are not known.
        milliseconds: of one forward pass, as `macs`.
    """

    amount: float
    weights: int
    score: float
    ranks: Mapping[str, int] = field(default_factory=dict)
    macs: float | None = None
    milliseconds: float | None = None

    def size(self, measure: Measure) -> float | None:
        """How large it is in a measure; None where that is not known."""
        return {"keep": float(self.weights), "macs": self.macs, "latency": self.milliseconds}[measure]


@dataclass(frozen=True)
class SweepCurve:
    """Points that belong together.

    Attributes:
        name: the layer (``rank``), the rule (``share``), what was done before (``sparsity``) or the directions
            (``budget``).
        points: in increasing order of their size in `measure`.
        predicted: the one this project's default would choose, where it is on the curve.
        measure: which size the points were cut to.
    """

    name: str
    points: tuple[SweepPoint, ...]
    predicted: SweepPoint | None = None
    measure: Measure = "keep"

    def smallest_within(self, loss: float, full: float, metric: Metric) -> SweepPoint | None:
        """The smallest point that is worse than `full` by `loss` at most, in the metric's unit; None where none is.

        A larger one may miss it: a score on a finite sample is noisy, and a network that was tried and is good
        enough is not made worse by its neighbours.
        """
        enough = (point for point in self.points if metric.worse_by(point.score, full) <= loss + 1e-12)
        return min(enough, key=lambda point: point.size(self.measure) or 0.0, default=None)


@dataclass(frozen=True)
class Sweep:
    """One sweep of one network.

    Attributes:
        kind: what was varied.
        path: the network's file; None for a live model.
        data: name of the data set.
        samples: how many of it were asked.
        parameters: entries of all parameters of the network as it was.
        score: of the network as it was.
        curves: see `SweepCurve`.
        metric: what all scores are.
        macs: multiply-adds of the network as it was, as in `SweepPoint`.
        milliseconds: of a forward pass of it.
        timed: on what it was timed, and with how many samples, in words; empty where nothing was.
        shrink: the loss by which the singular values that were kept were shrunk; ``none`` where they were not.
    """

    kind: SweepKind
    path: str | None
    data: str
    samples: int
    parameters: int
    score: float
    curves: tuple[SweepCurve, ...]
    metric: Metric = ACCURACY
    macs: float | None = None
    milliseconds: float | None = None
    timed: str = ""
    shrink: str = "none"

    def share(self, point: SweepPoint, measure: Measure) -> float | None:
        """What is left of a measure at a point, as a share of the network as it was; None where it is not known."""
        whole = {"keep": float(self.parameters), "macs": self.macs, "latency": self.milliseconds}[measure]
        left = point.size(measure)
        return left / whole if left is not None and whole else None

    def plot(self) -> Figure:
        """The score against what is left, as `sweep` draws it.

        Raises:
            MissingDependencyError: there is no matplotlib.
        """
        return figure_of(self)

    def to_pandas(self) -> pd.DataFrame:
        """A row for each network that was tried, with the curve that it is a point of.

        Raises:
            MissingDependencyError: there is no pandas.
        """
        return data_frame(
            {"curve": curve["name"], "predicted": point == curve["predicted"], **point}
            for curve in self.to_json()["curves"]
            for point in curve["points"]
        )

    def _repr_html_(self) -> str:
        """What a notebook shows of it."""
        rows = [
            (
                curve.name,
                f"{point.amount:.3g}",
                f"{point.weights / self.parameters:.1%}",
                self.metric.shown(point.score),
            )
            for curve in self.curves
            for point in curve.points
        ]
        summary = f"{self.metric.called(self.score)} as it is, {self.samples:,} samples of {self.data}"
        return html_table(
            f"sweep of {self.kind}", ("curve", "amount", "weights left", self.metric.name), rows, summary
        )

    def to_json(self) -> dict[str, Any]:
        """The sweep as plain data; ``share`` is that of all parameters, ``accuracy`` a score that is one."""
        called = _called(self.metric)
        budgets = self.kind == "budget"
        sizes = {"macs": self.macs, "milliseconds": self.milliseconds, "timed": self.timed} if budgets else {}

        def plain(point: SweepPoint) -> dict[str, Any]:
            return {
                "amount": point.amount,
                "weights": point.weights,
                "share": point.weights / self.parameters,
                called: point.score,
                "ranks": dict(point.ranks),
                **({"macs": point.macs, "milliseconds": point.milliseconds} if budgets else {}),
            }

        return {
            "schema": SCHEMA,
            "kind": self.kind,
            "path": self.path,
            "data": self.data,
            "samples": self.samples,
            "parameters": self.parameters,
            **({"shrink": self.shrink} if self.shrink != "none" else {}),
            **sizes,
            called: self.score,
            "metric": asdict(self.metric),
            "curves": [
                {
                    "name": curve.name,
                    **({"measure": curve.measure} if budgets else {}),
                    "predicted": curve.predicted and plain(curve.predicted),
                    "points": [plain(point) for point in curve.points],
                }
                for curve in self.curves
            ],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Sweep:
        """The sweep that `to_json` wrote; a `KeyError` where it is something else."""
        metric = Metric(**data["metric"]) if "metric" in data else ACCURACY
        called = _called(metric)
        curves = []
        for curve in data["curves"]:
            points = tuple(_point(point, called) for point in curve["points"])
            predicted = curve["predicted"] and _point(curve["predicted"], called)
            curves.append(SweepCurve(curve["name"], points, predicted, curve.get("measure", "keep")))
        plain = {key: data[key] for key in ("kind", "path", "data", "samples", "parameters")}
        plain |= {key: data[key] for key in ("macs", "milliseconds", "timed", "shrink") if key in data}
        return cls(curves=tuple(curves), score=data[called], metric=metric, **plain)


def _called(metric: Metric) -> str:
    return "accuracy" if metric == ACCURACY else "score"


def _point(data: Mapping[str, Any], called: str) -> SweepPoint:
    sizes = {key: data[key] for key in ("macs", "milliseconds") if key in data}
    return SweepPoint(data["amount"], data["weights"], data[called], dict(data["ranks"]), **sizes)
