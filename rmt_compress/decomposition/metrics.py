"""What the moments of a layer say of its matrix: how much an error in each of its rows and columns matters.

C ← (1−a)C + a(tr C/n)I, and G alike: a calibration sees few of the directions that a network is going to meet, and
none of them exactly as often. Where the layer has a bias, which takes up the mean, C is the covariance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch

from rmt_compress.layers.kinds import KINDS
from rmt_compress.spectrum import DegenerateSpectrumError, equalize
from rmt_compress.wording import times

if TYPE_CHECKING:
    from rmt_compress.decomposition.moments import LayerMoments
    from rmt_compress.layers.layer import Layer


class Shrinkage(NamedTuple):
    """How far second moments are drawn towards a multiple of the identity, 0 to 1.

    Attributes:
        inputs: a of C.
        outputs: a of G.
    """

    inputs: float = 0.001
    outputs: float = 0.1


@dataclass(frozen=True, eq=False)
class Metric:
    """The size of an error E of one matrix: ‖R^½ E S^½‖_F, R of the rows and S of the columns.

    Attributes:
        rows: R, (rows, rows); its diagonal, (rows,); 0-d for a multiple of the identity.
        columns: S, likewise.
    """

    rows: torch.Tensor
    columns: torch.Tensor


def moments_problem(layer: Layer, moments: LayerMoments) -> str | None:
    """Why moments are not those of a layer of this shape; None if they may be."""
    assert layer.matrix is not None
    kind = KINDS[layer.kind]
    outputs, inputs = reversed(layer.matrix) if kind.swaps else layer.matrix
    stack = (layer.matrices,) if kind.stacked else ()
    expected: tuple[tuple[str, torch.Tensor | None, tuple[tuple[int, ...], ...]], ...] = (
        ("inputs", moments.inputs, ((inputs, inputs), (inputs,))),
        ("mean", moments.mean, ((inputs,),)),
        ("outputs", moments.outputs, ((outputs, outputs), ())),
    )
    for name, tensor, shapes in expected:
        if tensor is None:
            continue
        allowed = [(*stack, *shape) for shape in shapes]
        if tuple(tensor.shape) not in allowed:
            wanted = times(allowed[0], scalar="one number")
            return f"its {name} are {times(tensor.shape, scalar='one number')}, not {wanted}"
        if not bool(tensor.isfinite().all()):
            return f"its {name} hold NaN or Inf"
    return None


def layer_metrics(
    layer: Layer, moments: LayerMoments, shrinkage: Shrinkage, *, gradients: bool, centred: bool
) -> tuple[Metric, ...]:
    """The metric of a layer's matrix, of each matrix of a stack.

    Args:
        layer: describes the weight.
        moments: of this layer, see `moments_problem`.
        shrinkage: how far they are shrunk.
        gradients: whether G counts; else every output does alike.
        centred: whether a bias takes up the mean.
    """
    kind = KINDS[layer.kind]
    if not kind.stacked:
        return (_metric(moments.inputs, moments.mean, moments.outputs, shrinkage, gradients, centred, kind.swaps),)
    outputs = [None] * layer.matrices if moments.outputs is None else moments.outputs.unbind(0)
    parts = zip(moments.inputs.unbind(0), moments.mean.unbind(0), outputs, strict=True)
    return tuple(_metric(*part, shrinkage, gradients, centred, kind.swaps) for part in parts)


def _metric(
    inputs: torch.Tensor,
    mean: torch.Tensor,
    outputs: torch.Tensor | None,
    shrinkage: Shrinkage,
    gradients: bool,
    centred: bool,
    swaps: bool,
) -> Metric:
    seen = inputs.double()
    if centred:
        mean = mean.double()
        seen = seen - (torch.outer(mean, mean) if seen.dim() == 2 else mean.square())
    felt = torch.ones((), dtype=torch.float64)
    if gradients and outputs is not None:
        felt = outputs.double()
    sides = shrunk(felt, shrinkage.outputs), shrunk(seen, shrinkage.inputs)
    return Metric(*reversed(sides)) if swaps else Metric(*sides)


def equalizing_metric(matrix: torch.Tensor) -> Metric:
    """The metric in which the noise of a matrix has one variance: 1/x of its rows and 1/y of its columns.

    A matrix of which half of the directions are zero has no noise that scales could be read from: its metric is
    that of a plain cut.

    Args:
        matrix: (rows, columns), on any device.

    Raises:
        NonFiniteError: an entry is NaN or Inf.
    """
    try:
        found = equalize(matrix.detach().double().cpu().numpy())
    except DegenerateSpectrumError:
        one = torch.ones((), dtype=torch.float64)
        return Metric(one, one)
    rows, columns = (torch.from_numpy(scales).to(matrix.device) for scales in (found.rows, found.columns))
    return Metric(1 / rows.square(), 1 / columns.square())


def shrunk(moment: torch.Tensor, share: float) -> torch.Tensor:
    """(1−a)C + a(tr C/n)I of a matrix (n, n), or of a diagonal (n,) of one; a 0-d multiple stays."""
    if moment.dim() == 0:
        return moment
    diagonal = moment.diagonal() if moment.dim() == 2 else moment
    centre = share * diagonal.mean()
    scaled = moment * (1.0 - share)
    (scaled.diagonal() if moment.dim() == 2 else scaled).add_(centre)
    return scaled
