"""A budget of time: the table that plans are made by, and the network that comes out, really timed.

The table predicts what a cut takes; how the layers of the whole network meet in the caches it cannot know. So both
networks are run in turns at the end, and where the smaller one is slower than was asked, it is planned again for so
much less.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmt_compress.checkpoints.graph_network import GraphNetwork
from rmt_compress.errors import PlanError, SettingsError
from rmt_compress.layers.treating import matches
from rmt_compress.networks.calling import first_axis
from rmt_compress.networks.file_names import SAME_NAMES, FileNames
from rmt_compress.networks.latency import Timer, seconds_in_turns
from rmt_compress.networks.layer_times import device_name, measure_times
from rmt_compress.networks.measurement import example_inputs
from rmt_compress.plan import load_plan
from rmt_compress.planning.choices import cut_refusal
from rmt_compress.planning.costs import Seconds
from rmt_compress.planning.times import LatencyTable
from rmt_compress.planning.within import plan_at
from rmt_compress.wording import counted

if TYPE_CHECKING:
    from torch import nn

    from rmt_compress.analysis.records import Analysis
    from rmt_compress.networks.tasks.task import Task
    from rmt_compress.plan import Plan
    from rmt_compress.planning.budgets import BudgetSettings
    from rmt_compress.progress import Progress
    from rmt_compress.pruning.repairs import CarriedOut

_PLANS = 3
"""The most plans that are made until one is as fast as was asked."""
_AIM = 0.99
"""Of what a plan that was too slow says that it must become."""


@dataclass(frozen=True, eq=False)
class Stopwatch:
    """One network and the inputs that it, and what it becomes, are timed with.

    Attributes:
        model: the network as it is.
        inputs: a batch as it is called with.
        timer: what times networks; None for the clock.
        names: what the layers of a plan are called in the network.
    """

    model: nn.Module
    inputs: Any
    timer: Timer | None
    names: FileNames = SAME_NAMES

    @classmethod
    def of(
        cls,
        model: nn.Module,
        task: Task,
        batch: int | None,
        timer: Timer | None,
        names: FileNames = SAME_NAMES,
    ) -> Stopwatch:
        """With the first `batch` samples of a task; None for as many as it takes at once.

        Raises:
            SettingsError: a graph, whose layers nobody can time.
        """
        if isinstance(model, GraphNetwork):
            raise SettingsError(
                ["latency: the layers of a graph cannot be timed one by one; use --keep or --max-drop instead"]
            )
        return cls(model, example_inputs(model, task, batch or task.batch_size), timer, names)

    def seconds(
        self, analysis: Analysis, budget: BudgetSettings, times: Path | None, progress: Progress | None
    ) -> Seconds:
        """What the layers that may be cut take, measured or from a plan file."""
        if times is not None:
            record = load_plan(times).times
            if record is None:
                raise PlanError(f"{times}: holds no times; make it with --latency and --save-plan")
            return Seconds(LatencyTable.of_record(record))
        layers = [
            replace(each.layer, tensor=self.names.in_network(each.layer.tensor))
            for each in analysis.analyzed
            if cut_refusal(each.layer) is None and not any(matches(each.layer, glob) for glob in budget.exclude)
        ]
        table = measure_times(self.model, self.inputs, layers, timer=self.timer, progress=progress)
        shapes = (replace(each, layers=tuple(map(self.names.in_file, each.layers))) for each in table.shapes)
        return Seconds(replace(table, shapes=tuple(shapes)))

    def beside(self, small: nn.Module) -> tuple[float, float]:
        """Seconds of the network as it is and of another, in turns."""
        clock = self.timer or seconds_in_turns
        before, after = clock([(self.model, self.inputs), (small, self.inputs)])
        return before, after


@dataclass(frozen=True, eq=False)
class Timed:
    """A plan within a budget of time.

    Attributes:
        plan: the decisions.
        result: what they make of the network.
        record: both times and what they were allowed to be: plain JSON.
        missed: why the budget was missed; empty where it is kept.
        notes: remarks for the user.
    """

    plan: Plan
    result: CarriedOut
    record: dict[str, Any]
    missed: tuple[str, ...]
    notes: tuple[str, ...]


def within_time(
    stopwatch: Stopwatch,
    budget: BudgetSettings,
    plan_of: Callable[[BudgetSettings], Plan],
    carried_out: Callable[[Plan], CarriedOut],
) -> Timed:
    """Plan, carry out, time; where that is too slow, again for less, `_PLANS` times at most.

    Args:
        stopwatch: what times both networks.
        budget: what is asked, `latency` among it.
        plan_of: the plan for settings.
        carried_out: the network that a plan makes.

    Raises:
        SettingsError: the budget cannot be reached even by the table.
    """
    plan, evaluations = plan_of(budget), 0
    for made in range(1, _PLANS + 1):
        evaluations += plan.settings["budget"]["evaluations"]
        result = carried_out(plan)
        with result.network() as small:
            before, after = stopwatch.beside(small)
        limit = budget.milliseconds
        allowed = before * budget.shares["latency"] if limit is None else limit / 1000
        if after <= allowed or made == _PLANS:
            break
        smaller = plan.settings["budget"]["reached"]["latency"] * _AIM * allowed / after
        try:
            # What has won once is not sought again.
            won = {"metric": plan.basis, "scaling": plan.settings["scaling"], "search": "one"}
            alone = plan.curve is not None and budget.max_drop is None
            plan = plan_at(plan, smaller) if alone else plan_of(replace(budget, latency=smaller, **won))
        except SettingsError:
            break
    batch = counted(first_axis(stopwatch.inputs), "sample")
    record = {
        "before_ms": 1000 * before,
        "after_ms": 1000 * after,
        "share": after / before,
        "allowed_ms": 1000 * allowed,
        "predicted_share": plan.settings["budget"]["reached"]["latency"],
        "batch": first_axis(stopwatch.inputs),
        "device": device_name(stopwatch.model),
        "plans": made,
        "evaluations": evaluations,
    }
    said = f"one pass of {batch} takes {_shown(after)} where it took {_shown(before)} ({after / before:.0%})"
    notes = [f"timed in turns, medians: {said}; {record['device']}"]
    known = plan.times or {}
    if known.get("device") != record["device"] or known.get("batch") != record["batch"]:
        notes.append(
            f"the times of the plan are those of {known.get('device')}, {known.get('batch')} samples at once"
        )
    missed = () if after <= allowed else (f"{said}, more than the {_shown(allowed)} that it may",)
    return Timed(plan, result, record, missed, tuple(notes))


def _shown(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms"
