"""How far moments are shrunk, chosen on inputs that they are not from (method.md §13).

Moments of one half of the batches cut some layers to a quarter of their directions, those of the other half say
what that costs. C is chosen first, by the cut that looks at inputs alone, then G with C as chosen: half a dozen
decompositions a layer, no run of a cut network.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.decomposition.metrics import Shrinkage
from rmt_compress.decomposition.moments import Moments
from rmt_compress.errors import DataError
from rmt_compress.layers.kinds import KINDS
from rmt_compress.networks.calibration.measuring import calibrate

if TYPE_CHECKING:
    import torch
    from torch import nn

    from rmt_compress.decomposition.metrics import Metric
    from rmt_compress.decomposition.moments import LayerMoments
    from rmt_compress.layers.layer import Layer

OF_INPUTS = (0.001, 0.01, 0.1)
OF_OUTPUTS = (0.1, 0.3, 0.5, 0.7)
LAYERS = 8
_WIDEST = 2048
_SHARE = 4


@dataclass(frozen=True)
class ChosenShrinkage:
    """What shrinkage leaves least of layers undone, on inputs that the moments are not from.

    Attributes:
        shrinkage: the best of those tried.
        inputs: a of C -> the mean over layers of the share of a layer's energy that the cut loses.
        outputs: a of G -> likewise, with C as chosen; empty where nothing is known of G.
        layers: names of the layers that were tried.
    """

    shrinkage: Shrinkage
    inputs: dict[float, float]
    outputs: dict[float, float]
    layers: tuple[str, ...]

    def recorded(self, moments: Moments) -> Moments:
        """The moments with the choice in their record."""
        choice: dict[str, Any] = {
            "inputs": self.shrinkage.inputs,
            "outputs": self.shrinkage.outputs,
            "lost": {
                "inputs": [[share, lost] for share, lost in self.inputs.items()],
                "outputs": [[share, lost] for share, lost in self.outputs.items()],
            },
            "layers": list(self.layers),
        }
        return replace(moments, record={**moments.record, "shrinkage": choice})


def choose_shrinkage(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    of_inputs: Sequence[float] = OF_INPUTS,
    of_outputs: Sequence[float] = OF_OUTPUTS,
    layers: Iterable[str] | None = None,
    **how: Any,
) -> ChosenShrinkage:
    """Choose the shrinkage of C and of G.

    Args:
        model: the network.
        batches: at least two, to be gone over several times; every other one judges.
        of_inputs: what is tried for C.
        of_outputs: what is tried for G.
        layers: names of the tensors to try; None for eight spread over the network, none of them very wide.
        how: as `calibrate` takes it (`call`, `scalar`, `seed`, `positions`, `memory`, `progress`).

    Raises:
        DataError: there are not two batches, or no layer to try, or what `calibrate` raises.
    """
    if sum(1 for _ in itertools.islice(iter(batches), 2)) < 2 or iter(batches) is batches:
        raise DataError(
            "shrinkage is chosen on inputs that the moments are not from; give two batches or more, in a list"
        )
    checkpoint = open_checkpoint(model)
    names = _spread(checkpoint.layers()) if layers is None else list(layers)
    some = calibrate(model, _EveryOther(batches, 0), layers=names, **how)
    others = calibrate(model, _EveryOther(batches, 1), layers=names, **how)
    tried = {
        layer.tensor: _Trial(layer, _matrix(checkpoint.read(layer.stored), layer), cutting, judging)
        for layer in checkpoint.layers()
        if (cutting := some.layers.get(layer.tensor)) is not None
        and (judging := others.layers.get(layer.tensor)) is not None
    }
    if not tried:
        raise DataError("shrinkage cannot be chosen: no layer was measured on both halves of the inputs")
    inputs = {
        share: _mean(trial.lost(Shrinkage(share, 0.0), gradients=False) for trial in tried.values())
        for share in of_inputs
    }
    best = min(inputs, key=inputs.__getitem__)
    outputs: dict[float, float] = {}
    if all(trial.has_gradients for trial in tried.values()):
        outputs = {
            share: _mean(trial.lost(Shrinkage(best, share), gradients=True) for trial in tried.values())
            for share in of_outputs
        }
    shrinkage = Shrinkage(best, min(outputs, key=outputs.__getitem__)) if outputs else Shrinkage(inputs=best)
    return ChosenShrinkage(shrinkage, inputs, outputs, tuple(tried))


class _EveryOther:
    """Every other batch."""

    def __init__(self, batches: Iterable[Any], first: int) -> None:
        self._batches = batches
        self._first = first

    def __iter__(self) -> Iterator[Any]:
        return itertools.islice(iter(self._batches), self._first, None, 2)


@dataclass(frozen=True)
class _Trial:
    """A layer with the moments that cut it and those that judge."""

    layer: Layer
    matrix: torch.Tensor
    cutting: LayerMoments
    judging: LayerMoments

    @property
    def has_gradients(self) -> bool:
        return all(own.outputs is not None and own.outputs.dim() > 0 for own in (self.cutting, self.judging))

    def lost(self, shrinkage: Shrinkage, *, gradients: bool) -> float:
        """Share of the layer's energy that a cut loses in the eyes of the other half."""
        from rmt_compress.decomposition.calibrated import decompose_in
        from rmt_compress.decomposition.metrics import layer_metrics

        (metric,) = layer_metrics(self.layer, self.cutting, shrinkage, gradients=gradients, centred=False)
        (judge,) = layer_metrics(self.layer, self.judging, Shrinkage(0.0, 0.0), gradients=gradients, centred=False)
        found = decompose_in(self.matrix, metric, max(1, min(self.matrix.shape) // _SHARE))
        down, up = found.factors(found.rank)
        return _energy(self.matrix - up.double() @ down.double(), judge) / _energy(self.matrix, judge)


def _energy(matrix: torch.Tensor, metric: Metric) -> float:
    """‖R^½ E S^½‖_F², without roots."""
    rows, columns = metric.rows, metric.columns
    left = rows @ matrix if rows.dim() == 2 else rows.reshape(-1, 1) * matrix
    right = matrix @ columns if columns.dim() == 2 else matrix * columns
    return float((left * right).sum())


def _matrix(weight: torch.Tensor, layer: Layer) -> torch.Tensor:
    from rmt_compress.layers.layer import as_matrix

    if layer.part is not None:
        weight = weight[layer.part.start : layer.part.stop]
    return as_matrix(layer, weight).double()


def _spread(layers: Sequence[Layer]) -> list[str]:
    """Names of some layers, spread over the network."""
    fitting = [
        layer.tensor
        for layer in layers
        if KINDS[layer.kind].splits
        and not KINDS[layer.kind].stacked
        and layer.skip_reason(min_size=2 * _SHARE) is None
        and layer.matrix is not None
        and max(layer.matrix) <= _WIDEST
    ]
    if len(fitting) <= LAYERS:
        return fitting
    return [fitting[round(place * (len(fitting) - 1) / (LAYERS - 1))] for place in range(LAYERS)]


def _mean(numbers: Iterable[float]) -> float:
    found = list(numbers)
    return sum(found) / len(found)
