"""By how much a score may fall: what the user wrote, what is asked, and whether the drop was kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rmt_compress.networks.calibration_settings import SELF
from rmt_compress.networks.tasks.agreement import Agreement
from rmt_compress.networks.tasks.drops import allowed_drop
from rmt_compress.planning.margins import Judgement

if TYPE_CHECKING:
    from torch import nn

    from rmt_compress.networks.tasks.questions import Question
    from rmt_compress.networks.tasks.task import Score, Task
    from rmt_compress.planning.budgets import BudgetSettings
    from rmt_compress.pruning.calibration import Calibration

_MUCH_SMALLER = 0.75


@dataclass(frozen=True, eq=False)
class Drop:
    """What a `max_drop` is asked on.

    Attributes:
        allowed: the fall that candidates may have, in the score's own unit.
        confidence: that it holds on fresh samples; .5 for no margin.
        whole: the selection task's score of the network as it is.
        task: what says at last whether the drop was kept.
        fresh: its score of the network as it is; None where it is the selection task itself.
        bound: the fall that is allowed on `task`.
        chose: what is said of its samples.
    """

    allowed: float
    confidence: float
    whole: Score
    task: Task
    fresh: Score | None
    bound: float
    chose: str

    @classmethod
    def of(
        cls,
        typed: str | None,
        budget: BudgetSettings,
        calibrate: str | None,
        model: nn.Module,
        question: Question | None,
        calibration: Calibration,
    ) -> Drop:
        """What a `max_drop` means for a network, which is asked here as it is.

        Args:
            typed: what the user wrote: points of a share, else a number or a percentage of the score; None for
                what `budget` says.
            budget: its `max_drop` in the score's own unit, and the confidence.
            calibrate: what the inputs are, as in `CalibrationSettings`.
            model: the network, uncut.
            question: what it is asked about data; None without data.
            calibration: whose selection task chooses.

        Raises:
            SettingsError: it is no number of at least 0.
        """

        def amount(full: Score) -> float:
            return budget.max_drop or 0.0 if typed is None else allowed_drop(typed, full.metric, full.value)

        whole = calibration.selection.score(model)
        allowed = amount(whole)
        if question is None or not question.has_data:
            chose = "chose it, made by the network itself: of others nothing is known"
            if calibrate not in (None, SELF):
                chose = "chose it: of others nothing is known"
            return cls(allowed, budget.confidence, whole, calibration.selection, None, allowed, chose)
        task = lasting(question.part("test"))
        fresh = task.score(model)
        return cls(allowed, budget.confidence, whole, task, fresh, amount(fresh), "chose nothing")

    def record(self, left: Score) -> dict[str, Any]:
        """What was measured of the network that was chosen, plain JSON."""
        full = self._full.value
        return {
            "full": full,
            "left": left.value,
            "drop": self.task.metric.worse_by(left.value, full),
            "allowed": self.bound,
            "confidence": self.confidence,
            "samples": left.samples,
            "test_evaluations": 1 if self.fresh is None else 2,
        }

    def missed(self, left: Score) -> list[str]:
        """Why the drop was not kept, a sentence; none where it was."""
        metric, full = self.task.metric, self._full.value
        if metric.worse_by(left.value, full) <= self.bound + 1e-12:
            return []
        return [
            f"the {metric.name} is {metric.shown(left.value)} where it was {metric.shown(full)}: "
            f"{metric.change(left.value, full)} on {left.samples:,} samples that {self.chose}"
        ]

    def uncertain(self, found: Mapping[str, Any]) -> list[str]:
        """That a much smaller network did not fall more, but the samples cannot tell; none where there is none.

        Args:
            found: the record of the search; of its `tried` the first is the network as it is, and `margin` what is
                added to the drop of each.
        """
        uncut, *cuts = found["tried"]
        margins = [
            each["margin"]
            for each in cuts
            if each["keep"] < _MUCH_SMALLER * found["reached"]["keep"]
            and each["score"] is not None
            and uncut["score"] - each["score"] <= self.allowed < each.get("margin", 0.0)
        ]
        if self.fresh is None or not margins:
            return []
        noise, allowed = (self.task.metric.change(each, 0.0).lstrip("+") for each in (min(margins), self.allowed))
        return [
            f"of {self.whole.samples:,} samples a drop is uncertain by {noise}, more than the {allowed} it may "
            "have: a smaller network may keep it; ask more (--selection-samples) or be less sure (--confidence)"
        ]

    @property
    def _full(self) -> Score:
        return self.whole if self.fresh is None else self.fresh


def lasting(task: Task) -> Task:
    """A task that knows what the network answers as it is, also while a cut stands in its place."""
    return task.remembered() if isinstance(task, Agreement) and task.answers is None else task


def judged(score: Score) -> Judgement:
    """A score as a search compares it: higher is better."""
    sign = 1.0 if score.metric.higher_is_better else -1.0
    return Judgement(sign * score.value, None if score.each is None else sign * score.each)
