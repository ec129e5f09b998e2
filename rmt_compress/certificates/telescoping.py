"""From what each cut does to a layer's real outputs to how far the answers can move (BSSZ24 Lemma 5.1).

Let layers k₁ < … < k_m be cut. With the later ones cut already, cutting layer k moves its own output by a vector
Δ_k(s) that its real input a_k(s), which no earlier layer has changed yet, decides: (W′ − W)a_k(s) and what became
of the bias. What stands behind it, cut, stretches that by its Lipschitz constant at most. Summed over the cuts this
bounds how far any difference X_i(s) − X_j(s) of two classes can move, and with it the classification confidence
δ(s) = X_y(s) − max_{j≠y} X_j(s). The original network is gone through once; the cut one never is.

Three bounds on each step hold at once, and the smallest counts:

* ``lemma``: √2·L·‖Δ_k‖₂, L the product of spectral norms behind the layer (Lemma 5.1);
* ``infinity``: 2·L_∞·‖Δ_k‖_∞, L_∞ of norms in the largest entry (the group's data-path bound);
* ``sharp``: what follows without weights (activation, pool) is gone through as it is, and the last layer counts by
  how far its rows i and j are apart instead of by its norm (Tsuzuku, Sato, Sugiyama 2018): entry by entry,
  Σ_h |w_ih − w_jh|·|Δ_h|, where it reads what has moved, and ‖w_i − w_j‖ elsewhere; the last Linear layers together
  by `averaged`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from rmt_compress.certificates.averaged import last_links

if TYPE_CHECKING:
    import torch

    from rmt_compress.certificates.network_graph import NetworkGraph, Unit

Bound = Literal["lemma", "infinity", "sharp", "best"]
BOUNDS: tuple[Bound, ...] = get_args(Bound)


class Move(NamedTuple):
    """What cutting one layer does to N samples, with the later ones cut already.

    Attributes:
        unit: the layer.
        two: (N, 1), ‖Δ‖₂ of its output.
        largest: (N, 1), ‖Δ‖_∞ of its output.
        passed: (N, entries), Δ behind the steps without weights that follow.
        place: index of the last of these steps.
    """

    unit: Unit
    two: torch.Tensor
    largest: torch.Tensor
    passed: torch.Tensor
    place: int


class Telescope:
    """The bounds of two networks, batch by batch.

    Args:
        graph: both of them.
    """

    def __init__(self, graph: NetworkGraph) -> None:
        import torch

        self.graph = graph
        self._to_answer = graph.gains(graph.result)
        self._links = [(link, graph.gains(link.reads)) for link in last_links(graph)]
        if graph.head is not None and graph.head.operator is not None:
            self._rows = graph.head.operator.weight
            self._absolute = torch.cdist(self._rows, self._rows, p=1)

    def lipschitz(self, unit: Unit) -> float:
        """√2·∏σ_max: how much farther δ can move than the layer's output."""
        return math.sqrt(2) * self._to_answer[unit.last].two

    def moves(self, values: Sequence[Any]) -> list[Move]:
        """What each cut does, from the values of all steps of the original network (`NetworkGraph.run`)."""
        return [self.move(unit, values[unit.last], self.graph.cut_value(unit, values)) for unit in self.graph.cuts]

    def move(self, unit: Unit, whole: torch.Tensor, moved: torch.Tensor) -> Move:
        """What it does that a layer gives `moved` in place of `whole`, both (N, …) of its output."""
        graph, plain = self.graph, self.graph.plain_steps(unit)
        change = (moved - whole).flatten(1)
        passed = graph.behind(unit.last, moved, plain) - graph.behind(unit.last, whole, plain)
        place = plain[-1] if plain else unit.last
        two, largest = change.norm(dim=1, keepdim=True), change.abs().amax(1, keepdim=True)
        return Move(unit, two, largest, passed.flatten(1), place)

    def bounds(self, move: Move, asked: torch.Tensor) -> dict[Bound, torch.Tensor]:
        """How far X_i − X_j can move by one cut, by every bound and by ``best``, the smallest of them.

        Args:
            move: what the cut does to N samples.
            asked: (N,), the class i of each.

        Returns:
            (N, classes), j along the second axis.
        """
        import torch

        gain = self._to_answer[move.unit.last]
        sharp = self._sharp(move, asked)
        lemma = (math.sqrt(2) * gain.two * move.two).expand(-1, self.graph.classes)
        infinity = (2 * gain.largest * move.largest).expand_as(lemma)
        alone: dict[Bound, torch.Tensor] = {"lemma": lemma, "infinity": infinity, "sharp": sharp.expand_as(lemma)}
        return {**alone, "best": torch.stack(tuple(alone.values())).amin(0)}

    def measured(self, inputs: torch.Tensor, values: Sequence[Any]) -> list[torch.Tensor]:
        """(N, classes) answers with the last cut alone, with the last two …, with all of them, in this order."""
        graph = self.graph
        answers = []
        for place in reversed(range(len(graph.cuts))):
            cut = graph.cuts[place:]
            found = graph.run(inputs, values[: cut[0].first], cut)
            answers.append(found[graph.result])
        return answers

    def _sharp(self, move: Move, asked: torch.Tensor) -> torch.Tensor:
        graph, change = self.graph, move.passed
        found: torch.Tensor
        two, largest = change.norm(dim=1, keepdim=True), change.abs().amax(1, keepdim=True)
        if move.unit is graph.head:
            found = (change.gather(1, asked[:, None]) - change).abs()
        elif not self._links:
            found = math.sqrt(2) * self._to_answer[move.place].two * two
        elif move.place == self._links[0][0].reads:
            found = _entry_by_entry(self._rows.to(change.device), asked, change.abs())
        else:
            found = self._links[0][1][move.place].largest * largest * self._absolute.to(change.device)[asked]
            for link, gains in self._links:
                if move.place <= link.reads:
                    apart = link.apart.to(change.device)[asked]
                    found = found.minimum(gains[move.place].two * two * apart)
        return found


def _entry_by_entry(rows: torch.Tensor, asked: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
    """(N, classes): Σ_h |w_ih − w_jh|·|Δ_h|, i the class asked for."""
    found = change.new_empty(len(change), len(rows))
    for one in set(asked.tolist()):
        those = asked == one
        found[those] = change[those] @ (rows[one] - rows).abs().T
    return found
