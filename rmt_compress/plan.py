"""From an analysis to one decision per layer: plain data that can be read, edited by hand and used again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rmt_compress.errors import PlanError, SettingsError
from rmt_compress.layers.factors import untransposed
from rmt_compress.layers.low_rank import split_parameters, split_refusal
from rmt_compress.layers.matrix_view import FLOAT_DTYPES
from rmt_compress.rank_rules import RANK_RULES, RankRule, rank_to_keep

if TYPE_CHECKING:
    from rmt_compress.analysis import Analysis, LayerAnalysis
    from rmt_compress.layers.matrix_view import Layer

Action = Literal["factorized", "truncated", "kept", "skipped"]
WhenNotSmaller = Literal["keep", "truncate"]

_SHOWN = 5


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
            name, _ = self.rule_and_amount
            if name != "bema" and self.keep_bulk:
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
        """The rule's name and its number.

        Raises:
            ValueError: no such rule, or a number that does not suit it.
        """
        known = "bema, energy:SHARE, gd14, ratio:SHARE or rank:COUNT"
        name, _, text = self.rule.partition(":")
        rule = next((candidate for candidate in RANK_RULES if candidate == name), None)
        if rule is None or bool(text) != (rule in ("energy", "ratio", "rank")):
            raise ValueError(f"the rule must be {known}, got {self.rule!r}")
        if not text:
            return rule, self.keep_bulk
        try:
            amount = float(text)
        except ValueError:
            raise ValueError(f"the rule must be {known}, got {self.rule!r}") from None
        if rule == "rank" and not (amount >= 1 and amount.is_integer()):
            raise ValueError(f"rank:COUNT needs a whole number of at least 1, got {text}")
        if rule != "rank" and not 0 < amount <= 1:
            raise ValueError(f"{rule}:SHARE needs a share above 0 and at most 1, got {text}")
        return rule, amount


class LayerDecision(BaseModel):
    """What is done to one layer, and why.

    Attributes:
        name: the layer's name in the analysis.
        tensor: its weight's full name in the checkpoint.
        kind: its kind.
        shape: its weight's shape.
        action: ``factorized`` (two layers of rank `rank`), ``truncated`` (rank `rank` in the old shape), ``kept``
            or ``skipped`` (not looked at).
        rank: singular values kept; None unless factorized or truncated.
        sparsify: entries with |w| below this become 0, in the factors where there are two; None for none.
        sparsity: share of the smallest entries that become 0; None for none.
        reason: why, in words.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    tensor: str
    kind: str
    shape: tuple[int, ...]
    action: Action
    rank: Annotated[int, Field(ge=1)] | None = None
    sparsify: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    sparsity: Annotated[float, Field(ge=0, lt=1)] | None = None
    reason: str = ""

    @property
    def changes(self) -> bool:
        """Whether applying this decision touches the weight at all."""
        return self.action in ("factorized", "truncated") or bool(self.sparsify or self.sparsity)


