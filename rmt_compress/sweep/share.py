"""The score of the whole network against the weights left, by one rank rule or several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rmt_compress.errors import SettingsError
from rmt_compress.planning.making import make_plan
from rmt_compress.planning.rules import GRIDS, RULES
from rmt_compress.planning.settings import PlanSettings, Shrink
from rmt_compress.progress import counter, phase
from rmt_compress.sweep.results import Sweep, SweepCurve, SweepPoint
from rmt_compress.sweep.target import POINTS, SweepTarget, check_points, saving

if TYPE_CHECKING:
    from rmt_compress.plan import Plan
    from rmt_compress.progress import Progress


@phase("sweeping share")
def sweep_share(
    target: SweepTarget,
    *,
    rules: Sequence[str] = tuple(GRIDS),
    amounts: Mapping[str, Sequence[float]] | None = None,
    points: int = POINTS,
    progress: Progress | None = None,
) -> Sweep:
    """The score of the whole network against the weights left, one curve per rank rule.

    ``bema`` keeps the spikes and a share f of the bulk in every layer that fits; the other rules cut every analysed
    layer. A layer is split only where that shrinks it, as `make_plan` decides. Where the target shrinks what it
    keeps ``bema`` is one point, since nothing of the bulk is left.

    Args:
        target: the network.
        rules: see `rmt_compress.planning.rules`.
        amounts: rule -> its numbers; for a rule not in it, `points` of them over its useful range.
        points: see `amounts`.
        progress: called with (trials done, trials in all, rule).

    Raises:
        SettingsError: unknown rule, a number that does not suit it, or fewer than 2 points.
    """
    known = ", ".join(GRIDS)
    problems = [f"rule {rule!r} is none of {known}" for rule in rules if rule not in GRIDS]
    if problems or not rules:
        raise SettingsError(problems or [f"no rule given, known are {known}"])
    given = amounts or {}
    if not all(given.get(rule) for rule in rules):
        check_points(points)
    grids = {rule: given.get(rule) or _grid(rule, points, target.shrink) for rule in dict.fromkeys(rules)}
    plans = {rule: [_plan(target, rule, amount) for amount in grid] for rule, grid in grids.items()}
    advance = counter(sum(map(len, grids.values())), progress)
    layers = {layer.tensor: layer for layer in target.analysis.analyzed}
    tried: dict[tuple[tuple[str, int], ...], float] = {(): target.score}
    curves = []
    default = PlanSettings()
    for rule, grid in grids.items():
        found = []
        for amount, plan in zip(grid, plans[rule], strict=True):
            cut = {decision.tensor: decision.rank for decision in plan.layers if decision.rank is not None}
            key = tuple(sorted(cut.items()))
            if key not in tried:
                tried[key] = target.score_with(
                    {name: target.truncated(layers[name], rank) for name, rank in cut.items()}
                )
            left = target.parameters - sum(saving(layers[name], rank) for name, rank in cut.items())
            ranks = {layers[name].name: rank for name, rank in cut.items()}
            found.append(SweepPoint(amount, left, tried[key], ranks))
            advance(rule)
        found.sort(key=lambda point: (point.weights, point.amount))
        predicted = next((p for p in found if (rule, p.amount) == (default.rule, default.keep_bulk)), None)
        curves.append(SweepCurve(rule, tuple(found), predicted))
    return target.result("share", curves)


def _grid(name: str, points: int, shrink: Shrink) -> Sequence[float]:
    return [0.0] if shrink != "none" and RULES[name].from_spikes else GRIDS[name](points)


def _plan(target: SweepTarget, name: str, amount: float) -> Plan:
    rule = RULES[name]
    bulk = amount if rule.from_spikes else 0.0
    return make_plan(target.analysis, rule=rule.written(amount), keep_bulk=bulk, shrink=target.shrink)
