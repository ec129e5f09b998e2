"""What a plan is asked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from rmt_compress.errors import SettingsError
from rmt_compress.planning.rank_rule import RankRule
from rmt_compress.planning.rules import rule_and_number

WhenNotSmaller = Literal["keep", "truncate"]


@dataclass(frozen=True)
class PlanSettings:
    """What decides a plan; names every problem at once.

    Attributes:
        gof: largest fit error of a layer that is cut (rule ``bema`` only; the others cut every analysed layer).
        gof_conv: the same for convolutions; None for `gof`.
        rule: ``bema``, ``energy:SHARE``, ``gd14``, ``ratio:SHARE`` or ``rank:COUNT``; see `rank_rules`.
        keep_bulk: share f of the bulk that ``bema`` keeps beside the spikes, in [0, 1].
        rank_multiple: ranks are rounded up to a multiple of this.
        when_not_smaller: what becomes of a layer that a split would not shrink: ``keep`` it (SJK23) or
            ``truncate`` it in its own shape (BSSZ24's code).
        sparsify: entries with |w| below this become 0 (BSSZ24 §4.2.1); None for none.
        sparsity: the share of each weight's entries, the smallest, that become 0; not with `sparsify`.

    Raises:
        SettingsError: listing everything that is out of range.
    """

    gof: float = 0.1
    gof_conv: float | None = None
    rule: str = "bema"
    keep_bulk: float = 0.0
    rank_multiple: int = 1
    when_not_smaller: WhenNotSmaller = "keep"
    sparsify: float | None = None
    sparsity: float | None = None

    def __post_init__(self) -> None:
        problems = [
            f"{name} must lie between 0 and 1, got {value:g}"
            for name, value in (("gof", self.gof), ("gof-conv", self.gof_conv), ("keep-bulk", self.keep_bulk))
            if value is not None and not 0 <= value <= 1
        ]
        try:
            rule, _ = self.rule_and_amount
            if not rule.from_spikes and self.keep_bulk:
                problems.append(f"keep-bulk belongs to the rule bema, not to {self.rule}")
        except ValueError as error:
            problems.append(str(error))
        if self.rank_multiple < 1:
            problems.append(f"rank-multiple must be at least 1, got {self.rank_multiple}")
        if self.when_not_smaller not in ("keep", "truncate"):
            problems.append(f"when-not-smaller must be keep or truncate, got {self.when_not_smaller!r}")
        if self.sparsify is not None and not 0 <= self.sparsify < math.inf:
            problems.append(f"sparsify must be a threshold of 0 or more, got {self.sparsify:g}")
        if self.sparsity is not None and not 0 <= self.sparsity < 1:
            problems.append(f"sparsity must lie in [0, 1), got {self.sparsity:g}")
        if self.sparsify is not None and self.sparsity is not None:
            problems.append("sparsify and sparsity are two ways to choose a threshold: give one")
        if problems:
            raise SettingsError(problems)

    @property
    def rule_and_amount(self) -> tuple[RankRule, float]:
        """The rule and its number.

        Raises:
            ValueError: no such rule, or a number that does not suit it.
        """
        rule, number = rule_and_number(self.rule)
        return rule, self.keep_bulk if number is None else number
