"""What a layer costs whole and in two factors: in parameters, multiply-adds or measured seconds.

In parameters and multiply-adds a rank costs what its two thinner layers do, r(rows + columns) at every position. In
seconds it is what a table says that was measured on the device, since fewer multiply-adds need not be faster.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rmt_compress.analysis.records import Analysis
    from rmt_compress.layers.layer import Layer
    from rmt_compress.planning.times import LatencyTable


class Cost(Protocol):
    """One measure of size."""

    @property
    def unit(self) -> str:
        """What it counts."""
        ...

    @property
    def whole(self) -> float:
        """The network's, as it is; shares of a budget are shares of this."""
        ...

    @property
    def step(self) -> int:
        """Ranks that are multiples of this are the ones worth choosing."""
        ...

    def dense(self, layer: Layer) -> float:
        """Of a layer as it is."""
        ...

    def factors(self, layer: Layer, ranks: NDArray[np.int64]) -> NDArray[np.float64]:
        """Of its two factors at each of these ranks; inf at a rank that is not to be chosen."""
        ...


@dataclass(frozen=True)
class Parameters:
    """Entries of weights.

    Attributes:
        whole: of all parameters of the network, those included that are not cut.
    """

    whole: float
    unit: str = "parameters"
    step: int = 1

    def dense(self, layer: Layer) -> float:
        """Entries of the weight."""
        return float(layer.parameters)

    def factors(self, layer: Layer, ranks: NDArray[np.int64]) -> NDArray[np.float64]:
        """Entries of the two factors."""
        return layer.factor_parameters(1) * ranks.astype(np.float64)


@dataclass(frozen=True)
class MultiplyAdds:
    """Multiplications of weights with inputs, for one sample.

    Attributes:
        positions: tensor of a layer -> at how many positions it is applied: 1 for a Linear on a vector, tokens or
            places of the output of a convolution, of the input of a transposed one. Layers that it does not name
            cost nothing.
        whole: of the network.
    """

    positions: Mapping[str, float]
    whole: float
    unit: str = "multiply-adds"
    step: int = 1

    def dense(self, layer: Layer) -> float:
        """Of the layer."""
        return float(layer.parameters) * self.positions.get(layer.tensor, 0.0)

    def factors(self, layer: Layer, ranks: NDArray[np.int64]) -> NDArray[np.float64]:
        """Of the two layers it becomes."""
        return layer.factor_parameters(1) * self.positions.get(layer.tensor, 0.0) * ranks.astype(np.float64)


class Seconds:
    """Measured time, interpolated between the ranks that were measured.

    Args:
        table: what was measured. Of a layer that is not in it nothing is known: it costs nothing, and is not cut.
    """

    unit = "seconds"

    def __init__(self, table: LatencyTable) -> None:
        self.table, self.whole, self.step = table, table.whole, table.step
        self._dense = {tensor: table.scale * shape.dense for shape in table.shapes for tensor in shape.layers}
        self._factors = {
            tensor: (np.array(shape.ranks, dtype=np.float64), table.scale * np.array(shape.seconds))
            for shape in table.shapes
            for tensor in shape.layers
            if shape.ranks
        }

    def dense(self, layer: Layer) -> float:
        """Of the layer whole."""
        return self._dense.get(layer.tensor, 0.0)

    def factors(self, layer: Layer, ranks: NDArray[np.int64]) -> NDArray[np.float64]:
        """Of its factors; inf outside the ranks that were measured, and where they are no faster than the whole."""
        if layer.tensor not in self._factors:
            return np.full(len(ranks), np.inf)
        known, times = self._factors[layer.tensor]
        found = np.interp(ranks, known, times, left=np.inf, right=np.inf)
        return np.where(found < self.dense(layer), found, np.inf)


def costs_of(
    analysis: Analysis, positions: Mapping[str, float] | None = None, seconds: Seconds | None = None
) -> dict[str, Cost]:
    """Every cost of a network that is known, by the name of its budget.

    Args:
        analysis: of the network.
        positions: tensor of a layer -> at how many positions it is applied; None leaves ``macs`` out.
        seconds: measured times; None leaves ``latency`` out.
    """
    costs: dict[str, Cost] = {"keep": Parameters(float(analysis.parameters))}
    if positions is not None:
        applied = sum(layer.parameters * positions.get(layer.tensor, 0.0) for layer in analysis.layers)
        costs["macs"] = MultiplyAdds(positions, float(applied))
    if seconds is not None:
        costs["latency"] = seconds
    return costs


class Together:
    """Several costs as one: the sum of each one's share of its own budget, weighted.

    Args:
        costs: the measures.
        budgets: of each, in its unit.
        weights: of each.
    """

    unit = "budgets"

    def __init__(self, costs: Sequence[Cost], budgets: Sequence[float], weights: Sequence[float]) -> None:
        self._parts = [
            (cost, weight / budget) for cost, budget, weight in zip(costs, budgets, weights, strict=True) if weight
        ]
        self.whole = sum(scale * cost.whole for cost, scale in self._parts)
        self.step = max((cost.step for cost, _ in self._parts), default=1)

    def dense(self, layer: Layer) -> float:
        """Of the layer whole."""
        return sum(scale * cost.dense(layer) for cost, scale in self._parts)

    def factors(self, layer: Layer, ranks: NDArray[np.int64]) -> NDArray[np.float64]:
        """Of its factors."""
        parts = [scale * cost.factors(layer, ranks) for cost, scale in self._parts]
        return np.asarray(np.sum(parts, axis=0))
