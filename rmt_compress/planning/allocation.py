"""One price for the whole network: how many directions each layer keeps within a budget (method.md §14).

E(r) = total − loss(r) is what a layer gains by rank r. At a price λ per unit of cost each takes the choice with the
largest E − λ·cost, *dense* being one of them; so it climbs the upper concave envelope of its points (cost, E). The
steps of all layers, sorted by gain over cost, are the whole curve of prices: a budget is a look-up. What a budget
leaves after the last full step is spent greedily. At the steps this is the best there is; between two of them it is
at most one step from it.

No scaling of E is right for every network and size:

    absolute   as it is: in units of the loss, where the metric has them; right for mild cuts
    tempered   divided by the square root of the layer's total
    relative   divided by the layer's total
    uniform    a function of the kept share of the cost alone, so that every layer keeps the same share
    balanced   halfway between relative and uniform: of every budget each layer is worth the mean of what the two
               would give it; right for deep cuts, where E is no longer to be trusted
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, get_args

import numpy as np

from rmt_compress.planning.budgets import Scaling

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCALINGS: tuple[Scaling, ...] = get_args(Scaling)


@dataclass(frozen=True, eq=False)
class Choices:
    """What may become of one layer.

    Attributes:
        tensor: its tensor.
        ranks: (k,), ascending, the ranks it may be cut to; none where it must stay as it is.
        costs: (k,), what it costs at each of them, > 0.
        losses: (k,), predicted for each of them, ≥ 0.
        dense: its cost as it is; None where it must be cut.
        total: the loss of a cut to nothing.
        share: cost of the whole layer, which shares are counted in; `dense` where that is not None.
    """

    tensor: str
    ranks: NDArray[np.int64]
    costs: NDArray[np.float64]
    losses: NDArray[np.float64]
    dense: float | None
    total: float
    share: float

    @cached_property
    def points(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Costs and losses of every choice, *dense* behind the ranks."""
        end = () if self.dense is None else (self.dense,)
        return np.append(self.costs, end), np.append(self.losses, np.zeros(len(end)))

    def rank(self, choice: int) -> int | None:
        """The rank that stands at a place among the choices; None for dense."""
        return int(self.ranks[choice]) if choice < len(self.ranks) else None

    def gains(self, scaling: Scaling) -> NDArray[np.float64]:
        """What each choice is worth, scaled; 0 everywhere in a layer of no loss, or of no cost.

        A scaling that weighs all layers at once, ``balanced``, is no function of one: see `PriceCurve.gains`.
        """
        costs, losses = self.points
        if self.share <= 0:
            return np.zeros(len(costs))
        if scaling == "uniform":
            # Concave, and of one slope in all layers at one share.
            return np.asarray(self.share * (1.0 - (1.0 - costs / self.share) ** 2))
        scale = {"absolute": 1.0, "tempered": self.total**0.5, "relative": self.total}[scaling]
        return (self.total - losses) / scale if scale > 0 else np.zeros(len(costs))


@dataclass(frozen=True)
class Allocation:
    """What every layer gets.

    Attributes:
        ranks: tensor of a layer -> the rank it is cut to; None for dense.
        cost: of all layers together.
        losses: tensor of a layer -> predicted loss.
        price: gain per cost of the last full step; every step that is worth more was taken.
        worth: scaled gains of all layers together.
    """

    ranks: dict[str, int | None]
    cost: float
    losses: dict[str, float]
    price: float
    worth: float

    @property
    def loss(self) -> float:
        """Predicted for all layers together."""
        return sum(self.losses.values())


@dataclass(frozen=True)
class _Step:
    slope: float
    layer: int
    choice: int
    cost: float


