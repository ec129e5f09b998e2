"""The score of a network cut within budgets: of parameters, of multiply-adds and of time, by each metric (§14)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from rmt_compress.networks.file_names import SAME_NAMES, FileNames
from rmt_compress.networks.latency import Timer
from rmt_compress.networks.layer_times import random_factors
from rmt_compress.planning.candidates import SCALING_OF, Candidate, Candidates, Rule
from rmt_compress.planning.making import make_plan
from rmt_compress.planning.margins import Judgement
from rmt_compress.planning.searching import Trial
from rmt_compress.progress import counter, phase
from rmt_compress.sweep.results import Measure, Sweep, SweepCurve, SweepPoint
from rmt_compress.sweep.target import POINTS, check_points

if TYPE_CHECKING:
    from torch import nn

    from rmt_compress.networks.tasks.task import Task
    from rmt_compress.planning.searching import Score
    from rmt_compress.progress import Progress

EDGE = "edge"
"""Name of the curve that is one point: what the edge keeps where nothing is asked for."""
MEASURES: tuple[Measure, ...] = get_args(Measure)


@dataclass(frozen=True, eq=False)
class BudgetTarget:
    """A network to be cut within budgets.

    Attributes:
        model: the network; stays as it is.
        candidates: what it may become; its costs say which measures are swept.
        task: what it is asked.
        score: the score of a trial by this task, in the metric's own unit.
        samples: how many the task asks.
        inputs: a batch that the network is timed with; None where time is not swept.
        timer: what times it.
        timed: on what, in words.
        path: the file it came from, for the record.
        names: what the layers of candidates are called in the network.
    """

    model: nn.Module
    candidates: Candidates
    task: Task
    score: Score
    samples: int
    inputs: Any = None
    timer: Timer | None = None
    timed: str = ""
    path: str | None = None
    names: FileNames = SAME_NAMES
    _scores: dict[object, float] = field(default_factory=dict)
    _shares: dict[object, float] = field(default_factory=dict)

    @property
    def measures(self) -> tuple[Measure, ...]:
        """Those that there are costs of."""
        return tuple(measure for measure in MEASURES if measure in self.candidates.costs)

    @cached_property
    def edge(self) -> Candidate:
        """The network that the edge alone makes: spikes of the layers that fit."""
        plan = make_plan(self.candidates.analysis)
        ranks = {each.tensor: each.rank for each in plan.layers if each.action == "factorized" and each.rank}
        return self.candidates.with_ranks(ranks, Rule("plain", "absolute"))

    @cached_property
    def uncut(self) -> Candidate:
        """The network as it is."""
        return self.candidates.with_ranks({}, self.candidates.rule)

    def value(self, candidate: Candidate) -> float:
        """The score of a candidate, asked once."""
        if candidate.key not in self._scores:
            trial = Trial(self.candidates.tensors(candidate), str(candidate.rule) if candidate.key[1] else "")
            found = self.score(trial)
            self._scores[candidate.key] = found.value if isinstance(found, Judgement) else float(found)
        return self._scores[candidate.key]

    def time_share(self, candidate: Candidate) -> float | None:
        """The time of a candidate over that of the network as it is, in turns; None where time is not swept."""
        ranks = candidate.key[1]
        if self.timer is None:
            return None
        if not ranks:
            return 1.0
        if ranks not in self._shares:
            small = random_factors(
                self.model, {self.names.in_network(tensor): rank for tensor, rank in ranks if rank is not None}
            )
            before, after = self.timer([(self.model, self.inputs), (small, self.inputs)])
            self._shares[ranks] = after / before
        return self._shares[ranks]


@phase("sweeping budget")
def sweep_budget(target: BudgetTarget, *, points: int = POINTS, progress: Progress | None = None) -> Sweep:
    """The score against size, multiply-adds and milliseconds, a curve for each metric and each of the three.

    On the curve of a measure, networks are planned by that very measure, with the scaling that its metric is used
    with where nothing is tried. Every metric decomposes the layers once, and one curve of prices gives all its
    points of a measure. Points on the curves of time are timed, in turns with the network as it is; the others are
    counted. The edge's own network is a point of all three.

    Args:
        target: the network.
        points: networks tried on each curve, from the smallest that there is.
        progress: called with (networks tried, all of them, what they are).

    Raises:
        SettingsError: fewer than 2 points.
    """
    check_points(points)
    candidates = target.candidates
    advance = counter(len(target.measures) * (len(candidates.metrics) * points + 1), progress)
    curves = []
    for measure in target.measures:
        for metric in candidates.metrics:
            rule = Rule(metric, SCALING_OF[metric])
            found = []
            for share, candidate in _grid(candidates, rule, measure, points):
                found.append(_point(target, candidate, share, measure))
                advance(f"{measure} {metric}")
            found.sort(key=lambda point: point.size(measure) or 0.0)
            curves.append(SweepCurve(metric, tuple(found), None, measure))
        timed = target.time_share(target.edge) if measure == "latency" else None
        edge = _point(target, target.edge, target.edge.sizes[measure] if timed is None else timed, measure)
        curves.append(SweepCurve(EDGE, (edge,), edge, measure))
        advance(f"{measure} {EDGE}")
    samples = target.task.samples
    wholes = {name: cost.whole for name, cost in candidates.costs.items()}
    seconds = wholes.get("latency")
    return Sweep(
        kind="budget",
        path=target.path,
        data=target.task.metric.name if samples is None else samples.name,
        samples=target.samples,
        parameters=int(wholes["keep"]),
        score=target.value(target.uncut),
        curves=tuple(curves),
        metric=target.task.metric,
        macs=wholes.get("macs"),
        milliseconds=None if seconds is None else 1000 * seconds,
        timed=target.timed,
    )


def _grid(candidates: Candidates, rule: Rule, measure: Measure, points: int) -> Iterator[tuple[float, Candidate]]:
    """Networks from the smallest up; those of time evenly in it, the others in its logarithm."""
    least = min(1.0, candidates.smallest(measure) * (1 + 1e-9))
    spaced = np.linspace if measure == "latency" else np.geomspace
    shares: Sequence[float] = spaced(least, 1.0, points + 1)[:-1].tolist()
    for share in shares:
        yield share, candidates.at(rule, {measure: share})


def _point(target: BudgetTarget, candidate: Candidate, share: float, measure: Measure) -> SweepPoint:
    costs = target.candidates.costs
    sizes = {name: size * costs[name].whole for name, size in candidate.sizes.items()}
    timed = target.time_share(candidate) if measure == "latency" else None
    return SweepPoint(
        amount=share,
        weights=round(sizes["keep"]),
        score=target.value(candidate),
        ranks={
            target.candidates.cut[tensor].name: rank
            for tensor, rank in candidate.allocation.ranks.items()
            if rank is not None
        },
        macs=float(round(sizes["macs"])) if "macs" in sizes else None,
        milliseconds=None if timed is None else 1000 * timed * costs["latency"].whole,
    )
