"""One cut of the prune/retrain cycle: look at every layer, decide, split (SJK23 §4.2, BSSZ24 §4.1, method.md §8).

The analysis, the plan and the factors are those of `prune`. What the cycle adds is a layer that has been split
before.

``recombine``
    The layer is its product up·down. Its spectrum ends at the rank it was cut to, so a bulk can no longer be
    fitted: its quantiles would fall on zeros. The edge found when it was last whole is kept, the singular values
    above it are counted anew, and the schedule's share f is taken of the same bulk; the layer is cut again when
    that leaves less than it has.
``recursive``
    Both factors are layers like any other.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from glob import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from rmt_compress.analysis import Analysis, AnalyzedLayer, LayerAnalysis, SkippedLayer
from rmt_compress.analysis.analyzing import analyze_with
from rmt_compress.compression import compress
from rmt_compress.decomposition.products import decompose_product, product_singular_values
from rmt_compress.layers.splitting import factor_matrices, factor_tensors, module_path
from rmt_compress.plan import LayerDecision, Plan
from rmt_compress.planning.making import plan_with
from rmt_compress.spectrum import BulkFit
from rmt_compress.training.settings import CycleSettings

if TYPE_CHECKING:
    from rmt_compress.decomposition.moments import Moments
    from rmt_compress.training.split_network import Network, Pair


@dataclass(frozen=True)
class Cut:
    """What one cut is going to do: a decision per layer of the analysis, those that stand as two included.

    Attributes:
        asked: what the log says of it, such as f, the share of the bulk that is kept.
        analysis: of the network under its original names.
        plan: the decisions.
        seconds: how long it took to find out.
        moments: of the layers of the network as it stands; None for a cut that needs none.
    """

    asked: dict[str, Any]
    analysis: Analysis
    plan: Plan
    seconds: float
    moments: Moments | None = None

    def records(self, network: Network) -> list[dict[str, Any]]:
        """One JSON object per layer that is looked at, as in `analyze --json`, with rank and action."""
        decisions = self.plan.by_tensor
        records = []
        for layer in self.analysis.layers:
            if layer.kind == "vector":
                continue
            decision = decisions[layer.tensor]
            pair = network.pairs.get(layer.tensor)
            rank = decision.rank if pair is None else pair.rank
            chosen = {"action": decision.action, "rank": rank, "reason": decision.reason}
            records.append({**layer.to_json(), **chosen})
        return records


class Cycle:
    """The cuts of one run, and what they remember of each other.

    `fits` are those of every layer that this run has split, from when it was last whole.
    """

    def __init__(self, settings: CycleSettings) -> None:
        self.settings = settings
        self.fits: dict[str, BulkFit] = {}

    def decide(self, network: Network, share: float) -> Cut:
        """Look at every layer and decide what becomes of it at the share f of the bulk; nothing is changed."""
        start = time.perf_counter()
        asked, settings = self.settings.analysis, replace(self.settings.plan, keep_bulk=share)
        if self.settings.mode == "recursive":
            analysis = analyze_with(network.model, asked)
            plan = plan_with(analysis, settings)
        else:
            analysis = self._looked_at(network)
            plan = self._against_their_ranks(network, plan_with(analysis, settings))
        return Cut({"keep_bulk": share}, analysis, plan, time.perf_counter() - start)

    def apply(self, network: Network, cut: Cut) -> float:
        """Carry a cut out; the seconds it took."""
        start = time.perf_counter()
        layers = {layer.tensor: layer for layer in cut.analysis.analyzed}
        before = {name: network.model.get_submodule(module_path(name)) for name in _newly_split(network, cut.plan)}
        again = [decision for decision in cut.plan.layers if decision.tensor in network.pairs and decision.changes]
        for decision in again:
            self._cut_again(network, cut, decision)
        biases = {pair.layer.bias for pair in network.pairs.values()}  # under other names by now
        elsewhere = {*network.pairs, *biases}
        whole = tuple(decision for decision in cut.plan.layers if decision.tensor not in elsewhere)
        plan = cut.plan.model_copy(update={"layers": whole})
        network.model = compress(network.model, plan, cut.moments, inplace=True)
        ranks = {decision.tensor: decision.rank for decision in cut.plan.layers}
        for name, template in before.items():
            network.remember(layers[name].layer, template, ranks[name] or 0)
            self.fits[name] = layers[name].fit
        return time.perf_counter() - start

    def _looked_at(self, network: Network) -> Analysis:
        """Every layer under its original name and shape, those that stand as two by their first edge."""
        asked = self.settings.analysis
        analysis = analyze_with(
            network.view(), replace(asked, exclude=(*asked.exclude, *map(escape, network.pairs)))
        )
        layers = tuple(
            self._product(network, network.pairs[layer.tensor], layer) if layer.tensor in network.pairs else layer
            for layer in analysis.layers
        )
        return replace(analysis, layers=layers)

    def _cut_again(self, network: Network, cut: Cut, decision: LayerDecision) -> None:
        """Cut a layer that stands as two to fewer directions of its product."""
        del cut
        assert decision.rank is not None
        layer = network.pairs[decision.tensor].layer
        found = decompose_product(*factor_matrices(layer.kind, network.factors(decision.tensor)))
        network.split_again(decision.tensor, factor_tensors(layer, *found.factors(decision.rank)))

    def _product(self, network: Network, pair: Pair, found: LayerAnalysis) -> LayerAnalysis:
        """The analysis of a layer that stands as two, by the edge it had when it was whole."""
        tensor = pair.layer.tensor
        fit = self.fits.get(tensor)
        if fit is None:
            why = "was split before this run: its noise level is not known"
            return SkippedLayer(found.layer, why, left_out=True)
        matrices = factor_matrices(pair.layer.kind, network.factors(tensor))
        values = np.zeros(fit.p)
        kept = product_singular_values(*matrices)
        values[: len(kept)] = kept
        spikes = int((values > fit.edge).sum())
        return AnalyzedLayer(pair.layer, replace(fit, spikes=spikes), values, self.settings.analysis)

    def _against_their_ranks(self, network: Network, plan: Plan) -> Plan:
        return plan.model_copy(
            update={"layers": tuple(self._against_its_rank(network, decision) for decision in plan.layers)}
        )

    def _against_its_rank(self, network: Network, decision: LayerDecision) -> LayerDecision:
        """A layer that stands as two is cut to a lower rank or left as it is, never put together again."""
        if decision.tensor not in network.pairs:
            return decision
        rank = network.pairs[decision.tensor].rank
        if decision.action == "factorized" and decision.rank is not None and decision.rank < rank:
            return decision
        because = decision.reason if decision.action != "factorized" else f"{decision.rank} would be no fewer"
        return decision.model_copy(update={"action": "kept", "rank": None, "reason": f"stays at {rank}: {because}"})


def _newly_split(network: Network, plan: Plan) -> list[str]:
    return [
        decision.tensor
        for decision in plan.layers
        if decision.action == "factorized" and decision.tensor not in network.pairs
    ]