class Plan(BaseModel):
    """One decision per tensor of a checkpoint.

    Attributes:
        schema_: the format of the JSON text.
        settings: what the plan was made with, for the record.
        layers: the decisions, in the checkpoint's order.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    schema_: Literal["rmt-compress/plan/1"] = Field(default="rmt-compress/plan/1", alias="schema")
    settings: dict[str, Any] = Field(default_factory=dict)
    layers: tuple[LayerDecision, ...]

    def to_json(self) -> str:
        """The plan as indented JSON text."""
        return self.model_dump_json(by_alias=True, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, *, origin: str = "the plan") -> Plan:
        """A plan from JSON text, every field checked.

        Raises:
            PlanError: no JSON, or a field that is wrong; all problems in one line, after `origin`.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            problems = [
                f"{'.'.join(str(part) for part in problem['loc']) or 'the text'}: {problem['msg']}"
                for problem in error.errors()
            ]
            raise PlanError(f"{origin}: is no plan: {_listed(problems)}") from error

    @property
    def by_tensor(self) -> dict[str, LayerDecision]:
        """The decisions by the weight's name in the checkpoint."""
        return {decision.tensor: decision for decision in self.layers}

    def check_against(self, layers: Sequence[Layer], *, origin: str = "the plan") -> None:
        """Make sure the plan can be applied to these layers.

        Raises:
            PlanError: an unknown layer, one named twice, another shape or kind, a rank that is too large, a split
                that would grow a layer or that the layer's kind does not allow, entries to be zeroed where none
                may be; all problems at once.
        """
        known = {layer.tensor: layer for layer in layers}
        firsts = {alias: layer.tensor for layer in layers for alias in layer.aliases}
        problems = []
        seen: set[str] = set()
        for decision in self.layers:
            layer = known.get(decision.tensor)
            if decision.tensor in seen:
                problems.append(f"{decision.tensor} is decided twice")
            elif decision.tensor in firsts:
                problems.append(f"{decision.tensor} is another name of {firsts[decision.tensor]}: decide that one")
            elif layer is None:
                problems.append(f"no tensor {decision.tensor} in the checkpoint")
            elif layer.shape != decision.shape:
                problems.append(f"{decision.tensor} is {_x(layer.shape)} here, {_x(decision.shape)} in the plan")
            elif (problem := _problem(decision, layer)) is not None:
                problems.append(f"{decision.tensor}: {problem}")
            seen.add(decision.tensor)
        if problems:
            raise PlanError(f"{origin} does not suit this checkpoint: {_listed(problems)}")


