"""What a sweep finds: plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from rmt_compress.networks.tasks.task import ACCURACY, Metric

SCHEMA = "rmt-compress/sweep/1"

SweepKind = Literal["rank", "share", "sparsity"]
SWEEP_KINDS: tuple[SweepKind, ...] = get_args(SweepKind)


@dataclass(frozen=True)
class SweepPoint:
    """One network that was tried.

    Attributes:
        amount: what was varied: singular values kept (``rank``); the rule's number, be it f of ``bema`` or a share
            of energy or of ranks (``share``); the threshold ξ (``sparsity``).
        weights: entries of all parameters that are left, a layer split only where it shrinks; in a ``sparsity``
            sweep those that are not 0.
        score: what the metric says of it.
        ranks: layer -> singular values kept, for the layers that were cut.
    """

    amount: float
    weights: int
    score: float
    ranks: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class SweepCurve:
    """Points that belong together.

    Attributes:
        name: the layer (``rank``), the rule (``share``) or what was done before (``sparsity``).
        points: in increasing order of `SweepPoint.weights`.
        predicted: the one this project's default would choose, where it is on the curve.
    """

    name: str
    points: tuple[SweepPoint, ...]
    predicted: SweepPoint | None = None

    def smallest_within(self, loss: float, full: float, metric: Metric) -> SweepPoint | None:
        """The smallest point that is worse than `full` by `loss` at most, in the metric's unit; None where none is.

        A larger one may miss it: a score on a finite sample is noisy, and a network that was tried and is good
        enough is not made worse by its neighbours.
        """
        enough = (point for point in self.points if metric.worse_by(point.score, full) <= loss + 1e-12)
        return min(enough, key=lambda point: point.weights, default=None)


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
    """

    kind: SweepKind
    path: str | None
    data: str
    samples: int
    parameters: int
    score: float
    curves: tuple[SweepCurve, ...]
    metric: Metric = ACCURACY

    def to_json(self) -> dict[str, Any]:
        """The sweep as plain data; ``share`` is that of all parameters, ``accuracy`` a score that is one."""
        called = _called(self.metric)

        def plain(point: SweepPoint) -> dict[str, Any]:
            return {
                "amount": point.amount,
                "weights": point.weights,
                "share": point.weights / self.parameters,
                called: point.score,
                "ranks": dict(point.ranks),
            }

        return {
            "schema": SCHEMA,
            "kind": self.kind,
            "path": self.path,
            "data": self.data,
            "samples": self.samples,
            "parameters": self.parameters,
            called: self.score,
            "metric": asdict(self.metric),
            "curves": [
                {
                    "name": curve.name,
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
            curves.append(SweepCurve(curve["name"], points, predicted))
        plain = {key: data[key] for key in ("kind", "path", "data", "samples", "parameters")}
        return cls(curves=tuple(curves), score=data[called], metric=metric, **plain)


def _called(metric: Metric) -> str:
    return "accuracy" if metric == ACCURACY else "score"


def _point(data: Mapping[str, Any], called: str) -> SweepPoint:
    return SweepPoint(data["amount"], data["weights"], data[called], dict(data["ranks"]))
