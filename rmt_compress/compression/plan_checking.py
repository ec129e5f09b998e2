"""Whether a plan suits a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence

from rmt_compress.errors import PlanError
from rmt_compress.layers.group_patterns import pattern_called
from rmt_compress.layers.kinds import KINDS, untransposed
from rmt_compress.layers.layer import Layer
from rmt_compress.layers.splitting import pattern_refusal, split_refusal, zeroing_refusal
from rmt_compress.layers.treating import retold
from rmt_compress.plan import LayerDecision, Plan
from rmt_compress.wording import problems_listed, times


def check_plan(plan: Plan, layers: Sequence[Layer], *, origin: str = "the plan") -> None:
    """Refuse a plan that cannot be applied to these layers, all problems at once.

    They are: an unknown layer, one named twice, another shape or kind, a rank that is too large, a split that would
    grow a layer or that its kind does not allow, entries to be zeroed where none may be.
    """
    known = {layer.tensor: layer for layer in layers}
    firsts = {alias: layer.tensor for layer in layers for alias in layer.aliases}
    problems = []
    if plan.basis != "plain" and any(decision.shrink for decision in plan.layers):
        problems.append(f"shrink is for the basis plain, not for {plan.basis}")
    seen: set[str] = set()
    for decision in plan.layers:
        layer = known.get(decision.tensor)
        layer = layer and retold(layer, decision.kind)
        if decision.tensor in seen:
            problems.append(f"{decision.tensor} is decided twice")
        elif decision.tensor in firsts:
            problems.append(f"{decision.tensor} is another name of {firsts[decision.tensor]}: decide that one")
        elif layer is None:
            problems.append(f"no tensor {decision.tensor} in the checkpoint")
        elif layer.shape != decision.shape:
            problems.append(f"{decision.tensor} is {times(layer.shape)} here, {times(decision.shape)} in the plan")
        elif (problem := _problem(decision, layer)) is not None:
            problems.append(f"{decision.tensor}: {problem}")
        seen.add(decision.tensor)
    if problems:
        raise PlanError(f"{origin} does not suit this checkpoint: {problems_listed(problems)}")


def _problem(decision: LayerDecision, layer: Layer) -> str | None:
    """Why a hand-edited decision cannot be applied to its layer."""
    if decision.pattern is not None:
        if decision.sparsify or decision.sparsity:
            return "a pattern says itself how many entries go: leave out sparsify and sparsity"
        try:
            pattern = pattern_called(decision.pattern)
        except ValueError as error:
            return str(error)
        if (refusal := pattern_refusal(layer, pattern, decision.rank)) is not None:
            return refusal
    if decision.sparsify or decision.sparsity:
        if decision.sparsify and decision.sparsity:
            return "sparsify and sparsity are two ways to choose a threshold: give one"
        if (refusal := zeroing_refusal(layer)) is not None:
            return refusal
    if (decision.shrink is None) != (decision.sigma is None):
        return "shrink and sigma belong together"
    if decision.shrink is not None and (decision.rank is None or KINDS[layer.kind].stacked):
        return "shrink is of one matrix that is cut to a rank"
    if decision.action not in ("factorized", "truncated"):
        return None if decision.rank is None else f"a {decision.action} layer has no rank"
    if decision.rank is None:
        return f"a {decision.action} layer needs a rank"
    if (reason := layer.skip_reason(embeddings=True)) is not None or layer.matrix is None:
        return f"cannot be {decision.action}: {reason}"
    if layer.why_fixed is not None:
        return f"cannot be {decision.action}: {layer.why_fixed}"
    # The groups of a convolution and whether it is transposed are often known to a module only.
    if layer.kind not in (decision.kind, untransposed(decision.kind)):
        return f"is of kind {layer.kind} here, {decision.kind} in the plan"
    if decision.rank > min(layer.matrix):
        return f"rank {decision.rank} is above its {min(layer.matrix)} singular values"
    if decision.action == "factorized":
        if (refusal := split_refusal(layer)) is not None:
            return refusal
        if layer.factor_parameters(decision.rank) >= layer.parameters:
            return f"a split at rank {decision.rank} would not be smaller"
    return None
