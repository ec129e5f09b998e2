"""What a plan is asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rmt_compress.analysis.settings import NOISE_AND_CUTS
from rmt_compress.layers.group_patterns import pattern_called
from rmt_compress.planning.rank_rule import RankRule
from rmt_compress.planning.rules import rule_and_number, usage
from rmt_compress.settings.declaring import setting
from rmt_compress.settings.validation import problems_of, refuse

WhenNotSmaller = Literal["keep", "truncate"]
# That of `compression.zero_budget`, on the same floor.
SparsifyBudget = Literal["uniform", "magnitude", "edge", "alpha"]
# Beside "none" those of `plan`, which brings pydantic with it and would keep `--help` waiting.
Shrink = Literal["none", "frobenius", "operator", "nuclear"]


@dataclass(frozen=True)
class PlanSettings:
    """What decides a plan; names every problem at once.

    Attributes:
        gof: largest fit error of a layer that is cut (rule ``bema`` only; the others cut every analysed layer);
            None for the threshold of the analysis.
        gof_conv: the same for convolutions; None for `gof`.
        rule: ``bema``, ``energy:SHARE``, ``gd14``, ``ratio:SHARE`` or ``rank:COUNT``; see `planning.rules`.
        keep_bulk: share f of the bulk that ``bema`` keeps beside the spikes, in [0, 1].
        rank_multiple: ranks are rounded up to a multiple of this.
        when_not_smaller: what becomes of a layer that a split would not shrink: ``keep`` it (SJK23) or
            ``truncate`` it in its own shape (BSSZ24's code).
        shrink: the loss by which the singular values that a cut keeps are shrunk, see
            `rmt_compress.spectrum.spikes`; directions that it would leave nothing of are not kept.
        sparsify: entries with |w| below this become 0 (BSSZ24 §4.2.1); None for none.
        sparsity: the share of the entries of the weights that may be sparsified, the smallest, that become 0; not
            with `sparsify`.
        pattern: ``K:N``, K of every N neighbouring entries are kept; not with the other two.
        sparsify_budget: how the commands divide `sparsity` between layers, see `compression.zero_budget`.

    Raises:
        SettingsError: listing everything that is out of range.
    """

    gof: float | None = setting(None, within="[0, 1]")
    gof_conv: float | None = setting(
        None, "The same for convolutions; by default --gof.", within="[0, 1]", panel=NOISE_AND_CUTS
    )
    rule: str = setting(
        "bema",
        f"How the rank is chosen: {usage()}.",
        panel=NOISE_AND_CUTS,
    )
    keep_bulk: float = setting(
        0.0,
        "Share of the noise directions to keep beside the spikes, 0 to 1.",
        within="[0, 1]",
        panel=NOISE_AND_CUTS,
    )
    rank_multiple: int = setting(
        1,
        "Round ranks up to a multiple of this, for hardware that likes it.",
        within="[1, inf)",
        minimum=1,
        panel=NOISE_AND_CUTS,
    )
    when_not_smaller: WhenNotSmaller = setting(
        "keep",
        "A layer that a split would not shrink: keep it, or truncate it in its own shape.",
        panel=NOISE_AND_CUTS,
    )
    shrink: Shrink = setting(
        "none",
        "Shrink the singular values that a cut keeps to what of them is signal, nearest to it in this norm.",
        panel=NOISE_AND_CUTS,
    )
    sparsify: float | None = setting(
        None,
        "Set weights smaller than this to zero.",
        within="[0, inf)",
        said="must be a threshold of 0 or more",
        metavar="XI",
    )
    sparsity: float | None = setting(
        None, "Set this share of the layers' weights to zero, the smallest.", within="[0, 1)"
    )
    sparsify_budget: SparsifyBudget = setting(
        "uniform",
        "How --sparsity is divided: the same share of every layer, the smallest of all layers together "
        "(magnitude), these weighed by noise edges, or more of layers of a lighter tail (alpha).",
    )

    pattern: str | None = setting(
        None,
        "Keep K of every N neighbouring weights of a row, N up to 16: the largest, or with --moments those that "
        "change the outputs least.",
        metavar="K:N",
    )

    def __post_init__(self) -> None:
        problems = problems_of(self)
        try:
            rule, _ = self.rule_and_amount
            if not rule.from_spikes and self.keep_bulk:
                problems.append(f"keep-bulk belongs to the rule bema, not to {self.rule}")
        except ValueError as error:
            problems.append(str(error))
        if self.shrink != "none" and self.keep_bulk:
            problems.append("shrink leaves nothing of the bulk that keep-bulk keeps: leave out one of them")
        if self.sparsify is not None and self.sparsity is not None:
            problems.append("sparsify and sparsity are two ways to choose a threshold: give one")
        if self.pattern is not None:
            try:
                pattern_called(self.pattern)
            except ValueError as error:
                problems.append(str(error))
            if self.sparsify is not None or self.sparsity is not None:
                problems.append("a pattern says itself how many entries go: leave out sparsify and sparsity")
        if self.sparsify_budget != "uniform" and self.sparsity is None:
            problems.append(f"sparsify-budget {self.sparsify_budget} divides a share of zeros: add --sparsity")
        refuse(problems)

    @property
    def rule_and_amount(self) -> tuple[RankRule, float]:
        """The rule and its number; a `ValueError` where there is no such rule or its number does not suit."""
        rule, number = rule_and_number(self.rule)
        return rule, self.keep_bulk if number is None else number
