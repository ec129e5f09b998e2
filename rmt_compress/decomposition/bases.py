"""Which directions of a weight are kept, one row per basis; how many is the rank rule's business.

    plain       those of the weight: of all matrices of a rank the nearest one is kept (SJK23 §4.2)
    input       those that carry the outputs on the inputs that occur (DRONE 2021, SVD-LLM, BALF)
    two-sided   those that move the loss, by the gradients at the outputs as well (LEMS)
    equalized   those of the weight once the scales of its rows and columns are taken out (method.md §15)

A row decomposes one matrix; `Directions` is a row made ready for one layer, whose moments the calibrated ones need.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rmt_compress.errors import PlanError
from rmt_compress.layers.biases import own_biases
from rmt_compress.layers.kinds import KINDS
from rmt_compress.layers.layer import as_matrix
from rmt_compress.wording import listed, problems_listed

if TYPE_CHECKING:
    import torch

    from rmt_compress.decomposition.metrics import Metric, Shrinkage
    from rmt_compress.decomposition.moments import LayerMoments, Moments
    from rmt_compress.decomposition.svd import Decomposition, StackedDecomposition
    from rmt_compress.layers.layer import Layer

Decompose = Callable[["Layer", "torch.Tensor", int | None, "Metric | None"], "Decomposition"]
"""The `rank` leading directions of a layer's matrix, all for None, the most important first, in a metric where the
basis has one; raises what `decompose` raises."""


@dataclass(frozen=True)
class Basis:
    """One way to choose directions.

    Attributes:
        name: in plans and on the command line.
        decompose: gives the directions of a matrix.
        calibrated: whether it looks at the second moments of inputs, C.
        gradients: whether it looks at those of the gradients at the outputs, G.
    """

    name: str
    decompose: Decompose
    calibrated: bool = False
    gradients: bool = False


def _plain(layer: Layer, matrix: torch.Tensor, rank: int | None, metric: Metric | None) -> Decomposition:
    from rmt_compress.decomposition.svd import decompose

    del layer, metric
    return decompose(matrix, rank)


def _calibrated(layer: Layer, matrix: torch.Tensor, rank: int | None, metric: Metric | None) -> Decomposition:
    from rmt_compress.decomposition.calibrated import decompose_in

    if metric is None:
        return _plain(layer, matrix, rank, None)
    return decompose_in(matrix, metric, rank)


def _equalized(layer: Layer, matrix: torch.Tensor, rank: int | None, metric: Metric | None) -> Decomposition:
    from rmt_compress.decomposition.calibrated import decompose_in
    from rmt_compress.decomposition.metrics import equalizing_metric

    del layer, metric
    return decompose_in(matrix, equalizing_metric(matrix), rank)


PLAIN = Basis("plain", _plain)
BASES: dict[str, Basis] = {
    basis.name: basis
    for basis in (
        PLAIN,
        Basis("input", _calibrated, calibrated=True),
        Basis("two-sided", _calibrated, calibrated=True, gradients=True),
        Basis("equalized", _equalized),
    )
}


def basis_called(name: str) -> Basis:
    """The basis that a plan names; a `PlanError` where there is none."""
    if name not in BASES:
        raise PlanError(f"the plan asks for the basis {name!r}, which is not known: there is {', '.join(BASES)}")
    return BASES[name]


@dataclass(frozen=True, eq=False)
class Directions:
    """How one layer is cut, whatever the rank.

    Attributes:
        layer: the layer.
        basis: which directions are kept.
        moments: of the layer; None for a plain cut.
        shrinkage: of the moments; None for the default.
        bias: the bias that takes up the mean of what is cut; None where there is none.
        why_plain: why the cut is plain in a plan of another basis.
    """

    layer: Layer
    basis: Basis = PLAIN
    moments: LayerMoments | None = field(default=None, repr=False)
    shrinkage: Shrinkage | None = None
    bias: str | None = None
    why_plain: str | None = None

    def decompose(self, weight: torch.Tensor, rank: int | None = None) -> Decomposition | StackedDecomposition:
        """The directions of a weight of the layer's shape; of a stack those of each of its matrices.

        Raises:
            NonFiniteError: an entry is NaN or Inf.
        """
        from rmt_compress.decomposition.svd import StackedDecomposition

        matrix, layer, basis = as_matrix(self.layer, weight), self.layer, self.basis
        metrics = self._metrics()
        if not KINDS[layer.kind].stacked:
            return basis.decompose(layer, matrix, rank, metrics[0])
        parts = zip(matrix.unbind(0), metrics, strict=True)
        return StackedDecomposition(tuple(basis.decompose(layer, part, rank, metric) for part, metric in parts))

    def correction(self, weight: torch.Tensor, cut: torch.Tensor) -> torch.Tensor | None:
        """What the bias must gain for the mean of the outputs to stay: (W − W′)E[x], (rows,), in float64.

        Args:
            weight: of the layer's shape, as it was.
            cut: as it has become, of the same shape.

        Returns:
            None where there is no bias or no mean.
        """
        if self.bias is None or self.moments is None:
            return None
        change = as_matrix(self.layer, weight.double()) - as_matrix(self.layer, cut.double())
        return change @ self.moments.mean.to(change.device, change.dtype)

    def _metrics(self) -> Sequence[Metric | None]:
        from rmt_compress.decomposition.metrics import Shrinkage, layer_metrics

        if self.moments is None:
            return [None] * self.layer.matrices
        return layer_metrics(
            self.layer,
            self.moments,
            self.shrinkage or Shrinkage(),
            gradients=self.basis.gradients,
            centred=self.bias is not None,
        )


def directions_of(
    layers: Sequence[Layer],
    basis: Basis,
    moments: Moments | None,
    shrinkage: Shrinkage | None = None,
    *,
    only: Collection[str] | None = None,
    origin: str = "the plan",
) -> dict[str, Directions]:
    """Tensor of each layer that is read as a matrix -> how it is cut.

    Args:
        layers: all of a checkpoint.
        basis: which directions are kept.
        moments: of these layers; of no meaning for the plain basis.
        shrinkage: of the moments.
        only: the tensors that are asked for; None for all.
        origin: what asks for the basis, for messages.

    Raises:
        PlanError: a calibrated basis without moments, or with those of another network.
    """
    matrices = [
        layer
        for layer in layers
        if layer.matrix is not None and layer.pair is None and (only is None or layer.tensor in only)
    ]
    if not basis.calibrated:
        return {layer.tensor: Directions(layer, basis) for layer in matrices}
    if moments is None:
        raise PlanError(
            f"{origin} asks for the basis {basis.name}, which needs the moments of the layers; give those that the "
            "network was calibrated with, or choose the basis plain"
        )
    _check_moments(matrices, {layer.tensor for layer in layers}, moments)
    biases = own_biases(layers)
    found = {}
    for layer in matrices:
        own = moments.layers.get(layer.tensor)
        if own is None:
            why = moments.left_out.get(layer.tensor, "calibration knows nothing of it")
            found[layer.tensor] = Directions(layer, why_plain=why)
        else:
            found[layer.tensor] = Directions(layer, basis, own, shrinkage, biases.get(layer.tensor))
    return found


def _check_moments(layers: Sequence[Layer], tensors: Collection[str], moments: Moments) -> None:
    from rmt_compress.decomposition.metrics import moments_problem

    problems = []
    if strange := [name for name in moments.layers if name not in tensors]:
        problems.append(f"there is no layer {listed(strange, 3)}")
    elif not moments.layers:
        problems.append("they are of no layer at all")
    for layer in layers:
        own = moments.layers.get(layer.tensor)
        if own is not None and layer.groups == 1 and (problem := moments_problem(layer, own)) is not None:
            problems.append(f"{layer.tensor}: {problem}")
    if problems:
        raise PlanError(
            f"the moments are not those of this network: {problems_listed(problems)}; calibrate it anew"
        )