def load_plan(path: str | Path) -> Plan:
    """Read a plan from a JSON file.

    Raises:
        PlanError: the file cannot be read or is no plan.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"{path}: cannot be read as a plan: {error}") from error
    return Plan.from_json(text, origin=str(path))


def make_plan(
    analysis: Analysis,
    *,
    gof: float | None = None,
    gof_conv: float | None = None,
    rule: str = "bema",
    keep_bulk: float = 0.0,
    rank_multiple: int = 1,
    when_not_smaller: WhenNotSmaller = "keep",
    sparsify: float | None = None,
    sparsity: float | None = None,
) -> Plan:
    """Decide what to do with every layer of an analysis; see `PlanSettings` for the arguments.

    Args:
        analysis: of the checkpoint that is to be compressed.
        gof: None for the threshold of the analysis.
        gof_conv: threshold for convolutions.
        rule: how the rank is chosen.
        keep_bulk: share of the bulk kept.
        rank_multiple: ranks are rounded up to a multiple of this.
        when_not_smaller: ``keep`` or ``truncate``.
        sparsify: magnitude threshold.
        sparsity: share of entries zeroed in each weight.

    Raises:
        SettingsError: a setting is out of range.
    """
    settings = PlanSettings(
        gof=analysis.settings.gof if gof is None else gof,
        gof_conv=gof_conv,
        rule=rule,
        keep_bulk=keep_bulk,
        rank_multiple=rank_multiple,
        when_not_smaller=when_not_smaller,
        sparsify=sparsify,
        sparsity=sparsity,
    )
    record: Mapping[str, Any] = {
        "alpha": analysis.settings.alpha,
        "beta": analysis.settings.beta,
        "quantiles": analysis.settings.quantiles,
        **settings.__dict__,
    }
    return Plan(settings=dict(record), layers=tuple(decide(layer, settings) for layer in analysis.layers))


def decide(analysis: LayerAnalysis, settings: PlanSettings) -> LayerDecision:
    """The decision for one layer."""
    layer = analysis.layer
    action, rank, reason = _action(analysis, settings)
    # Damaged and left-out layers are not touched at all; small ones (an output layer) may still be sparsified.
    sparsify = may_sparsify(layer) and analysis.finite and not analysis.left_out
    return LayerDecision(
        name=layer.name,
        tensor=layer.tensor,
        kind=layer.kind,
        shape=layer.shape,
        action=action,
        rank=rank,
        sparsify=settings.sparsify if sparsify else None,
        sparsity=settings.sparsity if sparsify else None,
        reason=reason,
    )


def may_sparsify(layer: Layer) -> bool:
    """Whether entries of a layer's weight may become zero.

    Not so of a tied weight, of which one place may be an embedding table, nor of a parameter that is no layer's
    weight.
    """
    return (
        _sparsification_refusal(layer) is None
        and not _is_tied(layer)
        and (layer.in_graph or layer.kind == "recurrent" or layer.stored.endswith("weight"))
    )


def _action(analysis: LayerAnalysis, settings: PlanSettings) -> tuple[Action, int | None, str]:
    layer, fit = analysis.layer, analysis.fit
    if fit is None or layer.matrix is None:
        return "skipped", None, analysis.reason or ""
    rule, amount = settings.rule_and_amount
    gof = settings.gof
    if settings.gof_conv is not None and layer.kind.startswith("conv"):
        gof = settings.gof_conv
    if rule == "bema" and fit.gof > gof:
        return "kept", None, f"fit error {fit.gof:.3f} is above {gof:g}: its bulk is no noise"
    rank = rank_to_keep(analysis, rule, amount)
    rank = min(fit.p, -(-rank // settings.rank_multiple) * settings.rank_multiple)
    because = f"{fit.spikes} spikes, {rank - fit.spikes} of the bulk kept" if rule == "bema" else settings.rule
    before, after = layer.parameters, split_parameters(*layer.matrix, rank)
    refusal = split_refusal(layer)
    if refusal is None and after >= before:
        refusal = f"a split at rank {rank} would not be smaller ({after:,} of {before:,} parameters)"
    if refusal is None:
        return "factorized", rank, f"rank {rank} of {fit.p}: {because}"
    if settings.when_not_smaller == "truncate" and rank < fit.p and not (_is_tied(layer) or layer.fixed):
        return "truncated", rank, f"rank {rank} of {fit.p} in its own shape: {refusal}"
    return "kept", None, refusal


def _problem(decision: LayerDecision, layer: Layer) -> str | None:
    """Why a hand-edited decision cannot be applied to its layer."""
    if decision.sparsify or decision.sparsity:
        if decision.sparsify and decision.sparsity:
            return "sparsify and sparsity are two ways to choose a threshold: give one"
        if (refusal := _sparsification_refusal(layer)) is not None:
            return refusal
    if decision.action not in ("factorized", "truncated"):
        return None if decision.rank is None else f"a {decision.action} layer has no rank"
    if decision.rank is None:
        return f"a {decision.action} layer needs a rank"
    if (reason := layer.skip_reason(min_size=1, embeddings=True)) is not None or layer.matrix is None:
        return f"cannot be {decision.action}: {reason}"
    if layer.fixed is not None:
        return f"cannot be {decision.action}: {layer.fixed}"
    # The groups of a convolution and whether it is transposed are often known to a module only.
    if layer.kind not in (decision.kind, untransposed(decision.kind)):
        return f"is of kind {layer.kind} here, {decision.kind} in the plan"
    if decision.rank > min(layer.matrix):
        return f"rank {decision.rank} is above its {min(layer.matrix)} singular values"
    if decision.action == "factorized":
        if (refusal := split_refusal(layer)) is not None:
            return refusal
        if split_parameters(*layer.matrix, decision.rank) >= layer.parameters:
            return f"a split at rank {decision.rank} would not be smaller"
    return None


def _sparsification_refusal(layer: Layer) -> str | None:
    """Why no entry of a tensor may be zeroed: biases, norms, embedding tables, buffers, whole numbers."""
    if layer.kind not in ("linear", "linear_transposed", "recurrent") and not layer.kind.startswith("conv"):
        return f"no entry of a tensor of kind {layer.kind} may be zeroed"
    if (reason := layer.skip or layer.fixed) is not None:
        return f"none of its entries may be zeroed: {reason}"
    if layer.dtype not in FLOAT_DTYPES:
        return f"none of its entries may be zeroed: stored as {layer.dtype}"
    return None


def _is_tied(layer: Layer) -> bool:
    return bool(layer.aliases) and not layer.shared


def _listed(problems: Sequence[str]) -> str:
    more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    return "; ".join(problems[:_SHOWN]) + more


def _x(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape)) or "a scalar"
