"""Accuracy of the whole network against the weights left, by one rank rule or several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from rmt_compress.errors import SettingsError
from rmt_compress.planning.making import make_plan
from rmt_compress.progress import counter
from rmt_compress.sweep.results import Sweep, SweepCurve, SweepPoint
from rmt_compress.sweep.target import POINTS, SweepTarget, check_points, saving

if TYPE_CHECKING:
    from rmt_compress.analysis import Analysis
    from rmt_compress.plan import Plan
    from rmt_compress.progress import Progress

SweptRule = Literal["bema", "energy", "ratio", "gd14"]
SWEPT_RULES: tuple[SweptRule, ...] = get_args(SweptRule)


def sweep_share(
    target: SweepTarget,
    *,
    rules: Sequence[str] = SWEPT_RULES,
    amounts: Mapping[str, Sequence[float]] | None = None,
    points: int = POINTS,
    progress: Progress | None = None,
) -> Sweep:
    """Accuracy of the whole network against the weights left, one curve per rank rule.

    ``bema`` keeps the spikes and a share f of the bulk in every layer that fits; the other rules cut every analysed
    layer. A layer is split only where that shrinks it, as `make_plan` decides.

    Args:
        target: the network.
        rules: see `rmt_compress.planning.rules`.
        amounts: rule -> its numbers; for a rule not in it, `points` of them over its useful range.
        points: see `amounts`.
        progress: called with (trials done, trials in all, rule).

    Raises:
        SettingsError: unknown rule, a number that does not suit it, or fewer than 2 points.
    """
    known = ", ".join(SWEPT_RULES)
    problems = [f"rule {rule!r} is none of {known}" for rule in rules if rule not in SWEPT_RULES]
    if problems or not rules:
        raise SettingsError(problems or [f"no rule given, known are {known}"])
    grids = {rule: (amounts or {}).get(rule) or _amount_grid(rule, points) for rule in dict.fromkeys(rules)}
    plans = {rule: [_plan(target.analysis, rule, amount) for amount in grid] for rule, grid in grids.items()}
    advance = counter(sum(map(len, grids.values())), progress)
    layers = {layer.layer.tensor: layer for layer in target.analysis.analyzed}
    tried: dict[tuple[tuple[str, int], ...], float] = {(): target.accuracy}
    curves = []
    for rule, grid in grids.items():
        found = []
        for amount, plan in zip(grid, plans[rule], strict=True):
            cut = {decision.tensor: decision.rank for decision in plan.layers if decision.rank is not None}
            key = tuple(sorted(cut.items()))
            if key not in tried:
                tried[key] = target.accuracy_with(
                    {name: target.truncated(layers[name], rank) for name, rank in cut.items()}
                )
            left = target.parameters - sum(saving(layers[name], rank) for name, rank in cut.items())
            ranks = {layers[name].layer.name: rank for name, rank in cut.items()}
            found.append(SweepPoint(amount, left, tried[key], ranks))
            advance(rule)
        found.sort(key=lambda point: (point.weights, point.amount))
        predicted = next((point for point in found if rule == "bema" and point.amount == 0), None)
        curves.append(SweepCurve(rule, tuple(found), predicted))
    return target.result("share", curves)


def _amount_grid(rule: str, points: int) -> list[float]:
    """Numbers of `rule` from where accuracy has collapsed to where a split hardly shrinks a square layer."""
    check_points(points)
    match rule:
        case "bema":
            return [0.0, *np.geomspace(0.01, 0.4, points - 1).tolist()]
        case "energy":
            return np.linspace(0.3, 0.85, points).tolist()  # type: ignore[no-any-return]
        case "ratio":
            return np.geomspace(0.01, 0.45, points).tolist()  # type: ignore[no-any-return]
        case _:
            return [0.0]  # gd14 has no number


def _plan(analysis: Analysis, rule: str, amount: float) -> Plan:
    if rule == "bema":
        return make_plan(analysis, keep_bulk=amount)
    return make_plan(analysis, rule=rule if rule == "gd14" else f"{rule}:{amount!r}")
