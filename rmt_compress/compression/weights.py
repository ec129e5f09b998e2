"""What a plan makes of one weight; everything that compresses comes through here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from rmt_compress.compression.plan_checking import check_plan
from rmt_compress.decomposition.bases import Directions, basis_called, directions_of
from rmt_compress.decomposition.devices import worth_sending
from rmt_compress.errors import CompressionError, PlanError
from rmt_compress.layers.group_patterns import Pattern, pattern_called
from rmt_compress.layers.kinds import LayerKind
from rmt_compress.layers.layer import Layer, as_matrix, as_weight
from rmt_compress.layers.splitting import Factors, factor_matrices, factor_tensors, join_factors
from rmt_compress.plan import Action, LayerDecision, Plan
from rmt_compress.wording import listed, problems_listed

if TYPE_CHECKING:
    import torch

    from rmt_compress.decomposition.moments import Moments
    from rmt_compress.plan import Layout


@dataclass(frozen=True)
class LayerOutcome:
    """What was done to one tensor.

    Attributes:
        name: the layer's name.
        tensor: the weight's original name.
        kind: its kind.
        action: what was done; under layout ``dense`` a factorized layer is ``truncated``.
        rank: singular values kept; None unless factorized or truncated.
        reason: the plan's reason.
        parameters: entries of the original tensor.
        parameters_after: entries of what is stored for it.
        nonzeros: how many of these are not 0.
    """

    name: str
    tensor: str
    kind: str
    action: Action
    rank: int | None
    reason: str
    parameters: int
    parameters_after: int
    nonzeros: int

    def to_json(self) -> dict[str, Any]:
        """The keys of `prune --json`, in addition to those of `analyze --json`."""
        return asdict(self)


@dataclass(frozen=True)
class Step:
    """One layer and its decision, None where the plan does not name it; and how it is cut, None for a plain cut.

    `inputs` are the second moments of what it reads, where its pattern is chosen by them.
    """

    layer: Layer
    decision: LayerDecision | None
    layout: Layout
    directions: Directions | None = None
    inputs: torch.Tensor | None = None

    @property
    def changes(self) -> bool:
        """Whether the weight is touched at all."""
        return self.decision is not None and self.decision.changes

    @property
    def worth_sending(self) -> bool:
        """Whether a GPU changes the weight faster, its way there and back included."""
        if self.decision is None or self.layer.matrix is None:
            return False
        works = self.decision.rank is not None or self.decision.pattern_by is not None
        return works and worth_sending(*self.layer.matrix, directions=True)

    @property
    def splits(self) -> bool:
        """Whether the weight becomes two."""
        if self.layer.why_in_place is not None:
            return False
        return self.layout == "factorized" and self.decision is not None and self.decision.action == "factorized"

    @property
    def bias(self) -> str | None:
        """The bias that changes with the weight; None where there is none."""
        cut = self.decision is not None and self.decision.rank is not None
        return self.directions.bias if cut and self.directions is not None else None

    @property
    def rank(self) -> int:
        """Singular values that are kept of a layer that is cut."""
        assert self.decision is not None
        assert self.decision.rank is not None
        return self.decision.rank

    def apply(self, weight: torch.Tensor) -> Factors | torch.Tensor:
        """What becomes of the weight; see `compress_weight`."""
        if self.decision is None or not self.changes:
            return weight
        layout: Layout = "dense" if self.layer.why_in_place is not None else self.layout
        return compress_weight(
            self.layer, self.decision, weight, layout=layout, directions=self.directions, inputs=self.inputs
        )

    def correction(self, weight: torch.Tensor, result: Factors | torch.Tensor) -> torch.Tensor | None:
        """What the bias gains when the weight becomes `result`; see `Directions.correction`."""
        if self.bias is None or self.directions is None:
            return None
        if isinstance(result, Factors):
            wide = (part.double() for part in result)
            result = join_factors(self.layer.kind, self.layer.shape, *wide)
        return self.directions.correction(weight.detach(), result)

    def outcome(self, result: Factors | torch.Tensor) -> LayerOutcome:
        """The record of `result`."""
        from rmt_compress.layers.zeroing import count_nonzero

        parts: Sequence[torch.Tensor] = result if isinstance(result, Factors) else [result]
        decision, layer = self.decision, self.layer
        action: Action = decision.action if decision else "kept"
        reason = decision.reason if decision else "not in the plan"
        if action == "factorized" and layer.why_in_place is not None:
            reason += f"; in its own shape: {layer.why_in_place}"
        why = self.directions.why_plain if self.directions is not None and decision and decision.rank else None
        if why is not None and why not in reason:
            reason += f"; in its plain directions: {why}"
        return LayerOutcome(
            name=layer.name,
            tensor=layer.tensor,
            kind=layer.kind,
            action="truncated" if action == "factorized" and not self.splits else action,
            rank=decision.rank if decision else None,
            reason=reason,
            parameters=layer.parameters,
            parameters_after=sum(part.numel() for part in parts),
            nonzeros=sum(count_nonzero(part) for part in parts),
        )


def match_steps(layers: Sequence[Layer], plan: Plan, layout: Layout, moments: Moments | None = None) -> list[Step]:
    """Every layer with its decision, the plan checked against the layers and the moments that its basis needs."""
    basis = basis_called(plan.basis)
    check_plan(plan, layers)
    decisions = plan.by_tensor
    # A plan may know of a transposed convolution what names and shapes of a file do not tell, and what users say.
    told = [
        replace(layer, kind=cast(LayerKind, decision.kind))
        if (decision := decisions.get(layer.tensor)) and decision.rank is not None
        else layer
        for layer in layers
    ]
    shrinkage = None
    if plan.shrinkage is not None:
        from rmt_compress.decomposition.metrics import Shrinkage

        shrinkage = Shrinkage(**plan.shrinkage)
    cut = {decision.tensor for decision in plan.layers if decision.rank is not None}
    directions = directions_of(told, basis, moments, shrinkage, only=cut)
    inputs = _pattern_inputs(plan, told, moments)
    return [
        Step(layer, decisions.get(name := layer.tensor), layout, directions.get(name), inputs.get(name))
        for layer in told
    ]


def _pattern_inputs(plan: Plan, layers: Sequence[Layer], moments: Moments | None) -> dict[str, torch.Tensor]:
    """Tensor of each layer whose pattern its inputs choose -> E[x xᵀ] of these."""
    by_inputs = {decision.tensor for decision in plan.layers if decision.pattern_by == "inputs"}
    asked = {layer.tensor: layer for layer in layers if layer.tensor in by_inputs}
    if not asked:
        return {}
    from rmt_compress.decomposition.metrics import moments_problem

    known = {} if moments is None else moments.layers
    if missing := [name for name in asked if name not in known]:
        raise PlanError(
            f"the plan chooses the pattern of {listed(missing, 3)} by their inputs, of which no moments are given: "
            "give those that the network was calibrated with, or take pattern_by out of the plan"
        )
    problems = [
        f"{name}: {problem}"
        for name, layer in asked.items()
        if (problem := moments_problem(layer, known[name])) is not None
    ]
    if problems:
        raise PlanError(
            f"the moments are not those of this network: {problems_listed(problems)}; calibrate it anew"
        )
    return {name: known[name].inputs for name in asked}


def compress_weight(
    layer: Layer,
    decision: LayerDecision,
    weight: torch.Tensor,
    *,
    layout: Layout = "factorized",
    directions: Directions | None = None,
    inputs: torch.Tensor | None = None,
) -> Factors | torch.Tensor:
    """What one decision makes of one weight: two factors in their modules' shapes, or the weight in one piece.

    Args:
        layer: describes the weight.
        decision: what to do; taken to suit the layer, see `check_plan`.
        weight: of the layer's shape; it is not changed, but handed back as it is where nothing is to be done.
        layout: under ``dense``, factorized means truncated.
        directions: which are kept; None for those of the weight itself.
        inputs: E[x xᵀ] of what the layer reads, or its diagonal: what a pattern is chosen by; None for magnitudes.

    Returns:
        tensors of the weight's type, on its device.

    Raises:
        CompressionError: the weight holds NaN or Inf, or what becomes of it leaves the range of its type.
    """
    from rmt_compress.decomposition.svd import Decomposition
    from rmt_compress.layers.zeroing import sparsify, sparsify_quantile
    from rmt_compress.spectrum import NonFiniteError

    tensors: Sequence[torch.Tensor] = [weight.detach()]
    split = decision.action == "factorized" and layout == "factorized"
    if decision.action in ("factorized", "truncated"):
        assert decision.rank is not None
        try:
            found = (directions or Directions(layer)).decompose(weight.detach(), decision.rank)
        except NonFiniteError as error:
            raise CompressionError(
                f"{layer.tensor}: holds NaN or Inf and cannot be cut to a rank; leave it out (exclude)"
            ) from error
        if decision.shrink is not None and decision.sigma is not None:
            assert isinstance(found, Decomposition)  # `check_plan` refuses stacks
            found = found.shrunk(decision.sigma, decision.shrink)
        if split:
            tensors = factor_tensors(layer, *found.factors(decision.rank))
        else:
            tensors = [as_weight(layer, found.truncated(decision.rank))]
        if not all(bool(tensor.isfinite().all()) for tensor in tensors):
            held = str(weight.dtype).removeprefix("torch.")
            raise CompressionError(
                f"{layer.tensor}: at rank {decision.rank} it has entries that are too large for {held}; leave it "
                "out (exclude), or store it in a wider type first"
            )
    if decision.sparsify:
        tensors = [sparsify(tensor, decision.sparsify) for tensor in tensors]
    if decision.sparsity:
        tensors = sparsify_quantile(tensors, decision.sparsity)
    if decision.pattern is not None:
        tensors = _in_pattern(layer, decision.pattern, tensors, inputs)
    return Factors(*tensors) if split else tensors[0]


def _in_pattern(
    layer: Layer, text: str, tensors: Sequence[torch.Tensor], inputs: torch.Tensor | None
) -> list[torch.Tensor]:
    """A weight, or its factors, with k of every n entries of a row kept; a factor of other columns stays whole."""
    pattern = pattern_called(text)
    if len(tensors) == 1:
        return [as_weight(layer, _kept(as_matrix(layer, tensors[0]), pattern, inputs))]
    down, up = factor_matrices(layer.kind, Factors(*tensors))
    down = _kept(down, pattern, inputs)
    if inputs is not None and inputs.dim() == 2:
        # What the second factor reads is what the first one, as it has become, makes of its inputs.
        wide = down.to(inputs.device, inputs.dtype)
        inputs = wide @ inputs @ wide.T
    elif inputs is not None:
        wide = down.to(inputs.device, inputs.dtype)
        inputs = (wide.square() * inputs).sum(1)
    return list(factor_tensors(layer, down, _kept(up, pattern, inputs)))


def _kept(matrix: torch.Tensor, pattern: Pattern, inputs: torch.Tensor | None) -> torch.Tensor:
    from rmt_compress.decomposition.group_choice import kept_by_inputs, kept_by_magnitude

    if matrix.shape[1] % pattern.of:
        return matrix
    return kept_by_magnitude(matrix, pattern) if inputs is None else kept_by_inputs(matrix, pattern, inputs)
