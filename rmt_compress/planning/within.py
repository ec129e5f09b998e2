"""From an analysis to the plan of the smallest network that is within what one can afford."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rmt_compress.errors import PlanError, SettingsError
from rmt_compress.planning.budgets import BudgetSettings
from rmt_compress.planning.candidates import Candidates
from rmt_compress.planning.costs import MultiplyAdds, Parameters, Seconds, costs_of
from rmt_compress.planning.price_record import curve_of_record
from rmt_compress.planning.searching import Asking, search
from rmt_compress.progress import phase

if TYPE_CHECKING:
    import torch

    from rmt_compress.analysis.records import Analysis
    from rmt_compress.checkpoints.opening import Source
    from rmt_compress.decomposition.moments import Moments
    from rmt_compress.plan import LayerDecision, Plan
    from rmt_compress.planning.budgets import Edge, Metric, Scaling, Search
    from rmt_compress.planning.costs import Cost
    from rmt_compress.planning.searching import Score
    from rmt_compress.progress import Progress


def plan_within(
    analysis: Analysis,
    moments: Moments | None = None,
    *,
    keep: float | None = None,
    macs: float | None = None,
    latency: float | str | None = None,
    max_drop: float | None = None,
    metric: Metric | None = None,
    scaling: Scaling | None = None,
    search: Search = BudgetSettings.search,
    score: Score | None = None,
    edge: Edge = BudgetSettings.edge,
    multiple: int = BudgetSettings.multiple,
    exclude: Sequence[str] = (),
    caps: Sequence[str] = (),
    positions: Mapping[str, float] | None = None,
    seconds: Seconds | None = None,
    device: str | torch.device | None = None,
    progress: Progress | None = None,
) -> Plan:
    """The plan of the smallest or best network within a budget (method.md §14); see `BudgetSettings`.

    Budgets may be combined: all of them are kept then. What was tried stands in `Plan.settings`, under ``budget``,
    with ``met`` false where `max_drop` could not be; the plan then is that of the network that came nearest.

    Args:
        analysis: of the network; what it was made from is read again.
        moments: of its layers, from calibration; None leaves the metric ``plain``.
        keep: share of all parameters that is kept at most.
        macs: share of the multiply-adds; needs `positions`.
        latency: share of the measured time, or ``"5ms"``; needs `seconds`, as
            `networks.layer_times.measure_times` measures them.
        max_drop: by how much the score may fall; needs `score`.
        metric: which directions are kept.
        scaling: how the gains of layers compare.
        search: ``portfolio`` or ``one``.
        score: how good a network is, such as `networks.replacing.scored` makes one; higher is better.
        edge: ``ignore``, ``floor`` or ``ceiling``.
        multiple: ranks are multiples of this.
        exclude: globs of layers that are not cut.
        caps: ``GLOB:SHARE``.
        positions: tensor of a layer -> at how many positions it is applied, see `costs.MultiplyAdds`.
        seconds: measured times.
        device: where weights are decomposed, and kept as long as networks are tried; None for where they are.
        progress: called with (networks tried, the most that are tried, rule).

    Raises:
        SettingsError: a setting is out of range, no cut reaches a budget, or there is no such device.
        PlanError: the moments are not those of this network.
        CheckpointError: the network cannot be read again.
    """
    settings = BudgetSettings(
        keep=keep,
        macs=macs,
        latency=latency,
        max_drop=max_drop,
        metric=metric,
        scaling=scaling,
        search=search,
        edge=edge,
        multiple=multiple,
        exclude=tuple(exclude),
        caps=tuple(caps),
    )
    return plan_within_with(
        analysis,
        moments,
        settings,
        asking=Asking(score),
        costs=costs_of(analysis, positions, seconds),
        device=device,
        progress=progress,
    )


@phase("searching the plan")
def plan_within_with(
    analysis: Analysis,
    moments: Moments | None,
    settings: BudgetSettings,
    *,
    source: Source | None = None,
    asking: Asking | None = None,
    costs: Mapping[str, Cost] | None = None,
    device: str | torch.device | None = None,
    progress: Progress | None = None,
) -> Plan:
    """`plan_within`, its settings in one object.

    `source` is the network where the analysis does not know it; `costs` are those of `costs_of`,
    without them the parameters alone.
    """
    from rmt_compress.checkpoints import open_checkpoint
    from rmt_compress.checkpoints.moved import moved

    if not settings.bounded:
        raise SettingsError(["no budget: give one of keep, macs, latency, max-drop"])
    source = analysis.source if source is None else source
    if source is None:
        raise PlanError("the analysis does not know its network any more; give it as source")
    costs = costs_of(analysis) if costs is None else costs
    seconds = costs.get("latency")
    if seconds is not None and settings.milliseconds is not None:
        settings = replace(settings, latency=min(1.0, settings.milliseconds / 1000 / seconds.whole))
    asked_for = [*settings.shares, *(["latency"] if settings.milliseconds is not None else [])]
    missing = [name for name in asked_for if name not in costs]
    if missing:
        needs = {"macs": "the positions of the layers", "latency": "measured times"}
        raise SettingsError([f"the budget {name} needs {needs[name]}" for name in missing])
    with open_checkpoint(source) as checkpoint:
        candidates = Candidates(moved(checkpoint, device), analysis, moments, settings, costs)
        found = search(candidates, asking or Asking(), progress=progress)
        asked = {**settings.shares} | ({} if settings.max_drop is None else {"max_drop": settings.max_drop})
        record = {"asked": asked, "reached": dict(found.candidate.sizes), "met": found.met}
        record["rule"] = str(found.candidate.rule)
        if found.score is not None and math.isfinite(found.score):
            record["score"] = found.score
        plan = candidates.plan(found.candidate, {"budget": {**record, **found.record}})
        if isinstance(seconds, Seconds):
            plan = plan.model_copy(update={"times": seconds.table.to_record()})
        return plan


_UNITS = {"keep": Parameters.unit, "macs": MultiplyAdds.unit, "latency": Seconds.unit}


def plan_again(plan: Plan, settings: BudgetSettings) -> Plan:
    """`plan_at` for the one size that settings ask for, which must be the measure of the plan's curve.

    Raises:
        SettingsError: it is another measure, or none, or several.
        PlanError: the plan has no curve.
    """
    asked = [*settings.shares, *(["latency"] if settings.milliseconds is not None else [])]
    if plan.curve is None:
        raise PlanError("the plan has no curve of prices: it was made for no budget, or for several at once")
    unit = plan.curve.get("unit")
    if len(asked) != 1 or settings.max_drop is not None or _UNITS[asked[0]] != unit:
        known = next((name for name, own in _UNITS.items() if own == unit), None)
        raise SettingsError([f"the plan knows what other budgets of {unit} would give: ask it for --{known} alone"])
    share = settings.shares.get(asked[0])
    if settings.milliseconds is not None:
        share = min(1.0, settings.milliseconds / 1000 / float(plan.curve["whole"]))
    assert share is not None
    return plan_at(plan, share)


def plan_at(plan: Plan, share: float) -> Plan:
    """The plan for another budget, from the curve that a plan carries: nothing is decomposed or measured.

    Args:
        plan: made by `plan_within` for one measure of size.
        share: of the whole that may be kept of that.

    Raises:
        PlanError: the plan has no curve.
        SettingsError: no cut is so small.
    """
    if plan.curve is None:
        raise PlanError("the plan has no curve of prices; plan the network within a budget")
    curve, whole, fixed = curve_of_record(plan.curve)
    if share * whole - fixed < curve.least * (1 - 1e-12):
        least = (fixed + curve.least) / whole
        raise SettingsError([f"a share of {share:g} cannot be reached: {least:.3g} is the least there is"])
    found = curve.at_cost(share * whole - fixed)
    reached = (fixed + found.cost) / whole
    name = next((name for name, unit in _UNITS.items() if unit == plan.curve.get("unit")), "budget")
    record = {"asked": {name: share}, "reached": {name: reached}, "met": True, "evaluations": 0}
    settings = {**plan.settings, "budget": record}

    def decided(decision: LayerDecision) -> LayerDecision:
        if decision.tensor not in found.ranks:
            return decision
        rank, loss = found.ranks[decision.tensor], found.losses[decision.tensor]
        changes = {"rank": rank, "action": "kept" if rank is None else "factorized"}
        predicted = loss if rank is not None and plan.basis == "two-sided" else None
        reason = f"rank {rank}" if rank is not None else "worth its whole size"
        return decision.model_copy(
            update={**changes, "predicted_loss": predicted, "reason": f"{reason} at this price"}
        )

    return plan.model_copy(update={"settings": settings, "layers": tuple(decided(each) for each in plan.layers)})