class PriceCurve:
    """The allocations of a network at every price; computed once, looked up for every budget.

    Args:
        layers: the choices of each.
        scaling: how the gains of different layers compare.

    Attributes:
        gains: of every layer, what each choice is worth, scaled.
    """

    def __init__(self, layers: Sequence[Choices], scaling: Scaling) -> None:
        self.layers, self.scaling = tuple(layers), scaling
        if scaling == "balanced":
            halves = PriceCurve(layers, "relative").spent(), PriceCurve(layers, "uniform").spent()
            self.gains = [_between(layer, spent) for layer, *spent in zip(self.layers, *halves, strict=True)]
        else:
            self.gains = [layer.gains(scaling) for layer in self.layers]
        self._starts: list[int] = []
        steps: list[_Step] = []
        for number, (layer, gains) in enumerate(zip(self.layers, self.gains, strict=True)):
            start, climbed = _envelope(layer.points[0], gains)
            self._starts.append(start)
            steps += [_Step(slope, number, choice, cost) for slope, choice, cost in climbed]
        # Python's sort is stable: equal prices go by layer and rank, so that a plan is the same on every run.
        self._steps = sorted(steps, key=lambda step: -step.slope)
        self._spent = np.cumsum([self.least, *(step.cost for step in self._steps)]).tolist()

    @property
    def least(self) -> float:
        """Cost of the smallest network that there is."""
        return float(sum(layer.points[0][start] for layer, start in zip(self.layers, self._starts, strict=True)))

    @property
    def most(self) -> float:
        """Cost of the network in which every step is taken."""
        return float(self._spent[-1])

    def at_price(self, price: float) -> Allocation:
        """Every layer at its best choice, where a unit of cost is worth `price`."""
        return self._allocation(self._climbed(sum(step.slope > price for step in self._steps)), price)

    def at_cost(self, budget: float) -> Allocation:
        """The allocation of at most this cost; the smallest there is where the budget is below `least`."""
        # Costs are sums in another order than the budget was made of.
        budget *= 1 + 1e-12
        full = max(bisect_right(self._spent, budget) - 1, 0)
        price = self._steps[full - 1].slope if full else np.inf
        chosen, left = self._climbed(full), budget - self._spent[full]
        blocked: set[int] = set()
        for step in self._steps[full:]:
            if step.layer in blocked:
                continue
            if step.cost <= left:
                chosen[step.layer], left = step.choice, left - step.cost
            else:
                blocked.add(step.layer)
        self._fill(chosen, left, sorted(blocked))
        return self._allocation(chosen, price)

    def breakpoints(self) -> NDArray[np.float64]:
        """The costs at which a step is full, ascending: where an allocation is the best there is."""
        return np.asarray(self._spent)

    def spent(self) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """Of every layer budgets, ascending, and what of each goes to it; a step is taken little by little."""
        starts = [float(layer.points[0][start]) for layer, start in zip(self.layers, self._starts, strict=True)]
        found = [([self.least], [start]) for start in starts]
        for step, (before, after) in zip(self._steps, pairwise(self._spent), strict=True):
            budgets, costs = found[step.layer]
            budgets += before, after
            costs += costs[-1], costs[-1] + step.cost
        return [(np.array(budgets), np.array(costs)) for budgets, costs in found]

    def _climbed(self, full: int) -> list[int]:
        chosen = list(self._starts)
        for step in self._steps[:full]:
            chosen[step.layer] = step.choice
        return chosen

    def _fill(self, chosen: list[int], left: float, layers: Sequence[int]) -> None:
        """Spend what is left on choices below the envelope, in layers whose next step costs too much."""
        while True:
            best: tuple[float, int, int] | None = None
            for number in layers:
                costs, gains = self.layers[number].points[0], self.gains[number]
                more, worth = costs - costs[chosen[number]], gains - gains[chosen[number]]
                fits = (more > 0) & (more <= left) & (worth > 0)
                if fits.any():
                    ratio = np.where(fits, worth / np.where(fits, more, 1.0), -np.inf)
                    place = int(ratio.argmax())
                    if best is None or ratio[place] > best[0]:
                        best = float(ratio[place]), number, place
            if best is None:
                return
            _, number, place = best
            costs = self.layers[number].points[0]
            left -= float(costs[place] - costs[chosen[number]])
            chosen[number] = place

    def _allocation(self, chosen: Sequence[int], price: float) -> Allocation:
        pairs = list(zip(self.layers, chosen, strict=True))
        return Allocation(
            {layer.tensor: layer.rank(choice) for layer, choice in pairs},
            float(sum(layer.points[0][choice] for layer, choice in pairs)),
            {layer.tensor: float(layer.points[1][choice]) for layer, choice in pairs},
            float(price),
            float(sum(gains[choice] for gains, choice in zip(self.gains, chosen, strict=True))),
        )


def _envelope(costs: NDArray[np.float64], gains: NDArray[np.float64]) -> tuple[int, list[tuple[float, int, float]]]:
    """The cheapest choice, and the steps (gain over cost, choice, cost) of the upper concave envelope from there.

    Choices that cost more than another and gain no more are on no envelope.
    """
    order = np.lexsort((-gains, costs))
    hull = [int(order[0])]
    for place in order[1:].tolist():
        if gains[place] <= gains[hull[-1]]:
            continue
        while len(hull) > 1 and _slope(costs, gains, hull[-1], place) >= _slope(costs, gains, hull[-2], hull[-1]):
            hull.pop()
        hull.append(place)
    steps = [
        (_slope(costs, gains, before, after), after, float(costs[after] - costs[before]))
        for before, after in pairwise(hull)
    ]
    return hull[0], steps


def _between(
    layer: Choices, spent: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]]
) -> NDArray[np.float64]:
    """Gains by which a layer grows with the budget as the mean of what `spent` says of it, see `PriceCurve.spent`.

    A choice is reached at the budget of which that mean is its cost, and a step towards it is worth one over that
    budget: so steps of all layers come in the order of their budgets.
    """
    costs, losses = layer.points
    gains = np.zeros(len(costs))
    order = np.lexsort((losses, costs))
    # A choice that loses no less than a cheaper one is worth nothing.
    best = np.minimum.accumulate(losses[order])
    order = order[np.append(True, best[1:] < best[:-1])]
    budgets = np.unique(np.concatenate([each for each, _ in spent]))
    means = np.mean([np.interp(budgets, *each) for each in spent], axis=0)
    places = np.searchsorted(means, costs[order] * (1 - 1e-12))
    order, places = order[places < len(means)], places[places < len(means)]
    left = np.maximum(places - 1, 0)
    rise = means[places] - means[left]
    part = np.where(rise > 0, (costs[order] - means[left]) / np.where(rise > 0, rise, 1.0), 0.0)
    reached = budgets[left] + part.clip(0, 1) * (budgets[places] - budgets[left])
    gains[order[1:]] = np.cumsum(np.diff(costs[order]) / reached[1:])
    return gains


def _slope(costs: NDArray[np.float64], gains: NDArray[np.float64], before: int, after: int) -> float:
    return float((gains[after] - gains[before]) / (costs[after] - costs[before]))


def most_harmful(layers: Sequence[Choices], allocation: Allocation, count: int) -> list[str]:
    """The tensors of the `count` cut layers of the largest predicted loss that may be dense again."""
    cut = [
        layer.tensor for layer in layers if allocation.ranks[layer.tensor] is not None and layer.dense is not None
    ]
    return sorted(cut, key=lambda name: -allocation.losses[name])[:count]
