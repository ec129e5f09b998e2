"""The network that is swept: weights that come and go, decomposed once."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from rmt_compress.decomposition.bases import basis_called, directions_of
from rmt_compress.decomposition.cuts import Cuts
from rmt_compress.decomposition.svd import Decomposition
from rmt_compress.errors import CompressionError, SettingsError
from rmt_compress.layers.layer import as_weight
from rmt_compress.layers.splitting import split_refusal
from rmt_compress.networks.calibration.statistics import renew_statistics
from rmt_compress.networks.evaluation import as_task
from rmt_compress.networks.replacing import replaced
from rmt_compress.networks.tasks.task import Task
from rmt_compress.planning.making import check_shrinkable, shrinks
from rmt_compress.planning.settings import PlanSettings, Shrink
from rmt_compress.spectrum import shrunk
from rmt_compress.sweep.results import Sweep, SweepCurve, SweepKind

if TYPE_CHECKING:
    import torch
    from torch import nn

    from rmt_compress.analysis import Analysis, AnalyzedLayer
    from rmt_compress.data.samples import Samples
    from rmt_compress.decomposition.metrics import Shrinkage
    from rmt_compress.decomposition.moments import Moments
    from rmt_compress.decomposition.svd import StackedDecomposition

POINTS = 10
"""Trials per curve, about."""


class SweepTarget:
    """A network, its analysis and the data it is asked: what all its sweeps share.

    Args:
        model: run where it is; between two trials it is as it was.
        analysis: of this very model.
        task: what it is asked; of data the task they are made for.
        path: the file it came from, for the record.
        batch_size: samples per forward pass; None for the task's own.
        basis: which directions are kept, as `Plan.basis` names it.
        moments: of the network's layers, for a calibrated basis.
        shrinkage: of the moments; None for the default.
        inputs: on which the statistics of batch norms are estimated anew after every cut, as `prune` does within a
            budget; None leaves them.

    Raises:
        PlanError: there is no such basis, or its moments are missing or not those of this network.
        CompressionError: an analysed weight is no plain parameter of the model.
    """

    def __init__(
        self,
        model: nn.Module,
        analysis: Analysis,
        task: Task | Samples,
        *,
        path: str | None = None,
        batch_size: int | None = None,
        basis: str = "plain",
        moments: Moments | None = None,
        shrinkage: Shrinkage | None = None,
        inputs: Iterable[Any] | None = None,
    ) -> None:
        self.model = model
        self.analysis = analysis
        self.task = as_task(task, model)
        self.path = path
        self._batch_size = batch_size
        self._samples = 0
        self._inputs = inputs
        self.shrink: Shrink = "none"
        self._weights = dict(model.named_parameters(remove_duplicate=False))
        directions = directions_of(
            [layer.layer for layer in analysis.layers],
            basis_called(basis),
            moments,
            shrinkage,
            only={layer.tensor for layer in analysis.analyzed},
            origin="the sweep",
        )
        self._cuts = Cuts(directions, lambda name: self._weights[name].detach())
        for layer in analysis.analyzed:
            if layer.layer.why_fixed or layer.layer.stored not in self._weights:
                raise CompressionError(
                    f"{layer.tensor} is no plain parameter of the model (parametrized?): remove the "
                    "parametrization, or leave the layer out with --exclude"
                )

    def shrinking(self, loss: Shrink) -> SweepTarget:
        """The same network, whose cuts shrink what they keep as `make_plan` does with this `shrink`.

        Raises:
            SettingsError: the analysis is of noise that nothing can be shrunk by, or there is no such loss.
        """
        check_shrinkable(PlanSettings(shrink=loss), self.analysis.settings)
        other = copy.copy(self)
        other.shrink = loss
        return other

    @cached_property
    def parameters(self) -> int:
        """Entries of all parameters, shared ones once."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @cached_property
    def score(self) -> float:
        """Of the network as it is."""
        return self.score_with({})

    def weight(self, tensor: str) -> torch.Tensor | None:
        """The parameter of this name, or the layer's part of one, detached; None where there is none."""
        if tensor in self._cuts.directions:
            return self._cuts.weight(tensor)
        parameter = self._weights.get(tensor)
        return None if parameter is None else parameter.detach()

    def nonzeros_outside(self, tensors: Collection[str]) -> int:
        """Entries that are not 0 in all parameters but these."""
        inside = [weight for name in tensors if (weight := self.weight(name)) is not None]
        everything = sum(int(each.count_nonzero()) for each in self.model.parameters())
        return everything - sum(int(each.count_nonzero()) for each in inside)

    def decomposition(self, layer: AnalyzedLayer) -> Decomposition | StackedDecomposition:
        """All singular values and vectors of a layer in the target's basis, computed once; shrunk where asked."""
        found = self._cuts.decomposition(layer.tensor)
        if self.shrink == "none" or not shrinks(layer, self.shrink):
            return found
        assert isinstance(found, Decomposition)  # a stack is not shrunk
        return found.shrunk(layer.fit.sigma2**0.5, self.shrink)

    def most(self, layer: AnalyzedLayer) -> int:
        """The largest rank that changes anything: directions of which a shrunk cut keeps nothing are no more."""
        if self.shrink == "none" or not shrinks(layer, self.shrink):
            return layer.fit.p
        kept = shrunk(layer.singular_values, layer.fit.sigma2**0.5, layer.matrix, self.shrink)
        return max(1, int((kept > 0).sum()))

    def truncated(self, layer: AnalyzedLayer, rank: int) -> torch.Tensor:
        """The weight with its `rank` largest singular values only, in its own shape."""
        return as_weight(layer.layer, self.decomposition(layer).truncated(rank))

    def score_with(self, weights: Mapping[str, torch.Tensor]) -> float:
        """The score with other weights in the layers of these tensors; biases change as the basis says."""
        with replaced(self.model, self._cuts.placed(weights)), self._mended(bool(weights)):
            result = self.task.score(self.model, batch_size=self._batch_size, name=self.path or "the model")
        self._samples = result.samples
        return result.value

    @contextmanager
    def _mended(self, cut: bool) -> Iterator[None]:
        """Batch norms with the statistics of the network as it is cut, where that is asked."""
        if self._inputs is None or not cut:
            yield
            return
        renewed = renew_statistics(self.model, self._inputs)
        try:
            yield
        finally:
            renewed.undo()

    def result(self, kind: SweepKind, curves: Sequence[SweepCurve]) -> Sweep:
        """A `Sweep` of this network."""
        full, samples = self.score, self.task.samples
        return Sweep(
            kind=kind,
            path=self.path,
            data=self.task.metric.name if samples is None else samples.name,
            samples=self._samples,
            parameters=self.parameters,
            score=full,
            curves=tuple(curves),
            metric=self.task.metric,
            shrink=self.shrink,
        )


def saving(layer: AnalyzedLayer, rank: int) -> int:
    """Parameters won by splitting a layer at this rank; 0 where it cannot be split or would grow."""
    if split_refusal(layer.layer) is not None or layer.layer.why_in_place is not None:
        return 0
    return max(0, layer.parameters - layer.layer.factor_parameters(rank))


def check_points(points: int) -> None:
    """Refuse a curve that has not two ends."""
    if points < 2:
        raise SettingsError([f"a sweep needs at least 2 points, got {points}"])
