"""Which directions of a weight are kept, one row per basis; how many is the rank rule's business."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from rmt_compress.errors import PlanError
from rmt_compress.layers.kinds import KINDS
from rmt_compress.layers.layer import as_matrix

if TYPE_CHECKING:
    import torch

    from rmt_compress.decomposition.svd import Decomposition, StackedDecomposition
    from rmt_compress.layers.layer import Layer


class Basis(Protocol):
    """What every basis is: a function that gives a weight's directions, the most important first."""

    def __call__(self, layer: Layer, matrix: torch.Tensor, rank: int | None = None) -> Decomposition:
        """The `rank` leading directions of a layer's `matrix`, all for None; raises what `decompose` raises."""


def plain(layer: Layer, matrix: torch.Tensor, rank: int | None = None) -> Decomposition:
    """The singular vectors of the weight itself: of all matrices of a rank the nearest one is kept (SJK23 §4.2)."""
    from rmt_compress.decomposition.svd import decompose

    del layer
    return decompose(matrix, rank)


def decompose_weight(
    basis: Basis, layer: Layer, weight: torch.Tensor, rank: int | None = None
) -> Decomposition | StackedDecomposition:
    """The directions of a weight of the layer's shape; of a stack those of each of its matrices.

    Raises:
        NonFiniteError: an entry is NaN or Inf.
    """
    from rmt_compress.decomposition.svd import StackedDecomposition

    matrix = as_matrix(layer, weight)
    if not KINDS[layer.kind].stacked:
        return basis(layer, matrix, rank)
    return StackedDecomposition(tuple(basis(layer, each, rank) for each in matrix.unbind(0)))


BASES: dict[str, Basis] = {"plain": plain}


def basis_called(name: str) -> Basis:
    """The basis that a plan names; a `PlanError` where there is none."""
    if name not in BASES:
        raise PlanError(f"the plan asks for the basis {name!r}, which is not known: there is {', '.join(BASES)}")
    return BASES[name]
