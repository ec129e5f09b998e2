"""Cuts of the prune/retrain cycle within a budget: one price for all layers (method.md §14).

The plan is that of `prune` within shares of the dense network's parameters or multiply-adds, with moments from the
inputs of the last steps. What the cycle adds is a layer that stands as two already. Its product up·down has no more
directions than the two have, so that it never gets more; and its moments are those of the whole layer: `down` reads
what the layer reads, and the gradients at the outputs of `up` are those at its outputs.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rmt_compress.analysis import AnalyzedLayer
from rmt_compress.analysis.analyzing import analyze_with
from rmt_compress.checkpoints.memory import ModuleCheckpoint
from rmt_compress.decomposition.bases import basis_called, directions_of
from rmt_compress.decomposition.metrics import Shrinkage
from rmt_compress.decomposition.moments import LayerMoments, Moments
from rmt_compress.errors import SettingsError
from rmt_compress.layers.layer import as_weight
from rmt_compress.layers.splitting import factor_names, factor_tensors
from rmt_compress.networks.calibration.calibrating import calibrate
from rmt_compress.networks.measurement import example_inputs
from rmt_compress.networks.positions import layer_positions
from rmt_compress.planning.candidates import Candidates
from rmt_compress.planning.costs import MultiplyAdds, Parameters
from rmt_compress.training.cycle import Cut, Cycle

if TYPE_CHECKING:
    from torch import nn

    from rmt_compress.analysis import Analysis, LayerAnalysis
    from rmt_compress.networks.tasks.task import Task
    from rmt_compress.plan import LayerDecision
    from rmt_compress.planning.budgets import BudgetSettings
    from rmt_compress.planning.costs import Cost
    from rmt_compress.training.settings import CycleSettings
    from rmt_compress.training.split_network import Network


class BudgetedCycle(Cycle):
    """The cuts of one run within a budget.

    Args:
        settings: which budget, and how it is met.
        dense: the network without any split, whose shares budgets are; its weights do not matter.
        task: whose samples tell how often a layer is applied.
        seed: of what calibration draws.

    Raises:
        SettingsError: it is not known how often layers are applied, for multiply-adds.
    """

    def __init__(self, settings: CycleSettings, dense: nn.Module, task: Task, seed: int) -> None:
        super().__init__(settings)
        self._seed = seed
        self.costs: dict[str, Cost] = {"keep": Parameters(float(sum(each.numel() for each in dense.parameters())))}
        if settings.budget.macs is not None:
            positions = layer_positions(dense, example_inputs(dense, task, 1))
            layers = ModuleCheckpoint(dense).layers()
            whole = sum(layer.parameters * positions.get(layer.tensor, 0.0) for layer in layers)
            if not whole:
                raise SettingsError(
                    ["macs: it is not known how often the layers of this network are applied; use --keep"]
                )
            self.costs["macs"] = MultiplyAdds(positions, whole)

    def sizes(self, network: Network) -> dict[str, float]:
        """Name of each budget -> the share of the dense network that this one is."""
        return {name: self._size(network, self.costs[name]) for name in self.settings.budget.shares}

    def check(self, network: Network) -> None:
        """Refuse a budget that no cut of the network reaches, or that leaves nothing to do.

        Raises:
            SettingsError: naming the least that there is.
        """
        sizes, goals = self.sizes(network), self.settings.budget.shares
        if all(goals[name] >= size for name, size in sizes.items()):
            kept = ", ".join(f"{name} {size:.3g}" for name, size in sizes.items())
            raise SettingsError([f"nothing is to be cut: the network that comes is at {kept} already"])
        plain = replace(self.settings.within, metric="plain")
        self._candidates(network, self._looked_at(network), None, plain).check(goals)

    def within(self, network: Network, shares: Mapping[str, float], inputs: Iterable[Any]) -> Cut:
        """Decide what becomes of every layer; nothing is changed.

        Args:
            network: as it stands.
            shares: name of a budget -> the share of the dense network that is left.
            inputs: of the last steps.

        Raises:
            SettingsError: no cut is so small.
        """
        start = time.perf_counter()
        analysis, moments = self._looked_at(network), None
        if self.settings.budget.metric != "plain":
            moments = calibrate(network.model, inputs, seed=self._seed, layers=_parts(network, analysis))
        candidates = self._candidates(network, analysis, moments, self.settings.within)
        found = candidates.at(candidates.rule, shares)
        plan = self._against_their_ranks(network, candidates.plan(found, {}).model_copy(update={"curve": None}))
        asked = {"budget": dict(shares), "rule": str(found.rule)}
        return Cut(asked, analysis, plan, time.perf_counter() - start, moments)

    def _candidates(
        self, network: Network, analysis: Analysis, moments: Moments | None, settings: BudgetSettings
    ) -> Candidates:
        known = None if moments is None else of_whole_layers(network, moments)
        ranks = {tensor: pair.rank for tensor, pair in network.pairs.items()}
        return Candidates(network.view(), analysis, known, settings, self.costs, ranks=ranks)

    def _looked_at(self, network: Network) -> Analysis:
        """Layers split before this run among them: how many directions they have is known, if no edge."""
        analysis = super()._looked_at(network)
        strangers = [tensor for tensor in network.pairs if tensor not in self.fits]
        if not strangers:
            return analysis
        found = {layer.tensor: layer for layer in analyze_with(network.view(), self.settings.analysis).layers}

        def without_edge(layer: LayerAnalysis) -> LayerAnalysis:
            seen = found[layer.tensor]
            if layer.tensor not in strangers or not isinstance(seen, AnalyzedLayer):
                return layer
            # A bulk that was cut off fits nothing.
            return replace(seen, fit=replace(seen.fit, gof=1.0))

        return replace(analysis, layers=tuple(without_edge(layer) for layer in analysis.layers))

    def _cut_again(self, network: Network, cut: Cut, decision: LayerDecision) -> None:
        if cut.moments is None:
            super()._cut_again(network, cut, decision)
            return
        assert decision.rank is not None
        assert cut.plan.shrinkage is not None
        tensor, pair, view = decision.tensor, network.pairs[decision.tensor], network.view()
        directions = directions_of(
            view.layers(),
            basis_called(cut.plan.basis),
            of_whole_layers(network, cut.moments),
            Shrinkage(**cut.plan.shrinkage),
            only={tensor},
        )[tensor]
        whole = view.read(tensor).detach()
        found = directions.decompose(whole, decision.rank)
        gain = directions.correction(whole, as_weight(pair.layer, found.truncated(decision.rank)))
        network.split_again(tensor, factor_tensors(pair.layer, *found.factors(decision.rank)))
        if gain is not None:
            bias = network.model.get_parameter(factor_names(tensor).bias)
            with torch.no_grad():
                bias.copy_(bias.double() + gain)

    def _size(self, network: Network, cost: Cost) -> float:
        saved = sum(
            cost.dense(pair.layer) - float(cost.factors(pair.layer, np.array([pair.rank]))[0])
            for pair in network.pairs.values()
        )
        return (cost.whole - saved) / cost.whole


def of_whole_layers(network: Network, moments: Moments) -> Moments:
    """Moments by original names: of two that stand for one the inputs of the first, the gradients of the second.

    Args:
        network: as it stands.
        moments: by its names.
    """
    layers, left_out = dict(moments.layers), dict(moments.left_out)
    for tensor in network.pairs:
        names = factor_names(tensor)
        first, second = layers.pop(names.down, None), layers.pop(names.up, None)
        reasons = [left_out.pop(name, None) for name in (names.down, names.up)]
        if first is not None and second is not None:
            layers[tensor] = LayerMoments(first.inputs, first.mean, second.outputs, first.count)
        else:
            left_out[tensor] = next((why for why in reasons if why is not None), "calibration knows nothing of it")
    return Moments(layers, left_out, moments.record)


def _parts(network: Network, analysis: Analysis) -> list[str]:
    """The tensors, as they stand, of the layers that may be cut."""
    parts: list[str] = []
    for layer in analysis.analyzed:
        names = factor_names(layer.tensor) if layer.tensor in network.pairs else None
        parts += [layer.tensor] if names is None else [names.down, names.up]
    return parts
