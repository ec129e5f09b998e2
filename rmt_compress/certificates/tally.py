"""Batches of samples, each with its bounds and what was measured, summed up to a certificate."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np

from rmt_compress.certificates.certificate import (
    BoundOutcome,
    Certificate,
    LayerCertificate,
    Spread,
    median_ratio,
)
from rmt_compress.certificates.telescoping import BOUNDS, Telescope

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch import nn

# Share of the largest answer that rounding may take from an equality, in float64.
_ROUNDING = 1e-9


class Tally:
    """The samples of one certificate.

    Args:
        telescope: the bounds.
        cut: the cut network, asked by itself.
    """

    def __init__(self, telescope: Telescope, cut: nn.Module) -> None:
        self._telescope = telescope
        self._cut = cut
        self._parts: dict[Any, list[NDArray[Any]]] = defaultdict(list)

    def add(self, inputs: torch.Tensor, labels: torch.Tensor) -> None:
        """A batch: (N, …) inputs and (N,) classes, where the networks are."""
        import torch
        from torch.nn import functional

        telescope, graph = self._telescope, self._telescope.graph
        values = graph.run(inputs)
        before = values[graph.result]
        after = self._cut(inputs)
        chain = [before, *telescope.measured(inputs, values)]
        confidence = [confidences(each, labels) for each in chain]
        answer = before.argmax(1)
        moves = telescope.moves(values)
        own = [telescope.bounds(move, labels) for move in moves]
        pairs = [telescope.bounds(move, answer) for move in moves]
        slack = _ROUNDING * before.abs().amax(1)
        for index, by_name in enumerate(own):
            # The last cut was measured first.
            step = len(own) - index
            moved = (confidence[step] - confidence[step - 1]).abs()
            bound = _largest(by_name["best"], labels)
            self._keep(("bound", index), bound)
            self._keep(("measured", index), moved)
            self._keep(("violated", index), moved > bound + slack)
        after_confidence = confidences(after, labels)
        for name in BOUNDS:
            total = _largest(torch.stack([by_name[name] for by_name in own]).sum(0), labels)
            self._keep(("total", name), total)
            reach = torch.stack([by_name[name] for by_name in pairs]).sum(0)
            gap = before.gather(1, answer[:, None]) - before
            # The answer itself is no rival.
            safe = (gap > reach).scatter(1, answer[:, None], True).all(1)
            self._keep(("safe", name), safe)
        # The last one is the best of them.
        near = (gap / reach.clamp(min=1e-300)).scatter(1, answer[:, None], float("inf")).amin(1)
        self._keep("reserve", torch.where(answer == labels, near, 0.0))
        same = after.argmax(1) == answer
        changed = safe & ~same
        self._keep("violated", ((after_confidence - confidence[0]).abs() > total + slack) | changed)
        self._keep("same", same)
        self._keep("right", answer == labels)
        self._keep("right after", after.argmax(1) == labels)
        self._keep("confidence", confidence[0])
        self._keep("confidence after", after_confidence)
        self._keep("loss", functional.cross_entropy(before, labels, reduction="none"))
        # log Σ_j exp(X_j − X_y), every rival as near as it can come.
        reach = torch.stack([by_name["best"] for by_name in own]).sum(0).scatter(1, labels[:, None], 0.0)
        rivals = before - before.gather(1, labels[:, None]) + reach
        self._keep("loss at most", rivals.logsumexp(1))
        self._keep("loss after", functional.cross_entropy(after, labels, reduction="none"))

    def certificate(self, data: str) -> Certificate:
        """All batches together; `data` says in words what was asked."""
        right, same, total = self._all("right"), self._all("same"), self._all(("total", "best"))
        before, after = self._all("confidence"), self._all("confidence after")
        bounds = {}
        for name in BOUNDS:
            safe = self._all(("safe", name))
            spread = Spread.of(self._all(("total", name)))
            bounds[name] = BoundOutcome(float((safe & right).mean()), float(safe.mean()), spread)
        layers, steps = [], []
        for index, unit in enumerate(self._telescope.graph.cuts):
            bound, moved = self._all(("bound", index)), self._all(("measured", index))
            steps.append(np.stack((bound, moved)))
            layers.append(
                LayerCertificate(
                    name=unit.name,
                    rank=unit.rank,
                    lipschitz=self._telescope.lipschitz(unit),
                    bound=Spread.of(bound),
                    measured=Spread.of(moved),
                    ratio=median_ratio(bound, moved),
                    violations=int(self._all(("violated", index)).sum()),
                )
            )
        return Certificate(
            data=data,
            samples=len(right),
            accuracy_before=float(right.mean()),
            accuracy_after=float(self._all("right after").mean()),
            accuracy_certified=bounds["best"].accuracy,
            same_answer=float(same.mean()),
            same_answer_certified=bounds["best"].same_answer,
            loss_before=float(self._all("loss").mean()),
            loss_after=float(self._all("loss after").mean()),
            loss_certified=float(self._all("loss at most").mean()),
            ratio=median_ratio(total, np.abs(after - before)),
            violations=int(self._all("violated").sum()) + sum(layer.violations for layer in layers),
            layers=tuple(layers),
            bounds=bounds,
            confidence=before,
            confidence_after=after,
            bound=total,
            reserve=self._all("reserve"),
            steps=tuple(steps),
        )

    def _keep(self, key: Any, values: torch.Tensor) -> None:
        self._parts[key].append(values.cpu().numpy())

    def _all(self, key: Any) -> NDArray[Any]:
        return np.concatenate(self._parts[key])


def confidences(answers: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(N,) δ = X_y − max_{j≠y} X_j of (N, classes) answers and (N,) true classes."""
    others = answers.scatter(1, labels[:, None], float("-inf"))
    return answers.gather(1, labels[:, None])[:, 0] - others.amax(1)


def _largest(pairs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(N,) the largest over the other classes: δ is the smallest of differences, and moves no farther than they."""
    return pairs.scatter(1, labels[:, None], 0.0).amax(1)
