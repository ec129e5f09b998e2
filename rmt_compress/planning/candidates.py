"""The networks that a budget is chosen from: layers decomposed once in every metric, cut by every scaling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, get_args

import numpy as np

from rmt_compress.decomposition.bases import basis_called, directions_of
from rmt_compress.errors import PlanError, SettingsError
from rmt_compress.layers.treating import matches
from rmt_compress.plan import Action, LayerDecision, Plan, Shrinkages
from rmt_compress.planning.allocation import Allocation, PriceCurve, most_harmful
from rmt_compress.planning.budgets import BudgetSettings, Metric, Scaling
from rmt_compress.planning.choices import Bounds, choices, cut_refusal
from rmt_compress.planning.costs import Cost, Together
from rmt_compress.planning.price_record import curve_record
from rmt_compress.wording import listed

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from rmt_compress.analysis.records import Analysis, AnalyzedLayer, LayerAnalysis
    from rmt_compress.checkpoints.base import Checkpoint
    from rmt_compress.decomposition.cuts import Cuts
    from rmt_compress.decomposition.moments import Moments
    from rmt_compress.decomposition.svd import Decomposition, StackedDecomposition
    from rmt_compress.layers.layer import Layer
    from rmt_compress.layers.splitting import Factors
    from rmt_compress.planning.allocation import Choices

SCALING_OF: dict[str, Scaling] = {"plain": "absolute", "input": "relative", "two-sided": "tempered"}
"""The scaling that a metric is used with where nothing can be tried."""
METRICS: tuple[Metric, ...] = ("two-sided", "input", "plain")
# How finely the weights of several budgets are tried.
_WEIGHTS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)


@dataclass(frozen=True)
class Rule:
    """How a network is cut to a size."""

    metric: Metric
    scaling: Scaling

    def __str__(self) -> str:
        return f"{self.metric} {self.scaling}"


@dataclass(frozen=True, eq=False)
class Candidate:
    """One network that may be the answer.

    Attributes:
        rule: what chose the ranks.
        allocation: what every layer gets.
        layers: what it was chosen from.
        sizes: name of a measure of size -> the share of it that is left.
    """

    rule: Rule
    allocation: Allocation
    layers: Sequence[Choices]
    sizes: Mapping[str, float]

    @property
    def key(self) -> tuple[str, tuple[tuple[str, int | None], ...]]:
        """What tells networks apart: two rules may give the same."""
        cut = tuple((tensor, rank) for tensor, rank in self.allocation.ranks.items() if rank is not None)
        return (self.rule.metric if cut else "", cut)


class Candidates:
    """All networks that one checkpoint may become within budgets.

    Args:
        checkpoint: the network, open; weights are read from it.
        analysis: of it. Layers that it left out are not cut.
        moments: of its layers; None where only the weights are known.
        settings: bounds, metrics and shrinkage.
        costs: by the names of budgets, ``keep`` at least.
        ranks: tensor of a layer that stands as two already -> its rank, which it keeps at most.

    Raises:
        PlanError: the moments are not those of this network, or do not suffice for the metric that is asked for.
        SettingsError: a glob that matches no layer; nothing that can be cut.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        analysis: Analysis,
        moments: Moments | None,
        settings: BudgetSettings,
        costs: Mapping[str, Cost],
        *,
        ranks: Mapping[str, int] | None = None,
    ) -> None:
        self._checkpoint, self.analysis, self._moments = checkpoint, analysis, moments
        self._ranks = ranks or {}
        self.settings, self.costs = settings, costs
        layers = analysis.analyzed
        globs = (*settings.exclude, *settings.cap_shares)
        if strange := [glob for glob in globs if not any(matches(layer.layer, glob) for layer in layers)]:
            known = listed([layer.name for layer in layers])
            raise SettingsError([f"'{glob}' matches no analysed layer; they are {known}" for glob in strange])
        self.refusals = {layer.tensor: self._refusal(layer) for layer in layers}
        self.cut = {layer.tensor: layer for layer in layers if self.refusals[layer.tensor] is None}
        if not self.cut:
            reasons = listed([f"{name}: {why}" for name, why in self.refusals.items()], 3)
            raise SettingsError([f"no layer can be cut to a smaller one ({reasons or 'none was analysed'})"])
        self._cuts: dict[str, Cuts] = {}
        self._curves: dict[tuple[Rule, str], PriceCurve] = {}
        self.cuts(self.rule.metric)

    @cached_property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics that the moments suffice for, the most telling first."""
        if self._moments is None:
            return ("plain",)
        felt = all(own.outputs is not None for name, own in self._moments.layers.items() if name in self.cut)
        return METRICS if felt else METRICS[1:]

    @property
    def rule(self) -> Rule:
        """The one that is used where nothing can be tried."""
        metric = self.settings.metric or self.metrics[0]
        return Rule(metric, self.settings.scaling or SCALING_OF[metric])

    @property
    def portfolio(self) -> tuple[Rule, ...]:
        """All rules that the settings leave open, `rule` first."""
        metrics = self.metrics if self.settings.metric is None else (self.settings.metric,)
        scalings = get_args(Scaling) if self.settings.scaling is None else (self.settings.scaling,)
        rules = [Rule(metric, scaling) for metric, scaling in product(metrics, scalings)]
        return (self.rule, *(rule for rule in rules if rule != self.rule))

    def cuts(self, metric: Metric) -> Cuts:
        """The layers that can be cut, to be decomposed once in a metric."""
        from rmt_compress.decomposition.cuts import Cuts
        from rmt_compress.decomposition.metrics import Shrinkage

        if metric not in self._cuts:
            if metric == "two-sided" and self._moments is not None and "two-sided" not in self.metrics:
                raise PlanError(
                    "the metric two-sided needs gradients at the outputs, which these moments do not have for all "
                    "layers; choose the metric input"
                )
            shrinkage = Shrinkage(self.settings.shrink_inputs, self.settings.shrink_outputs)
            directions = directions_of(
                [layer.layer for layer in self.analysis.layers],
                basis_called(metric),
                self._moments,
                shrinkage,
                only=self.cut,
                origin="the budget",
            )
            self._cuts[metric] = Cuts(directions, self._checkpoint.read)
        return self._cuts[metric]

    def at(self, rule: Rule, shares: Mapping[str, float]) -> Candidate:
        """The network of a rule within shares of the whole, by the names of `costs`.

        Raises:
            SettingsError: even the smallest network is larger.
        """
        names = list(shares)
        if len(names) == 1:
            return self._along(rule, names[0], shares[names[0]])
        found: list[Candidate] = []
        for weights in product(_WEIGHTS, repeat=len(names)):
            if sum(weights) != 1.0 and not np.isclose(sum(weights), 1.0):
                continue
            budgets = [shares[name] * self.costs[name].whole for name in names]
            together = Together([self.costs[name] for name in names], budgets, weights)
            candidate = self._within_all(rule, f"{names}{weights}", together, shares)
            if candidate is not None:
                found.append(candidate)
        if not found:
            raise SettingsError([f"no cut reaches all of {', '.join(f'{n} {s:g}' for n, s in shares.items())}"])
        return max(found, key=lambda each: each.allocation.worth)

    def smallest(self, name: str) -> float:
        """The least share of a measure of size that can be reached."""
        curve, cost = self._curve(self.rule, name, self.costs[name]), self.costs[name]
        return (self._fixed(cost) + curve.least) / cost.whole

    def with_ranks(self, ranks: Mapping[str, int], rule: Rule) -> Candidate:
        """The network with its layers of these tensors cut to these ranks, whatever chose them."""
        every: dict[str, int | None] = {tensor: ranks.get(tensor) for tensor in self.cut}
        allocation = Allocation(every, 0.0, dict.fromkeys(every, 0.0), 0.0, 0.0)
        return Candidate(rule, allocation, (), self._sizes(allocation))

    def check(self, shares: Mapping[str, float]) -> None:
        """Refuse shares of the whole that no cut reaches, by the shapes of the layers: nothing is decomposed.

        Raises:
            SettingsError: naming the least that there is.
        """
        for name, share in shares.items():
            cost = self.costs[name]
            least = self._fixed(cost)
            for layer in self.cut.values():
                nothing = np.zeros(min(layer.matrix))
                least += float(choices(layer.layer, [nothing], cost, self._bounds(layer, cost)).points[0].min())
            if share < least / cost.whole * (1 - 1e-12):
                raise _out_of_reach(name, share, least / cost.whole)

    def restored(self, candidate: Candidate, count: int) -> Candidate:
        """The candidate with its `count` most harmful layers dense again."""
        before = candidate.allocation
        worst = most_harmful(candidate.layers, before, count)
        ranks: dict[str, int | None] = {**before.ranks, **dict.fromkeys(worst)}
        allocation = replace(before, ranks=ranks, losses={**before.losses, **dict.fromkeys(worst, 0.0)})
        return replace(candidate, allocation=allocation, sizes=self._sizes(allocation))

    def tensors(self, candidate: Candidate) -> dict[str, torch.Tensor]:
        """Every tensor of the network that the candidate changes, in its own shape, by its name."""
        return self.cuts(candidate.rule.metric).tensors(_cut_ranks(candidate))

    def factors(self, candidate: Candidate) -> dict[str, Factors]:
        """The two thinner layers that the candidate puts in the place of a layer, by the name of its tensor."""
        return self.cuts(candidate.rule.metric).factors(_cut_ranks(candidate))

    def plan(self, candidate: Candidate, record: Mapping[str, object]) -> Plan:
        """The candidate as a plan.

        Args:
            candidate: what is planned.
            record: what else is said of it under `Plan.settings`.
        """
        metric, settings = candidate.rule.metric, self.settings
        curve = None
        if len(names := [*settings.shares] or ["keep"]) == 1:
            cost = self.costs[names[0]]
            prices = self._curve(candidate.rule, names[0], cost)
            curve = curve_record(prices, unit=cost.unit, whole=cost.whole, fixed=self._fixed(cost))
        asked = {"metric": metric, "scaling": candidate.rule.scaling}
        shrinkage: Shrinkages = {"inputs": settings.shrink_inputs, "outputs": settings.shrink_outputs}
        return Plan(
            settings={**vars(settings), **asked, **record},
            basis=metric,
            shrinkage=None if metric == "plain" else shrinkage,
            layers=tuple(self._decision(layer, candidate) for layer in self.analysis.layers),
            curve=curve,
        )

    def _refusal(self, layer: AnalyzedLayer) -> str | None:
        if any(matches(layer.layer, glob) for glob in self.settings.exclude):
            return "excluded"
        return cut_refusal(layer.layer)

    def _along(self, rule: Rule, name: str, share: float) -> Candidate:
        cost = self.costs[name]
        curve, fixed = self._curve(rule, name, cost), self._fixed(cost)
        if share * cost.whole - fixed < curve.least * (1 - 1e-12):
            raise _out_of_reach(name, share, (fixed + curve.least) / cost.whole)
        allocation = curve.at_cost(share * cost.whole - fixed)
        return Candidate(rule, allocation, curve.layers, self._sizes(allocation))

    def _within_all(self, rule: Rule, name: str, cost: Together, shares: Mapping[str, float]) -> Candidate | None:
        """The largest network along a curve that is within every budget, to a thousandth; None where none is."""
        curve = self._curve(rule, name, cost)

        def within(spent: float) -> Candidate | None:
            sizes = self._sizes(allocation := curve.at_cost(spent))
            fits = all(sizes[each] <= share * (1 + 1e-12) for each, share in shares.items())
            return Candidate(rule, allocation, curve.layers, sizes) if fits else None

        low, high = curve.least, curve.most
        best = within(low)
        if best is None or (whole := within(high)) is not None:
            return best if best is None else whole
        for _ in range(10):
            middle = (low + high) / 2
            if (found := within(middle)) is not None:
                best, low = found, middle
            else:
                high = middle
        return best

    def _curve(self, rule: Rule, name: str, cost: Cost) -> PriceCurve:
        key = rule, name
        if key not in self._curves:
            self._curves[key] = PriceCurve(self._choices(rule.metric, cost), rule.scaling)
        return self._curves[key]

    def _choices(self, metric: Metric, cost: Cost) -> list[Choices]:
        cuts = self.cuts(metric)
        values = {
            tensor: [self._felt(metric, tensor) ** 0.5 * s for s in _values(cuts.decomposition(tensor))]
            for tensor in self.cut
        }
        energies = {tensor: 0.5 * float(sum(np.square(s).sum() for s in own)) for tensor, own in values.items()}
        strangers = [tensor for tensor in self.cut if cuts.directions[tensor].why_plain is not None]
        known = [energy for tensor, energy in energies.items() if tensor not in strangers]
        # Of a layer without moments not even the unit of its loss is known: it counts as a middling one.
        middle = float(np.median(known)) if known else 1.0
        scales = {tensor: middle / energies[tensor] for tensor in strangers if energies[tensor] > 0}
        return [
            choices(layer.layer, values[tensor], cost, self._bounds(layer, cost), scale=scales.get(tensor, 1.0))
            for tensor, layer in self.cut.items()
        ]

    def _felt(self, metric: Metric, tensor: str) -> float:
        """What errors of the outputs weigh in the loss, where the directions do not say: tr G/m, 1 where not known.

        Raw energies of inputs are treacherous: a layer of large outputs would take everything.
        """
        if metric != "input" or self._moments is None or "two-sided" not in self.metrics:
            return 1.0
        own = self._moments.layers.get(tensor)
        if own is None or own.outputs is None:
            return 1.0
        G = own.outputs
        return float(G.diagonal(dim1=-2, dim2=-1).mean() if G.dim() > 1 else G.mean())

    def _bounds(self, layer: AnalyzedLayer, cost: Cost) -> Bounds:
        settings, least, most = self.settings, 1, self._ranks.get(layer.tensor)
        multiple = cost.step if settings.multiple == 1 else settings.multiple
        if layer.fits and settings.edge != "ignore":
            spikes = max(1, *(matrix.fit.spikes for matrix in layer.matrices))
            if settings.edge == "floor":
                least = spikes if most is None else min(spikes, most)
            else:
                most = spikes if most is None else min(spikes, most)
        share = next(
            (cap for glob, cap in reversed(settings.cap_shares.items()) if matches(layer.layer, glob)), 1.0
        )
        return Bounds(multiple, least, most, share)

    def _fixed(self, cost: Cost) -> float:
        return cost.whole - sum(cost.dense(layer.layer) for layer in self.cut.values())

    def _sizes(self, allocation: Allocation) -> dict[str, float]:
        sizes = {}
        for name, cost in self.costs.items():
            left = self._fixed(cost)
            for tensor, rank in allocation.ranks.items():
                left += _cost(cost, self.cut[tensor].layer, rank)
            sizes[name] = left / cost.whole
        return sizes

    def _decision(self, analysis: LayerAnalysis, candidate: Candidate) -> LayerDecision:
        layer = analysis.layer
        action, rank, loss, reason = self._action(analysis, candidate)
        return LayerDecision(
            name=layer.name,
            tensor=layer.tensor,
            kind=layer.kind,
            shape=layer.shape,
            action=action,
            rank=rank,
            predicted_loss=loss,
            reason=reason,
        )

    def _action(
        self, analysis: LayerAnalysis, candidate: Candidate
    ) -> tuple[Action, int | None, float | None, str]:
        tensor, metric = analysis.tensor, candidate.rule.metric
        if (refusal := self.refusals.get(tensor)) is not None:
            return "kept", None, None, refusal
        if tensor not in self.cut:
            return "skipped", None, None, analysis.reason or ""
        rank = candidate.allocation.ranks[tensor]
        if rank is None:
            return "kept", None, None, "worth its whole size at this price"
        p = min(self.cut[tensor].matrix)
        reason = f"rank {rank} of {p}: one price for all layers ({candidate.rule})"
        if (why := self.cuts(metric).directions[tensor].why_plain) is not None:
            return "factorized", rank, None, f"{reason}; in its plain directions: {why}"
        loss = candidate.allocation.losses[tensor] if metric == "two-sided" else None
        return "factorized", rank, loss, reason


def _cut_ranks(candidate: Candidate) -> dict[str, int]:
    return {tensor: rank for tensor, rank in candidate.allocation.ranks.items() if rank is not None}


def _out_of_reach(name: str, share: float, least: float) -> SettingsError:
    return SettingsError([f"{name} {share:g} cannot be reached: {least:.3g} is the least there is"])


def _cost(cost: Cost, layer: Layer, rank: int | None) -> float:
    return cost.dense(layer) if rank is None else float(cost.factors(layer, np.array([rank]))[0])


def _values(found: Decomposition | StackedDecomposition) -> Sequence[NDArray[np.float64]]:
    parts = found.parts if hasattr(found, "parts") else (found,)
    return [part.s.cpu().numpy() for part in parts]
